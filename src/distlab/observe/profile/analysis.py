"""What the analysis of a profile holds: `analysis.json` in the profile's folder, as frozen dataclasses.

    analysis = read_analysis(Path("profile"))
    for rank in analysis.ranks:
        print(rank.rank, rank.median.step_s, rank.median.exposed_s)

All times are in seconds. Times of day on the merged time line count from the start of the first profiled step of any
rank. Of each step the identity holds: compute_s + exposed_s + data_s + idle_s = step_s.
"""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from distlab.errors import SettingError, printable
from distlab.files import read_limited, write_whole

FORMAT = 1
ANALYSIS = "analysis.json"
PROFILE = "profile.json"
MERGED = "merged.trace.json.gz"
MOST_BYTES = 64 * 2**20
"""Of an analysis or a description that is read; a real one of 64 ranks has a few MiB."""
TOLERANCE_S = 1e-5
"""How far the parts of a step may miss its duration: rounding."""

_STRICT: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False, "strict": True}


@dataclass(frozen=True)
class StepTimes:
    """One step of one rank. Each moment of it is counted once, in the first of these that applies to it.

    On a CPU, the thread that calls `profiler.step()`: data, compute, exposed communication, idle. On a GPU, the
    device: compute, exposed communication; while it has nothing to do, data where the host loads it, else idle.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    step: int
    """As `ProfilerStep#` counts: the number of `profiler.step()` calls before it in this process."""
    start_s: float
    """On the merged time line."""
    step_s: float
    compute_s: float
    """Some operator (CPU) or some kernel or copy (GPU) runs; communication may run beside it."""
    communication_s: float
    """Some collective or transfer between ranks is under way, hidden or not; no part of the identity."""
    exposed_s: float
    """Communication is under way, and nothing hides it."""
    data_s: float
    idle_s: float
    """None of the above: Python between operators, sleep, waits that no annotation names."""

    @property
    def own_s(self) -> float:
        """What the rank took for itself, without waiting for others: a straggler's is long."""
        return self.step_s - self.exposed_s

    @property
    def hidden_s(self) -> float:
        """Communication that cost nothing, as something else ran."""
        return self.communication_s - self.exposed_s


@dataclass(frozen=True)
class Operator:
    """One operator or kernel, over all profiled steps of a rank."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    device: Literal["cpu", "gpu"]
    count: int
    self_s: float
    """Without the operators that it called."""
    share: float
    """Of the self time of all operators on that device, communication included."""
    shapes: str
    """Input shapes that took most of its time; "" where they were not recorded."""


@dataclass(frozen=True)
class Collective:
    """One kind of communication, over all profiled steps of a rank."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str
    """As in the trace: `gloo:all_reduce`, `ncclDevKernel_AllReduce_Sum_f32_RING_LL`."""
    count: int
    elements: int
    """Of all calls' inputs together; 0 where the trace does not tell."""
    total_s: float
    median_s: float


@dataclass(frozen=True)
class MemoryLine:
    """What tensors held on one device over the profiled time."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    device: str
    """`cpu`, `gpu:0`."""
    peak_bytes: int
    """On a CPU, beyond what was held when profiling began."""
    peak_at_s: float
    """On the merged time line."""
    peak_step: int | None
    """None between steps."""
    points: tuple[tuple[float, int], ...]
    """(time, bytes) on the merged time line; thinned, each peak kept."""
    counted_from_start: bool
    """True: bytes are counted from 0 at the first event (CPU). False: what the allocator says it holds (GPU)."""


@dataclass(frozen=True)
class RankProfile:
    """One rank."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    rank: int
    host: str
    pid: int
    device: Literal["cpu", "gpu"]
    """Where its operators were timed."""
    steps_seen: int | None
    """How many steps the run had on this rank, profiled or not."""
    steps: tuple[StepTimes, ...]
    operators: tuple[Operator, ...]
    """The top ones, by self time."""
    collectives: tuple[Collective, ...]
    memory: tuple[MemoryLine, ...]
    profiled_step_s: float | None
    """Median on the process's own clock, with the profiler on."""
    unprofiled_step_s: float | None
    """The same with it off; None where no such step was seen."""
    unprofiled_steps: int
    """How many steps that median is of."""

    @property
    def median(self) -> StepTimes:
        """The step whose duration is the median one; ValueError where no step was profiled."""
        ordered = sorted(self.steps, key=lambda step: step.step_s)
        if not ordered:
            raise ValueError(f"rank {self.rank} has no profiled step")
        return ordered[len(ordered) // 2]

    def mean(self) -> dict[str, float]:
        """Mean seconds per step of each part: step_s, compute_s, communication_s, exposed_s, data_s, idle_s.

        Means, as medians of parts do not add up to the median of the whole. Empty without steps.
        """
        return {
            name: sum(getattr(step, name) for step in self.steps) / len(self.steps)
            for name in PARTS
            if self.steps
        }

    @property
    def overhead(self) -> float | None:
        """What the profiler itself costs, as a share of an unprofiled step: 0.1 is 10% longer."""
        if not self.profiled_step_s or not self.unprofiled_step_s:
            return None
        return self.profiled_step_s / self.unprofiled_step_s - 1


PARTS = ("step_s", "compute_s", "communication_s", "exposed_s", "data_s", "idle_s")


@dataclass(frozen=True)
class Straggler:
    """What the comparison of ranks says of one of them; see stragglers.py for the rule."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    rank: int
    verdict: Literal["even", "noise", "persistent"]
    """noise: behind in some steps, but not in so many that chance is ruled out."""
    own_s: float
    """Median seconds per step that it took without waiting for others."""
    excess_s: float
    """Median seconds per step beyond the median of the other ranks; negative for a rank that is ahead."""
    robust_z: float
    """excess_s in units of the steps' own noise (1.4826 MAD)."""
    steps_behind: int
    """Steps in which it took longest, by more than noise."""
    steps_compared: int
    last_arrivals: int
    """Collectives that it entered last, by a notable part of a step."""
    collectives_compared: int
    cause: Literal["compute", "data", "idle", "none"]
    """Which part of its own time makes up most of the excess."""
    sentence: str


@dataclass(frozen=True)
class Clock:
    """How a rank's clock was brought onto the merged time line."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    rank: int
    host: str
    offset_s: float
    """Subtracted from the rank's own time."""
    uncertainty_s: float | None
    """The true offset lies within this of `offset_s`; 0 on the host of the first rank, None where nothing tells."""
    how: str


@dataclass(frozen=True)
class FlameGraph:
    """py-spy's samples of the Python stacks of one rank."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    rank: int
    svg: str | None
    """File name in the profile's folder."""
    speedscope: str | None
    seconds: float
    """How long each was sampled."""


@dataclass(frozen=True)
class Comparison:
    """A rank's GPU trace as HolisticTraceAnalysis and as this package read it, in percent of the busy span."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    rank: int
    compute_percent: float
    hta_compute_percent: float
    idle_percent: float
    hta_idle_percent: float
    overlap_percent: float | None
    """Of the communication time, what computation hides; None without communication."""
    hta_overlap_percent: float | None


@dataclass(frozen=True)
class Analysis:
    """The whole."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    stamp: dict[str, Any]
    """The fields of `distlab.bench.stamp.Stamp`, written by the first rank; empty where no rank wrote one."""
    command: str
    exit_code: int | None
    """Of the profiled command; None where it did not end, or nobody saw it end."""
    tier: Literal["gpu", "cpu", "simulated"]
    """Read off the traces."""
    world_size: int
    ranks: tuple[RankProfile, ...]
    """By number; only those that left a trace that can be read."""
    missing_ranks: tuple[int, ...]
    stragglers: tuple[Straggler, ...]
    clocks: tuple[Clock, ...]
    flame_graph: FlameGraph | None
    hta: tuple[Comparison, ...]
    problems: tuple[str, ...]
    """One sentence for each thing that is missing or not as it should be."""
    format: int = FORMAT

    @property
    def slowest(self) -> Straggler | None:
        """The rank that holds the others back, if one does persistently."""
        found = [straggler for straggler in self.stragglers if straggler.verdict == "persistent"]
        return max(found, key=lambda straggler: straggler.excess_s, default=None)

    def to_json(self) -> str:
        """JSON text that `from_json` reads."""
        return json.dumps(asdict(self), allow_nan=False)


def from_json(text: str | bytes, where: str = "analysis") -> Analysis:
    """The analysis in JSON text that anybody may have written; SettingError where it is none.

    where: how the message names it. Strings come without what a terminal would obey.
    """
    import pydantic

    try:
        content = clean_json(text)
        values = json.loads(content)
        if isinstance(values, dict) and values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')!r}, not {FORMAT}")
        analysis = pydantic.TypeAdapter(Analysis).validate_json(content)
        for rank in analysis.ranks:
            for step in rank.steps:
                _check_identity(rank.rank, step)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise SettingError(
            f"{where} is not an analysis of a profile: {printable(at)[:100]}: {first['msg'].lower()}; make it "
            "again with `distlab profile analyze`."
        ) from None
    except (ValueError, RecursionError) as error:
        raise SettingError(
            f"{where} is not an analysis of a profile ({printable(str(error))[:200]}); make it again with "
            "`distlab profile analyze`."
        ) from None
    return analysis


def read_analysis(folder: Path) -> Analysis:
    """`analysis.json` of a profile's folder. SettingError where it is missing or damaged."""
    path = folder / ANALYSIS
    try:
        content = read_limited(path, MOST_BYTES)
    except FileNotFoundError:
        if any(folder.glob("rank_*.trace.json*")):
            command = f"distlab profile analyze {shlex.quote(str(folder))}"
            raise SettingError(
                f"{folder} holds traces, but no {ANALYSIS} yet; make it with `{command}`."
            ) from None
        raise SettingError(
            f"{folder} holds no {ANALYSIS} and no trace; expected the folder of a profile: make one with "
            "`distlab profile run`."
        ) from None
    except OSError as error:
        raise SettingError(f"Cannot read {path}: {error}.") from None
    return from_json(content, str(path))


def write_analysis(folder: Path, analysis: Analysis) -> None:
    """Write `analysis.json`, whole or not at all."""
    write_whole(folder / ANALYSIS, analysis.to_json().encode())


def _check_identity(rank: int, step: StepTimes) -> None:
    parts = (step.compute_s, step.exposed_s, step.data_s, step.idle_s, step.communication_s)
    if min(parts) < 0 or not math.isclose(sum(parts[:4]), step.step_s, rel_tol=1e-6, abs_tol=TOLERANCE_S):
        raise ValueError(f"the parts of step {step.step} of rank {rank} do not make up the step")


def clean_json(text: str | bytes) -> str:
    """The same JSON without what a terminal would obey; ValueError or RecursionError for what is none.

    NaN, infinity and numbers beyond all floats are none, though Python's reader takes them.
    """
    return json.dumps(_clean(json.loads(text)), allow_nan=False)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value
