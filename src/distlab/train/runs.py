"""Runs side by side: time, throughput, memory, cost.

distlab runs show runs/ddp runs/fsdp runs/deepspeed
compare(["runs/ddp", "runs/fsdp"])        # the same table in a notebook
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from distlab.errors import SettingError
from distlab.predict.units import MB
from distlab.train.records import LogLine, by_step, read_info, read_log
from distlab.train.result import finite

RECORDED = ".run.json"
"""How the settings of a run in `recordings/` end; its log lies beside them."""


@dataclass(frozen=True)
class RunSummary:
    """What a run's log comes to.

    Times, throughput and MFU are means that leave out the first step of each attempt: it builds and allocates
    what the others use, and is the only one in a log of a single step.
    """

    name: str
    strategy: str
    world_size: int
    """Of the last attempt."""
    tier: str
    hardware: str
    precision: str
    shards: list[str]
    """What no rank held whole."""
    steps: int
    restarts: int
    loss: float
    """Of the last step."""
    step_s: float
    """Mean over ranks, the sum of the next three."""
    data_s: float
    compute_s: float
    communication_s: float
    samples_per_s: float
    """Of all ranks together, as fast as the slowest of them."""
    tokens_per_s: float
    peak_ram_bytes: int
    """Of the rank that holds most."""
    peak_vram_bytes: int | None
    mfu: float | None
    cost: float
    """Of all ranks, undone steps included."""


def summarise(run_folder: str) -> RunSummary:
    """Read a run's log, or that of a recorded run by its `.run.json`. SettingError where there is none."""
    path = Path(run_folder)
    if path.name.endswith(RECORDED) and path.is_file():
        from distlab.record.recordings import read_recording, unpack_run

        with TemporaryDirectory() as folder:
            case = path.name.removesuffix(RECORDED)
            return summarise(str(unpack_run(read_recording(path.parent), case, Path(folder))))
    lines, info = read_log(run_folder), read_info(run_folder)
    last = lines[-1]
    steady = _steady(lines)
    time_s = sum(max(line.step_s for line in ranks) for ranks in by_step(steady).values())
    known_mfu = [line.mfu for line in steady if line.mfu is not None]
    ends = {line.rank: line.cost for line in lines}  # costs grow: each rank's last line stays
    return RunSummary(
        name=info.config["name"],
        strategy=info.config["strategy"],
        world_size=last.world_size,
        tier=last.tier,
        hardware=info.stamp["hardware"],
        precision=info.config["memory"]["precision"],
        shards=info.shards,
        steps=last.step + 1,
        restarts=last.attempt,
        loss=last.loss,
        step_s=fmean(line.step_s for line in steady),
        data_s=fmean(line.data_s for line in steady),
        compute_s=fmean(line.compute_s for line in steady),
        communication_s=fmean(line.communication_s for line in steady),
        samples_per_s=sum(line.samples_per_s * line.step_s for line in steady) / time_s,
        tokens_per_s=sum(line.tokens_per_s * line.step_s for line in steady) / time_s,
        peak_ram_bytes=max(line.ram_bytes for line in lines),
        peak_vram_bytes=max((line.vram_bytes for line in lines if line.vram_bytes is not None), default=None),
        mfu=fmean(known_mfu) if known_mfu else None,
        cost=sum(ends.values()),
    )


def compare(run_folders: Iterable[str]) -> Table:
    """A column for each run, for a terminal or a notebook. SettingError where one has no log."""
    return _table([summarise(folder) for folder in run_folders])


def show(folders: Positional[tuple[str, ...]], json: bool = False) -> int:
    """Compare runs by their logs: step time and its parts, throughput, memory, MFU, cost.

    Args:
        folders: folders of runs, `<folder>/<name>` each; paths or URLs; or a recorded run's `.run.json`.
        json: print the summaries as JSON.
    """
    if not folders:
        raise SettingError("No run is named; name the folder of at least one, such as runs/fsdp_2gpu.")
    runs = [summarise(folder) for folder in folders]
    if json:
        print(jsonlib.dumps([_plain(run) for run in runs], indent=1))
    else:
        Console().print(_table(runs))
    return 0


_ROWS: list[tuple[str, Callable[[RunSummary], str | None]]] = [
    ("strategy", lambda run: f"{run.strategy}, {run.precision}"),
    ("sharded", lambda run: ", ".join(run.shards) or "nothing"),
    ("ranks", lambda run: f"{run.world_size} ({run.tier})"),
    ("hardware", lambda run: run.hardware),
    ("steps", lambda run: f"{run.steps}" + (f", {run.restarts} restarts" if run.restarts else "")),
    ("loss of the last", lambda run: f"{run.loss:.4f}"),
    ("step", lambda run: f"{run.step_s * 1e3:.2f} ms"),
    ("  data", lambda run: f"{run.data_s * 1e3:.2f} ms"),
    ("  compute", lambda run: f"{run.compute_s * 1e3:.2f} ms"),
    ("  communication", lambda run: f"{run.communication_s * 1e3:.2f} ms"),
    ("samples", lambda run: f"{run.samples_per_s:,.0f}/s"),
    ("tokens", lambda run: f"{run.tokens_per_s:,.0f}/s"),
    ("peak RAM of a rank", lambda run: _megabytes(run.peak_ram_bytes)),
    ("peak VRAM of a rank", lambda run: _megabytes(run.peak_vram_bytes)),
    ("MFU", lambda run: None if run.mfu is None else f"{run.mfu:.1%}"),
    ("cost", lambda run: f"{run.cost:.4f}" if run.cost else None),
]


def _megabytes(size: int | None) -> str | None:
    return None if size is None else f"{size / MB:,.0f} MB"


def _table(runs: Sequence[RunSummary]) -> Table:
    """Rows that no run has a value for are left out."""
    table = Table("", *(escape(run.name) for run in runs))
    for name, cell in _ROWS:
        cells = [cell(run) for run in runs]
        if any(cells):
            table.add_row(name, *(escape(text or "unknown") for text in cells))
    return table


def _steady(lines: list[LogLine]) -> list[LogLine]:
    first: dict[tuple[int, int], int] = {}
    for line in lines:
        first.setdefault((line.rank, line.attempt), line.step)
    cold = set(first.values())
    return [line for line in lines if line.step not in cold] or lines


def _plain(run: RunSummary) -> dict[str, object]:
    values = dataclasses.asdict(run)
    return values | {"loss": finite(run.loss)}
