"""Drills of one rank, in this process: a small run, and its twin that nothing disturbed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import aside
from distlab.train.config import TrainConfig, from_dict
from distlab.train.loop import train
from distlab.train.result import TrainResult

EVERY = 5
"""Steps between two checkpoints."""


def alone_config(
    folder: Path, faults: list[dict[str, Any]], steps: int, **checkpoint: bool | float
) -> TrainConfig:
    """The run of `drill_config` on one rank, with these faults in place of its own."""
    one = drill_config(folder, "single", "raise", 1, steps).as_dict()
    plain = {
        "world_size": 1,
        "faults": faults,
        "checkpoint": one["checkpoint"] | {"every_steps": EVERY, "keep": steps, **checkpoint},
    }
    return from_dict(one | plain)


def undisturbed(config: TrainConfig) -> TrainResult:
    """The same run without faults, beside the other in its folder."""
    with aside():
        return train(replace(config, name="undisturbed", faults=()))


def is_same(one: TrainResult, other: TrainResult) -> bool:
    """Have both runs ended with the same model, as far as sums over all weights and samples tell?"""
    return (one.weights_sum, one.held_out_loss) == (other.weights_sum, other.held_out_loss)
