"""What a run saves, when, and how it takes it up again.

A checkpoint holds the weights, the optimizer's state, the loss scale, every rank's random numbers and the
number of steps behind it. That number is also the position in the data (train/sampler.py) and in the learning
rate's schedule (train/optimizer.py), at every world size.
"""

from __future__ import annotations

import math
import os
import platform
import random
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from distlab.errors import SettingError
from distlab.train.checkpoint.folder import Damage, Folder
from distlab.train.checkpoint.record import marked_steps
from distlab.train.config import TrainConfig
from distlab.train.result import StepRecord
from distlab.train.strategies.base import Strategy

if TYPE_CHECKING:
    from distlab.train.checkpoint.manager import Checkpoint, Checkpoints


RANDOM = ["numpy", "python", "torch"]
"""Kinds of random numbers that every run has; one with a GPU has "cuda" as well."""


class Saving:
    """The checkpoints of one run."""

    def __init__(self, config: TrainConfig, strategy: Strategy, data: int) -> None:
        """data: fingerprint of the samples. SettingError where the run's folder cannot be written."""
        self.data = data
        self.config = config
        self.strategy = strategy
        self.every = config.checkpoint.every_steps
        self.enabled = self.every > 0
        # Started again by the launcher after a failure, a rank goes on from what this very run has saved.
        self.restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
        self.wanted = wanted = config.resume_from_checkpoint or ("latest" if self.restarted else None)
        self.checkpoints: Checkpoints | None = None
        self.resumed: Checkpoint | None = None
        if config.run_folder and (self.enabled or wanted):
            from distlab.train.checkpoint.manager import Checkpoints

            options = config.checkpoint
            self.checkpoints = Checkpoints(
                config.run_folder,
                kind=options.kind,
                asynchronous=options.asynchronous,
                incremental=options.incremental,
                keep=options.keep,
                timeout_s=options.timeout_s,
            )
        elif wanted:
            raise SettingError(
                f"resume_from_checkpoint is {wanted!r} but folder is not set; set folder to where the run lies."
            )

    def resume(self) -> int:
        """Load the wanted checkpoint, if any; return how many optimizer steps lie behind."""
        if self.wanted is None:
            if steps := self._steps_there():
                raise SettingError(
                    f"{self.config.run_folder} holds checkpoints up to step {steps[-1]}, which a new run would "
                    "overwrite; go on with --resume_from_checkpoint latest, or choose another name."
                )
            return 0
        assert self.checkpoints is not None
        found = self.checkpoints.find("latest") if self.restarted else None
        if found is None:  # it had saved nothing yet: begin where it began
            found = self.checkpoints.find(self.wanted)
        if found is None and self.wanted != "latest":
            raise SettingError(
                f"resume_from_checkpoint is {self.wanted!r}, where there is no whole checkpoint; expected "
                "'latest', a name such as 'step_20', or the path of a step_N.ckpt."
            )
        if found is None and (steps := self.checkpoints.steps()):
            raise SettingError(
                f"{self.config.run_folder} holds checkpoints, the last of step {steps[-1]}, and none of them is "
                "whole; choose another name to begin anew."
            )
        if found is None:  # a run that had saved nothing yet
            if self.strategy.rank == 0:
                print(
                    f"{self.config.run_folder} holds no checkpoint yet: beginning at step 0.", file=sys.stderr
                )
            return 0
        self._refuse_other_data(found)
        self._load(self.checkpoints, found)
        self.resumed = found
        return found.step

    def leave_later(self) -> None:
        """Where the run goes on from an older checkpoint of its own, let "latest" mean that one from now on.

        Otherwise a run that ends before its first save would be taken up from what came later in a history that
        it has left. To be called once nothing can refuse the run any more.
        """
        goes_on = self.enabled and self.resumed is not None and self.resumed.step < self.config.steps
        if self.checkpoints is None or self.resumed is None or not goes_on:
            return
        later = self.checkpoints.make_latest(self.resumed)
        if later and self.strategy.rank == 0:
            print(
                f"{self.config.name} goes on from {self.resumed.name}, which is the latest checkpoint again: "
                f"{', '.join(later)} of {self.config.run_folder} can be resumed from by name until newer ones take "
                "their place.",
                file=sys.stderr,
            )

    def due(self, steps: int) -> bool:
        """Is a checkpoint due after this many optimizer steps?"""
        return self.enabled and (steps % self.every == 0 or steps == self.config.steps)

    def save(self, steps: int, last: StepRecord) -> None:
        """Save after `steps` optimizer steps, the last of which is given; in the background if so set."""
        assert self.checkpoints is not None
        progress = self._progress(steps)
        info = {
            "epoch": last.epoch,
            "step": steps,
            "loss": last.loss,
            "metrics": {
                "learning_rate": last.learning_rate,
                "step_s": last.step_s,
                "communication_s": last.communication_s,
                "gradient_norm": last.gradient_norm,
            },
            "hostname": platform.node(),
            "hardware": asdict(self.strategy.stamp()),
            "world_size": self.strategy.world_size,
            "data": self.data,
            "random": sorted(progress["random"][f"rank_{self.strategy.rank}"]),
            "config": self.config.as_dict(),
        }
        state = self.strategy.state() | {"progress": progress}
        self.checkpoints.save(steps, state, info)

    def finish(self) -> None:
        """Wait until everything is saved."""
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def _steps_there(self) -> list[int]:
        """Steps of the checkpoints in the run's folder, also where this run would save none."""
        if self.checkpoints is not None:
            return self.checkpoints.steps()
        if self.config.run_folder is None:
            return []
        with suppress(ImportError, ValueError, OSError):  # storage that cannot be read: its log will say so
            return marked_steps(Folder(self.config.run_folder).names())
        return []

    def _refuse_other_data(self, found: Checkpoint) -> None:
        """SettingError where step k of this run would not take the samples of step k of that one."""
        then, now = found.info.get("config"), self.config.as_dict()
        if not (
            isinstance(then, dict)
            and set(now) <= set(then)
            and isinstance(then["data"], dict)
            and set(now["data"]) <= set(then["data"])
            and isinstance(found.info.get("world_size"), int)
            and found.info.get("random") in (RANDOM, ["cuda", *RANDOM])
        ):
            raise SettingError(
                f"{found.url} was not saved by this release of distlab train: its mark lacks settings of the run. "
                "Start a run of another name."
            )
        names = [f"data.{name}" for name in now["data"] if name != "micro_batches"]
        for name in ["seed", *names]:
            part = name.removeprefix("data.")
            before, here = (then, now) if part == name else (then["data"], now["data"])
            if before[part] != here[part]:
                raise SettingError(
                    f"{name} is {here[part]!r}, and {found.url} was trained with {before[part]!r}: it would go "
                    "on with other samples; set it back, or start a run of another name."
                )
        if found.info.get("data") != self.data:
            raise SettingError(
                f"{found.url} was trained on other samples than data.source {self.config.data.source!r} has "
                "here (the text differs between releases of Python); resume with the release of that run."
            )

    def _progress(self, steps: int) -> dict[str, Any]:
        scale = self.strategy.scale
        return {
            "step": steps,
            "scale": {"factor": scale.factor, "good_steps": scale.good_steps},
            "random": {f"rank_{self.strategy.rank}": _random_state()},
        }

    def _load(self, checkpoints: Checkpoints, found: Checkpoint) -> None:
        state = self.strategy.state() | {"progress": self._progress(found.step)}
        known = self.strategy.rank < found.info["world_size"]
        if known:  # a checkpoint that was saved without a GPU holds no random numbers of one
            own = state["progress"]["random"][f"rank_{self.strategy.rank}"]
            for kind in set(own) - set(found.info["random"]):
                del own[kind]
        else:
            del state["progress"]["random"]
        try:
            checkpoints.load(found, state)
        except RuntimeError as error:
            if isinstance(error.__cause__, Damage):
                raise SettingError(
                    f"{error}; choose another checkpoint, or start a run of another name."
                ) from None
            raise
        self.strategy.load_state(state)
        scale, progress = self.strategy.scale, state["progress"]
        scale.factor, scale.good_steps = progress["scale"]["factor"], progress["scale"]["good_steps"]
        # For what the checkpoint does not hold: a GPU's, or those of a rank that the world has grown by.
        seed_random_state(self.config.seed, found.step, self.strategy.data_rank)
        try:
            if not (0 < scale.factor < math.inf and type(scale.good_steps) is int):
                raise ValueError("a loss scale that no run has")
            if known:
                _set_random_state(progress["random"][f"rank_{self.strategy.rank}"])
        except (TypeError, ValueError, LookupError, OverflowError, RuntimeError):
            raise SettingError(
                f"{found.url} holds a loss scale or a state of random numbers that no run has; choose another "
                "checkpoint, or start a run of another name."
            ) from None


def seed_random_state(seed: int, step: int, data_rank: int) -> None:
    """Begin every kind of random numbers anew: others for each copy of the model, and the same in each run."""
    source = random.Random(f"{seed}/{step}/{data_rank}")  # a string: neighbours must not be alike
    random.seed(source.getrandbits(64))
    np.random.seed(source.getrandbits(32))
    torch.manual_seed(source.getrandbits(63))


def _random_state() -> dict[str, Any]:
    """Plain data and tensors, so that loading can execute nothing."""
    numpy_state = np.random.get_state()
    assert isinstance(numpy_state, tuple)
    generator, key, *rest = numpy_state
    state = {
        "python": random.getstate(),
        "numpy": [generator, key.tolist(), *rest],
        "torch": torch.get_rng_state(),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), None if gauss is None else float(gauss)))
    generator, key, position, *rest = state["numpy"]
    if not 0 <= position <= len(key):  # numpy would read beyond the key
        raise ValueError(f"position {position} of {len(key)}")
    np.random.set_state((generator, key, position, *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
