"""A checkpoint that is damaged: the run that comes back takes the one before.

    distlab drill checkpoint                 # one bit of the newest checkpoint flips
    distlab drill checkpoint --truncate      # or half of a file is gone

The run then fails, as it does when somebody needs the checkpoint. Every byte is read and compared before a run
resumes, so that the damage shows then, and not in the loss.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from pathlib import Path

from rich.table import Table

from distlab.faults.drills.alone import alone_config, is_same, undisturbed
from distlab.faults.drills.report import DrillError, Report, aside, present, table
from distlab.faults.inject import InjectedError
from distlab.faults.storage import newest_checkpoint
from distlab.train.checkpoint import manager
from distlab.train.loop import train

MOST_LINES = 100
"""That a run may log while it resumes: with more, the first would be forgotten."""


@dataclass(frozen=True)
class FellBack(Report):
    """What a damaged checkpoint cost."""

    damaged: str
    """The newest checkpoint when the fault struck."""
    said: tuple[str, ...]
    """What the run said of it when it resumed."""
    resumed_from: int
    """Steps that the checkpoint which was taken had behind it."""
    steps_lost: int
    """Of those that had been done, back to it; with the newest it would have been `steps_lost_whole`."""
    steps_lost_whole: int
    is_exact: bool
    """Did the run end with the model of an undisturbed one?"""
    tier: str

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [
            ("damaged", self.damaged),
            *(("said", line) for line in self.said),
            ("resumed from step", str(self.resumed_from)),
            ("steps lost", f"{self.steps_lost}, with a whole one {self.steps_lost_whole}"),
            ("the model of an undisturbed run", "yes" if self.is_exact else "no"),
            ("tier", self.tier),
        ]
        return table("Checkpoint damaged", rows)


def checkpoint(truncate: bool = False, step: int = 12, steps: int = 30, json: bool = False) -> int:
    """Damage the newest checkpoint of a run, let it fail, and see what it resumes from (on CPU).

    Args:
        truncate: half of its largest file is lost; otherwise one bit of it flips.
        step: the fault strikes after this many optimizer steps, 10 or more; a checkpoint is saved after every fifth.
        steps: of the whole run.
        json: print the report as JSON.
    """
    return present(drill_checkpoint(truncate, step, steps), json)


def drill_checkpoint(truncate: bool = False, step: int = 12, steps: int = 30) -> FellBack:
    """The drill behind `distlab drill checkpoint`. DrillError where the run does not come back."""
    kind = "truncate_checkpoint" if truncate else "damage_checkpoint"
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        faults = [{"kind": kind, "step": step}, {"kind": "raise", "step": step}]
        config = alone_config(Path(folder), faults, steps)
        reference = undisturbed(config)
        assert config.run_folder is not None
        try:
            with aside():
                train(config)
        except InjectedError:
            pass
        else:
            raise DrillError(f"The run went on to its end; expected that it fails after step {step}.")
        newest = Path(newest_checkpoint(config.run_folder))
        heard = BufferingHandler(MOST_LINES)
        manager.log.addHandler(heard)
        try:
            with aside():
                again = train(config)
        finally:
            manager.log.removeHandler(heard)
        if not again.resumed_from:
            raise DrillError(
                f"The run did not resume from a checkpoint in {config.run_folder}: it began anew."
            )
        return FellBack(
            damaged=newest.name,
            said=tuple(line.getMessage().replace(f"{folder}/", "") for line in heard.buffer),
            resumed_from=again.resumed_from,
            steps_lost=step - again.resumed_from,
            steps_lost_whole=step - int(newest.stem.removeprefix("step_")),
            is_exact=is_same(again, reference),
            tier=again.stamp.tier,
        )
