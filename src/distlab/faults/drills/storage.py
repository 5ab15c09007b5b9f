"""Storage that falls silent in the middle of a run: no error, no end.

    distlab drill storage                        # it answers again: training goes on meanwhile, and nothing is lost
    distlab drill storage --no-asynchronous      # with saves in the foreground, the run stands at the first one
    distlab drill storage --forever              # it never answers: the run fails in time, and resumes

With saves in the background (`checkpoint.asynchronous`) training goes on until the next save would begin. There the run
stands, until the one before is done or `checkpoint.timeout_s` is over.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from distlab.errors import SettingError
from distlab.faults.drills.alone import EVERY, alone_config, is_same, undisturbed
from distlab.faults.drills.pair import resume, train_pair, train_until_it_fails
from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import DrillError, Report, aside, present, struck_at, table
from distlab.faults.storage import answer_again, is_stalled, newest_checkpoint
from distlab.train.config import TrainConfig, from_dict
from distlab.train.loop import Trainer
from distlab.train.records import read_log

SILENT_S = 3600.0
"""Longer than any drill: what ends the silence is the drill, or the end of the process that waits."""
STAND_S = 0.5
"""How long the run is left to stand before its storage answers again."""


@dataclass(frozen=True)
class Stall(Report):
    """What silent storage cost a run. Times are wall-clock seconds."""

    asynchronous: bool
    answered: bool
    """Did it answer again, with the run still there?"""
    steps_meanwhile: int | None
    """Steps that were done while it was silent; None where the ranks could not be asked."""
    longest_step_s: float | None
    """The longest wait between two steps."""
    said: str
    """The error that the run ended with; empty if it did not end."""
    failed_s: float | None
    """From the beginning of the silence to that end."""
    resumed_from: int | None
    steps_lost: int
    """Optimizer steps that were done again."""
    checkpoints: tuple[int, ...]
    """Steps of the checkpoints that are there in the end."""
    is_exact: bool
    """Did the run end with the model of an undisturbed one?"""
    tier: str

    def show(self) -> Table:
        """A table for a terminal or a notebook."""
        rows = [("saves", "in the background" if self.asynchronous else "in the foreground")]
        if self.steps_meanwhile is not None and self.longest_step_s is not None:
            rows += [
                ("steps while it was silent", str(self.steps_meanwhile)),
                ("longest wait between two steps", f"{self.longest_step_s:.2f} s"),
            ]
        if self.failed_s is not None:
            rows += [
                ("the run ended with", self.said),
                ("after", f"{self.failed_s:.2f} s of silence"),
                ("resumed from step", str(self.resumed_from)),
            ]
        rows += [
            ("steps done again", str(self.steps_lost)),
            ("checkpoints in the end", ", ".join(map(str, self.checkpoints))),
            ("the model of an undisturbed run", "yes" if self.is_exact else "no"),
            ("tier", self.tier),
        ]
        return table("Storage is silent" + (", and answers again" if self.answered else ""), rows)


def storage(
    forever: bool = False,
    asynchronous: bool = True,
    timeout: float = 5.0,
    step: int = 12,
    steps: int = 30,
    json: bool = False,
) -> int:
    """Let a run's storage fall silent, and report what training did meanwhile (on CPU).

    Args:
        forever: it does not answer again; two ranks then fail, and resume with storage that answers.
        asynchronous: save in the background.
        timeout: with forever, seconds that a save may take (checkpoint.timeout_s).
        step: it falls silent after this many optimizer steps; a checkpoint is saved after every fifth.
        steps: of the whole run; ten more than step at the least.
        json: print the report as JSON.
    """
    return present(drill_storage(forever, asynchronous, timeout, step, steps), json)


def drill_storage(
    forever: bool = False,
    asynchronous: bool = True,
    timeout_s: float = 5.0,
    step: int = 12,
    steps: int = 30,
) -> Stall:
    """The drill behind `distlab drill storage`.

    SettingError for a step at which a save may be under way, DrillError where the run does not come back.
    """
    if not EVERY < step <= steps - 2 * EVERY or step % EVERY in (0, 1):
        raise SettingError(
            f"step is {step} and steps {steps}; give one of {EVERY + 2} to {steps - 2 * EVERY} that lies two steps or "
            "more behind a save and before the next, such as 12."
        )
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        if forever:
            return _never_answers(Path(folder), asynchronous, timeout_s, step, steps)
        return _answers_again(Path(folder), asynchronous, step, steps)


def _answers_again(folder: Path, asynchronous: bool, step: int, steps: int) -> Stall:
    faults = [{"kind": "stall_storage", "step": step, "seconds": SILENT_S}]
    config = alone_config(folder, faults, steps, asynchronous=asynchronous)
    reference = undisturbed(config)
    assert config.run_folder is not None
    run_folder = Path(config.run_folder)
    next_save = EVERY * (step // EVERY + 1)
    stands_at = next_save + EVERY * asynchronous  # a save in the background may end before the next begins
    mending = threading.Timer(STAND_S, answer_again, [run_folder])
    meanwhile, times = 0, []
    try:
        with aside(), Trainer(config) as trainer:
            for done in trainer.steps():
                times.append(time.monotonic())
                if done + 2 == step:
                    trainer.saving.finish()  # the save before is over when the silence begins
                silent = is_stalled(run_folder)
                meanwhile += silent and done >= step  # the fault struck within the step before
                if done + 2 == stands_at:
                    mending.start()
            result = trainer.result()
    finally:
        mending.cancel()
        answer_again(run_folder)
    waits = [after - before for before, after in itertools.pairwise(times)]
    return Stall(
        asynchronous=asynchronous,
        answered=True,
        steps_meanwhile=meanwhile,
        longest_step_s=max(waits),
        said="",
        failed_s=None,
        resumed_from=None,
        steps_lost=0,
        checkpoints=_checkpoints(config),
        is_exact=is_same(result, reference),
        tier=result.stamp.tier,
    )


def _never_answers(folder: Path, asynchronous: bool, timeout_s: float, step: int, steps: int) -> Stall:
    plain = drill_config(folder, "ddp", "stall_storage", step, steps).as_dict()
    plain["checkpoint"] |= {"asynchronous": asynchronous, "timeout_s": timeout_s, "keep": steps}
    plain["faults"] = [dict(plain["faults"][0], seconds=SILENT_S)]
    config = from_dict(plain)
    calm = replace(config, faults=())
    reference = train_pair(replace(calm, name="undisturbed"))
    said, ended_at = train_until_it_fails(config)
    broken_at = struck_at(config)
    if broken_at is None:
        raise DrillError(f"The run ended before its storage fell silent: {said}")
    assert config.run_folder is not None
    newest = newest_checkpoint(config.run_folder)
    steps_done = 1 + max(line.step for line in read_log(config.run_folder))
    resumed_from, again = resume(calm)
    if not newest.endswith(f"step_{resumed_from}.ckpt"):
        raise DrillError(f"{newest} was the newest, and the run resumed from step {resumed_from}.")
    return Stall(
        asynchronous=asynchronous,
        answered=False,
        steps_meanwhile=None,
        longest_step_s=None,
        said=said.replace(f"{folder}/", ""),
        failed_s=ended_at - broken_at,
        resumed_from=resumed_from,
        steps_lost=steps_done - resumed_from,
        checkpoints=_checkpoints(config),
        is_exact=is_same(again, reference),
        tier=again.stamp.tier,
    )


def _checkpoints(config: TrainConfig) -> tuple[int, ...]:
    assert config.run_folder is not None
    names = Path(config.run_folder).glob("step_*.json")
    return tuple(sorted(int(path.stem.removeprefix("step_")) for path in names))
