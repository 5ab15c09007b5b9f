"""What a drill reports, and how that is read off the run: its events, its log and its fault.

Recovery has three parts, each between two moments that were noted when they happened:

    fault -- detection --> the engine notices -- restart --> all ranks have met -- load --> first step done
"""

from __future__ import annotations

import contextlib
import dataclasses
import json as jsonlib
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.errors import SettingError, WorkError
from distlab.train.config import TrainConfig
from distlab.train.data import load_data
from distlab.train.records import LogLine, read_info, read_log
from distlab.train.sampler import BatchPlan

EVENTS = "faults/events.jsonl"


class DrillError(WorkError):
    """The run did not come back."""


@dataclass(frozen=True)
class Event:
    """A moment in the life of a rank."""

    name: str
    """`joined`: the process group is there. `stepped`: the first step since then is done."""
    rank: int
    world_size: int
    time_s: float
    """Unix time."""
    resumed_from: int = 0
    """Of `stepped`: optimizer steps that the checkpoint had behind it."""


@dataclass(frozen=True)
class Report(ABC):
    """What a drill gives back."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)

    @abstractmethod
    def show(self) -> Table:
        """A table for a terminal or a notebook."""


@dataclass(frozen=True)
class Recovery(Report):
    """What a fault cost a run that recovered from it. Times are wall-clock seconds."""

    engine: str
    fault: str
    detection_s: float
    """From the fault to the moment when the engine noticed."""
    restart_s: float
    """From then until all ranks, new or old, had met in a process group."""
    load_s: float
    """From then until the first step was done: model, checkpoint, step."""
    steps_lost: int
    """Optimizer steps that had been done and were not in the checkpoint."""
    samples_repeated: int
    """Samples that count more than once in the weights, by the log's sample ids."""
    samples_skipped: int
    """Samples that the steps of the run should have had and did not have."""
    goodput: float
    """Share of the time from the first meeting of the ranks to the last step that went into steps that count."""
    world_sizes: tuple[int, ...]
    """Numbers of ranks of the steps that count, in order."""
    tier: str
    stamp: dict[str, Any]
    """Where it ran, as rank 0 saw it (the fields of `distlab.bench.stamp.Stamp`)."""

    @property
    def recovery_s(self) -> float:
        """From the fault to the first step after it."""
        return self.detection_s + self.restart_s + self.load_s

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return super().as_dict() | {"recovery_s": self.recovery_s}

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [
            ("detection", f"{self.detection_s:.2f} s"),
            ("restart", f"{self.restart_s:.2f} s"),
            ("load", f"{self.load_s:.2f} s"),
            ("recovery", f"{self.recovery_s:.2f} s"),
            ("steps lost", str(self.steps_lost)),
            ("samples repeated, skipped", f"{self.samples_repeated}, {self.samples_skipped}"),
            ("goodput", f"{self.goodput:.1%}"),
            ("ranks", " -> ".join(map(str, self.world_sizes))),
            ("tier", f"{self.tier}: {self.stamp['hardware']}, {self.stamp['cores']} cores"),
        ]
        return table(f"{self.engine}: {self.fault}", rows)


def note(config: TrainConfig, event: Event) -> None:
    """Add an event to those of the run."""
    path = _events_file(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:  # one short write: ranks do not cut into each other's lines
        file.write(jsonlib.dumps(vars(event)) + "\n")


def events(config: TrainConfig) -> list[Event]:
    """The run's events so far, in order."""
    path = _events_file(config)
    lines = path.read_text().splitlines() if path.exists() else []
    return sorted((Event(**jsonlib.loads(line)) for line in lines), key=lambda event: event.time_s)


def struck_at(config: TrainConfig) -> float | None:
    """When the run's first fault struck (Unix time); None if it has not."""
    path = _events_file(config).parent / "0.json"
    return float(jsonlib.loads(path.read_text())["time_s"]) if path.exists() else None


def _events_file(config: TrainConfig) -> Path:
    assert config.run_folder is not None
    return Path(config.run_folder) / EVENTS


def measure(config: TrainConfig, engine: str, fault: str, broken_at: float, noticed_at: float) -> Recovery:
    """The report on a run whose first fault struck at `broken_at`, which the engine noticed at `noticed_at`.

    DrillError where no rank made a step after that.
    """
    assert config.run_folder is not None
    happened = events(config)
    stepped = next((e for e in happened if e.name == "stepped" and e.time_s > noticed_at), None)
    if stepped is None:
        raise DrillError(f"No step was made after the fault ({fault}); the run lies in {config.run_folder}.")
    joined = [e for e in happened if e.name == "joined"]
    met_at = max(e.time_s for e in joined if e.time_s < stepped.time_s)
    lines = counting(read_log(config.run_folder))
    repeated, skipped = samples_amiss(config, lines)
    return Recovery(
        engine=engine,
        fault=fault,
        detection_s=noticed_at - broken_at,
        restart_s=met_at - noticed_at,
        load_s=stepped.time_s - met_at,
        steps_lost=config.faults[0].step - stepped.resumed_from,
        samples_repeated=repeated,
        samples_skipped=skipped,
        goodput=goodput(lines, joined[0].time_s),
        world_sizes=world_sizes(lines),
        tier=lines[-1].tier,
        stamp=read_info(config.run_folder).stamp,
    )


def counting(lines: Iterable[LogLine]) -> list[LogLine]:
    """The steps that are in the weights.

    A rank that takes a run up again cuts its log back to the checkpoint; one that is no longer there cannot.
    Its last lines tell of a world size that the step, done again, did not have.
    """
    lines = list(lines)
    world_size = {line.step: line.world_size for line in lines if line.rank == 0}
    return [line for line in lines if line.world_size == world_size.get(line.step)]


def samples_amiss(config: TrainConfig, lines: Iterable[LogLine]) -> tuple[int, int]:
    """How many samples too often, and how many too seldom, the logged steps took what was planned for them."""
    plan = BatchPlan(load_data(config)[0], config.data, config.seed)
    planned = Counter((plan.epoch(step), i) for step in range(config.steps) for i in plan.global_batch(step))
    taken: Counter[tuple[int, int]] = Counter()
    for line in lines:
        if line.sample_ids is None:
            raise SettingError("The log has no sample ids; set log.samples to true.")
        taken.update((line.epoch, i) for micro_batch in line.sample_ids for i in micro_batch)
    return (taken - planned).total(), (planned - taken).total()


def goodput(lines: list[LogLine], started_at: float) -> float:
    """Time in the logged steps over the time from `started_at` (Unix) until the last of them was logged."""
    longest: dict[int, float] = {}
    for line in lines:
        longest[line.step] = max(line.step_s, longest.get(line.step, 0.0))
    return sum(longest.values()) / (max(line.time for line in lines) - started_at)


def world_sizes(lines: list[LogLine]) -> tuple[int, ...]:
    """The world sizes of the steps, without repetitions in a row."""
    sizes: list[int] = []
    for line in lines:
        if sizes[-1:] != [line.world_size]:
            sizes.append(line.world_size)
    return tuple(sizes)


def table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """A report's rows: what, and how much."""
    made = Table("", "", show_header=False, title=title)
    for what, value in rows:
        made.add_row(escape(what), escape(value))
    return made


def present(report: Report, json: bool) -> int:
    """Print a report for people or programs; returns the exit code."""
    if json:
        print(jsonlib.dumps(report.as_dict(), indent=1))
    else:
        Console().print(report.show())
    return 0


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """What a run prints in here goes to standard error: standard output is for the report."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
