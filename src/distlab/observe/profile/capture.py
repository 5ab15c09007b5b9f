"""Recording a rank's steps with torch.profiler, in any training loop.

    with profiled() as profiler:
        for batch in batches:
            with profiler.data():
                inputs, targets = next_batch()
            ...
            profiler.step()

Nothing is recorded, and nothing of torch is imported here, unless the environment asks for it, as `distlab profile
run` has it do: DISTLAB_PROFILE names the folder and DISTLAB_PROFILE_OPTIONS the options as JSON. The trainer of
`distlab train` has this around its loop.

Ctrl-C while it is recorded ends the loop by KeyboardInterrupt, also where it would end the process, and between two
moves of the profiler: what was recorded until then is kept.

Each rank counts its steps: `wait` go by without the profiler (their time is what the profiler's own cost is measured
against; the first one, which is cold, does not count), `warmup` with it but thrown away, `steps` recorded. Then the
rank writes `rank_N.trace.json.gz`, and `rank_N.json` tells what it did.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from distlab.errors import SettingError
from distlab.files import read_limited, write_whole
from distlab.observe.profile.analysis import clean_json
from distlab.observe.profile.interrupts import Interrupts
from distlab.observe.profile.traces import DATA, MOST_RANK

if TYPE_CHECKING:
    import torch

FOLDER = "DISTLAB_PROFILE"
OPTIONS = "DISTLAB_PROFILE_OPTIONS"
MOST_STEPS = 1000
LATEST = 20
"""Unprofiled steps before the profile, and as many after it, that a median is taken of.

The last ones: the first warm up, and those that follow the recording at once are slowed by py-spy, if it is asked for.
"""


@dataclass(frozen=True)
class CaptureOptions:
    """What is recorded, and of which steps."""

    steps: int = 10
    """Steps that are recorded."""
    warmup: int = 2
    """Steps before them that run under the profiler, too, and are thrown away: starting it takes time."""
    wait: int = 5
    """Steps before those that run without it."""
    memory: bool = False
    """Record every allocation: the memory time line, and on a GPU the allocator's snapshot."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("warmup", 0), ("wait", 0)):
            value = getattr(self, name)
            if not least <= value <= MOST_STEPS:
                raise SettingError(
                    f"{name} is {value}; it must be {least} or more, and at most {MOST_STEPS}."
                )

    @property
    def first(self) -> int:
        """The number of the first step that is recorded, counted from 0."""
        return self.wait + self.warmup

    def begun(self, steps_seen: int) -> bool:
        """Does recording begin, with the next step at the latest? A rank writes its report by then."""
        return steps_seen >= self.first - 1

    @property
    def needed(self) -> int:
        """Steps that a run must take for all of it."""
        return self.first + self.steps

    def environment(self, folder: Path) -> dict[str, str]:
        """The variables that have `profiled` record into a folder."""
        return {
            FOLDER: str(folder.resolve()),
            OPTIONS: json.dumps(asdict(self)),
            "KINETO_LOG_LEVEL": "100",  # else torch's profiler writes two lines of its own for each rank
        }


@dataclass(frozen=True)
class RankReport:
    """`rank_N.json`: what a rank says of its own profile."""

    rank: int
    world_size: int
    host: str
    pid: int
    options: CaptureOptions
    steps_seen: int
    """Steps that it has taken so far."""
    steps_profiled: int
    """How many were recorded whole."""
    profiled_step_s: float | None
    """Median."""
    unprofiled_step_s: float | None
    unprofiled_steps: int
    done: bool
    """Is the trace written?"""
    problem: str
    """Why there is no trace, or not all of it; "" where nothing is amiss."""
    stamp: dict[str, Any] = field(default_factory=dict)

    @property
    def whole_steps(self) -> range:
        """The numbers of the steps that were recorded from beginning to end."""
        first = self.options.first
        return range(first, first + self.steps_profiled)


def profiled(device: torch.device | None = None) -> AbstractContextManager[Profiler]:
    """Around a training loop: record as the environment asks, or do nothing.

    device: where the rank computes; by default its current GPU, if it has one, else the CPU.
    """
    folder = os.environ.get(FOLDER)
    return _recording(Path(folder), device) if folder else contextlib.nullcontext(Profiler())


class Profiler:
    """What `profiled` gives where nothing is to be recorded; `Recorder` is the other."""

    def step(self) -> None:
        """A step ends here, and the next begins."""

    def data(self) -> AbstractContextManager[Any]:
        """Around what brings a step its batch."""
        return _NOTHING


_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


@contextlib.contextmanager
def _recording(folder: Path, device: torch.device | None) -> Iterator[Profiler]:
    recorder = Recorder(folder, _options(), device)
    recorder.start()
    try:
        yield recorder
    finally:
        kind = sys.exc_info()[0]
        recorder.stop(failed=kind is not None, interrupted=kind is KeyboardInterrupt)


def _options() -> CaptureOptions:
    text = os.environ.get(OPTIONS, "{}")
    try:
        return CaptureOptions(**json.loads(text))
    except (ValueError, TypeError) as error:
        if isinstance(error, SettingError):
            raise
        raise SettingError(
            f"{OPTIONS} is {text[:80]!r}; expected what `distlab profile run` sets, or unset {FOLDER}."
        ) from None


class Recorder(Profiler):
    """Records the steps of this rank. A fault of the profile never ends the run: `rank_N.json` tells of it."""

    def __init__(self, folder: Path, options: CaptureOptions, device: torch.device | None = None) -> None:
        import torch
        import torch.distributed as dist

        self.folder, self.options = folder, options
        in_group = dist.is_available() and dist.is_initialized()
        self.rank, self.world_size = (
            (dist.get_rank(), dist.get_world_size())
            if in_group
            else (_number("RANK", 0), _number("WORLD_SIZE", 1))
        )
        on_gpu = torch.cuda.is_available() and (device is None or device.type == "cuda")
        self.device = (
            (device or torch.device("cuda", torch.cuda.current_device())) if on_gpu else torch.device("cpu")
        )
        self.seen = 0
        self.ends: list[int] = []
        """When each step ended, perf_counter_ns; the beginning of the first one comes first."""
        self.resumed_at: dict[int, int] = {}
        """When a step began that did not begin with the end of the one before: the profiler was busy meanwhile."""
        self.done, self.problem = False, ""
        self.recorded = 0
        self.profile: torch.profiler.profile | None = None
        self.interrupts = Interrupts()
        self.stamp: dict[str, Any] = {}

    def start(self) -> None:
        """Begin to count steps."""
        from distlab.bench.stamp import stamp

        self.stamp = asdict(stamp(self.device))
        self.interrupts.catch()
        with self.interrupts.later():
            self._start()

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile, schedule

        options = self.options
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        try:
            self.profile = profile(
                activities=activities,
                schedule=schedule(wait=options.wait, warmup=options.warmup, active=options.steps, repeat=1),
                on_trace_ready=self._write_trace,
                record_shapes=True,
                profile_memory=options.memory,
            )
            self.profile.start()
            if self.device.type == "cuda" and options.memory:
                _record_history(True)
        except Exception as error:
            self._fail("The profiler did not start", error)
        self.ends.append(time.perf_counter_ns())
        self._report()

    def step(self) -> None:
        """A step ends here; the recording begins and ends between steps. Raises KeyboardInterrupt of a late Ctrl-C."""
        with self.interrupts.later():
            self._step()

    def _step(self) -> None:
        self.seen += 1
        self.ends.append(time.perf_counter_ns())
        if self.profile is None:
            return
        if (
            self.seen == self.options.first - 1
        ):  # not at `first`: a rank that is late would look like a straggler
            self._report()
        try:
            self.profile.step()
        except Exception as error:  # such as a folder that is gone, or full
            self._fail("The profiler failed", error)
        if self.seen == self.options.needed:
            self._stop_profile()
            self._report()
            self.interrupts.release()
        if self.seen in (self.options.first - 1, self.options.wait, self.options.first, self.options.needed):
            self.resumed_at[self.seen] = time.perf_counter_ns()

    def data(self) -> AbstractContextManager[Any]:
        """An annotation in the trace, while there is one."""
        if self.profile is None:
            return _NOTHING
        from torch.profiler import record_function

        return record_function(DATA)

    def stop(self, failed: bool, interrupted: bool = False) -> None:
        """The loop is through, or failed, by Ctrl-C where `interrupted`: keep what was recorded."""
        why = "was interrupted" if interrupted else "failed" if failed else "was over"
        with _late_sigterm() if failed else _NOTHING, self.interrupts.later(raises=not failed):
            try:
                self._stop_profile()
            except Exception as error:
                self._fail("The profile was not written", error)
            if not self.recorded and not self.problem:
                self.problem = (
                    f"No step was profiled on rank {self.rank}: the run {why} "
                    f"after {self.seen} steps, and recording begins after {self.options.first}"
                )
            self._report()
            self.interrupts.release()

    def _stop_profile(self) -> None:
        profile, self.profile = self.profile, None
        if profile is not None:
            profile.stop()
            if self.device.type == "cuda" and self.options.memory:
                self._write_snapshot()

    def _write_trace(self, profile: torch.profiler.profile) -> None:
        self.recorded = max(0, min(self.seen - self.options.first, self.options.steps))
        if not self.recorded:
            return
        part = self.folder / f".rank_{self.rank}.{os.getpid()}.part.gz"
        profile.export_chrome_trace(str(part))
        part.replace(self.folder / f"rank_{self.rank}.trace.json.gz")
        self.done = True

    def _write_snapshot(self) -> None:
        """The allocator's history and state, as https://pytorch.org/memory_viz reads it."""
        import torch

        try:
            dump: Callable[[str], None] = torch.cuda.memory._dump_snapshot
            dump(str(self.folder / f"rank_{self.rank}.snapshot.pickle"))
            _record_history(False)
        except Exception as error:
            self._fail("The memory snapshot was not written", error)

    def _fail(self, what: str, error: Exception) -> None:
        self.profile = None
        self.problem = (
            f"{what} on rank {self.rank}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )

    def _report(self) -> None:
        first = self.options.first
        profiled_s = self._durations(range(first, first + self.recorded))
        before = self._durations(range(1, self.options.wait))
        after = self._durations(range(self.options.needed, self.seen))
        plain = before[-LATEST:] + after[-LATEST:]
        report = RankReport(
            rank=self.rank,
            world_size=self.world_size,
            host=platform.node(),
            pid=os.getpid(),
            steps_seen=self.seen,
            options=self.options,
            steps_profiled=self.recorded,
            profiled_step_s=median(profiled_s) if profiled_s else None,
            unprofiled_step_s=median(plain) if plain else None,
            unprofiled_steps=len(plain),
            done=self.done,
            problem=self.problem,
            stamp=self.stamp,
        )
        with contextlib.suppress(OSError):  # the folder is gone: the run goes on
            write_whole(self.folder / f"rank_{self.rank}.json", json.dumps(asdict(report)).encode())

    def _durations(self, steps: range) -> list[float]:
        """Seconds of those steps that are over."""
        return [
            (self.ends[step + 1] - self.resumed_at.get(step, self.ends[step])) * 1e-9
            for step in steps
            if step + 1 < len(self.ends)
        ]


@contextlib.contextmanager
def _late_sigterm() -> Iterator[None]:
    """Die of a SIGTERM only afterwards: a launcher ends the ranks that are left as soon as one has failed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if came:
            os.kill(os.getpid(), signal.SIGTERM)


def _record_history(on: bool) -> None:
    import torch

    if on:
        torch.cuda.memory._record_memory_history(max_entries=100_000)
    else:
        torch.cuda.memory._record_memory_history(enabled=None)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) <= MOST_RANK else default


MOST_REPORT_BYTES = 2**20


def read_report(folder: Path, rank: int) -> RankReport | None:
    """A rank's `rank_N.json`; None where it is missing or none."""
    import pydantic

    try:
        content = clean_json(read_limited(folder / f"rank_{rank}.json", MOST_REPORT_BYTES))
        return pydantic.TypeAdapter(RankReport).validate_json(content)
    except (OSError, ValueError, RecursionError):
        return None
