"""A rank that never comes to a collective: the run ends in time, and the flight recorder names the rank.

    distlab drill hang                   # rank 1 stops after step 12; the others wait 5 s for it
    distlab drill hang --timeout 60      # or as long as yours would

No process ends and no socket breaks, so that nobody is told. What notices is the timeout of the collective in which
the others wait; `distlab profile flight` then says from all ranks' records who was missing, and where it was.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from distlab.errors import SettingError
from distlab.faults.drills.pair import resume, train_until_it_fails
from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import DrillError, Report, present, struck_at, table
from distlab.observe.profile.flight import FOLDER, WANTED
from distlab.observe.profile.flight_report import judge, read_flights
from distlab.train.records import read_log


@dataclass(frozen=True)
class Hang(Report):
    """What a hang cost, and who was to blame. Times are wall-clock seconds."""

    timeout_s: float
    """Of the collectives."""
    culprits: tuple[int, ...]
    """Ranks that never came."""
    waiting: tuple[int, ...]
    """Ranks that waited for them."""
    verdict: str
    """What the flight recorder says."""
    where: str
    """The innermost frame of distlab's own in the culprit's stack."""
    said: str
    """The first line of the error that the run ended with."""
    detection_s: float
    """From the hang until a collective gave up."""
    end_s: float
    """From then until all ranks had ended, their records written."""
    recovery_s: float
    """From the hang until a step was done after it."""
    steps_lost: int
    """Optimizer steps that had been done and were not in the checkpoint."""
    tier: str

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [
            ("the run ended with", self.said),
            ("flight recorder", self.verdict),
            ("the culprit was here", self.where),
            ("timeout", f"{self.timeout_s:g} s"),
            ("detection", f"{self.detection_s:.2f} s"),
            ("end of all ranks", f"{self.end_s:.2f} s later"),
            ("recovery", f"{self.recovery_s:.2f} s"),
            ("steps lost", str(self.steps_lost)),
            ("tier", self.tier),
        ]
        return table("Rank 1 hangs", rows)


def hang(timeout: float = 5.0, step: int = 12, steps: int = 30, json: bool = False) -> int:
    """Let a rank miss a collective, see who finds it, and resume the run (over gloo, on CPU).

    Args:
        timeout: seconds that a rank waits in a collective for the others.
        step: rank 1 stops after this many optimizer steps; a checkpoint is saved after every fifth.
        steps: of the whole run.
        json: print the report as JSON.
    """
    return present(drill_hang(timeout, step, steps), json)


def drill_hang(timeout_s: float = 5.0, step: int = 12, steps: int = 30) -> Hang:
    """The drill behind `distlab drill hang`.

    timeout_s: 1 to 3600, or SettingError. DrillError where nobody notices, or the run does not come back.
    """
    if not 1 <= timeout_s <= 3600:
        raise SettingError(f"timeout is {timeout_s:g}; give 1 to 3600 seconds.")
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        config = drill_config(Path(folder), "ddp", "hang", step, steps)
        flight = Path(folder) / "flight"
        with _recorded(flight):
            said, ended_at = train_until_it_fails(config, timeout_s)
        verdict = judge(read_flights(flight))[0]
        asked_at, broken_at = (flight / WANTED).stat().st_mtime, struck_at(config)
        if broken_at is None or verdict.kind != "missing":
            raise DrillError(f"The run ended, and not by the hang: {said}\n{verdict.sentence}")
        resumed_from, again = resume(replace(config, faults=()))
        assert config.run_folder is not None
        after = min(line.time for line in read_log(config.run_folder) if line.time > ended_at)
        frames = [line.strip() for rank in verdict.culprits for line in verdict.stacks.get(rank, [])]
        ours = [line for line in frames if line.startswith("File ") and "/distlab/" in line]
        return Hang(
            timeout_s=timeout_s,
            culprits=verdict.culprits,
            waiting=verdict.waiting,
            verdict=verdict.sentence,
            where=ours[-1] if ours else "unknown",
            said=said,
            detection_s=asked_at - broken_at,
            end_s=ended_at - asked_at,
            recovery_s=after - broken_at,
            steps_lost=step - resumed_from,
            tier=again.stamp.tier,
        )


@contextlib.contextmanager
def _recorded(folder: Path) -> Iterator[None]:
    """The ranks that are started in here keep a flight record there."""
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER]
        else:
            os.environ[FOLDER] = before
