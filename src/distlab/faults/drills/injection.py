"""Failure injection itself: what is refused, what strikes, how it is stopped, and that nothing of it stays.

    distlab drill injection

One rank of two is made slow, then its disk is full: the run ends at its next save. It is taken up again without faults.
What a fault does is confined to the process of its rank, the run's folder and the memory that a limit grants.
"""

from __future__ import annotations

import json as jsonlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rich.table import Table

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.faults.drills.pair import WORLD_SIZE, resume, train_until_it_fails
from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import DrillError, Report, present, table
from distlab.faults.inject import Injector
from distlab.faults.leftovers import left_behind
from distlab.train.config import TrainConfig
from distlab.train.records import LogLine, read_log

STRUCK_RANK = 1
SLOW_S = 0.1
SLOW_FROM, FULL_FROM = 3, 12
"""Steps after which the faults strike."""


@dataclass(frozen=True)
class Injection(Report):
    """What was injected, and what became of it."""

    refused: tuple[str, ...]
    """What the program said to faults that could never strike; nothing had been written then."""
    struck: tuple[str, ...]
    """By the marks in the run's folder."""
    said: str
    """The first line of the error that the run ended with."""
    compute_s: dict[str, float]
    """Mean of a step's compute_s on the rank that was struck, in seconds: before, while it was slow, and after the
    faults were taken out."""
    resumed_from: int
    steps_lost: int
    """Optimizer steps that had been done and were not in the checkpoint."""
    left: tuple[str, ...]
    """What is left of the faults; nothing, if all is well."""
    tier: str

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [
            *(("refused", sentence) for sentence in self.refused),
            *(("struck", sentence) for sentence in self.struck),
            ("the run ended with", self.said),
            *((f"a step of rank {STRUCK_RANK}, {when}", f"{s:.3f} s") for when, s in self.compute_s.items()),
            ("resumed from step", f"{self.resumed_from}; steps lost: {self.steps_lost}"),
            ("left behind", "; ".join(self.left) or "nothing"),
            ("tier", self.tier),
        ]
        return table("Faults on purpose", rows)


def injection(json: bool = False) -> int:
    """Inject faults into a run of two ranks, stop, and look for what is left of them (over gloo, on CPU).

    Args:
        json: print the report as JSON.
    """
    return present(drill_injection(), json)


def drill_injection() -> Injection:
    """The drill behind `distlab drill injection`. DrillError where a fault does not strike."""
    before = left_behind()
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        config = drill_config(Path(folder), "ddp", "slow", SLOW_FROM, 20)
        faults = (
            Fault("slow", SLOW_FROM, STRUCK_RANK, seconds=SLOW_S),
            Fault("fill_disk", FULL_FROM, STRUCK_RANK),
        )
        config = replace(config, faults=faults)
        refused = _refused(config)
        said, _ = train_until_it_fails(config)
        slowed = _of_struck_rank(config)
        # This is how faults are stopped: they are taken out of the file.
        resumed_from, again = resume(replace(config, faults=()))
        assert config.run_folder is not None
        after = [line for line in _of_struck_rank(config) if line.step >= resumed_from]
        return Injection(
            refused=refused,
            struck=_struck(Path(config.run_folder)),
            said=said.replace(f"{folder}/", ""),
            compute_s={
                "before": fmean(line.compute_s for line in slowed if line.step < SLOW_FROM),
                "slow": fmean(line.compute_s for line in slowed if line.step >= SLOW_FROM),
                "without faults": fmean(line.compute_s for line in after),
            },
            resumed_from=resumed_from,
            steps_lost=slowed[-1].step + 1 - resumed_from,
            left=tuple(s for s in left_behind((Path(config.run_folder),)) if s not in before),
            tier=again.stamp.tier,
        )


def _refused(config: TrainConfig) -> tuple[str, ...]:
    """What is said to a rank that does not exist, and to a step that never comes."""
    said = []
    for fault in (Fault("kill", 1, rank=WORLD_SIZE), Fault("kill", config.steps + 1)):
        try:
            Injector(replace(config, faults=(fault,), resume_from_checkpoint=None), rank=0, first=0)
        except SettingError as error:
            said.append(str(error))
    if config.run_folder is not None and Path(config.run_folder).exists():
        raise DrillError(f"A fault was refused, and {config.run_folder} was made all the same.")
    return tuple(said)


def _of_struck_rank(config: TrainConfig) -> list[LogLine]:
    assert config.run_folder is not None
    return [line for line in read_log(config.run_folder) if line.rank == STRUCK_RANK]


def _struck(run_folder: Path) -> tuple[str, ...]:
    marks = [jsonlib.loads(path.read_text()) for path in sorted((run_folder / "faults").glob("[0-9]*.json"))]
    return tuple(f"{mark['kind']} on rank {mark['rank']} after step {mark['step']}" for mark in marks)
