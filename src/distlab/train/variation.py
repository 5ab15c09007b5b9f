"""What a search varies of a configuration: settings by dotted name, and how a trial came by those that it has.

`ray_tune` and `trial` stand on it; it needs neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distlab.errors import SettingError
from distlab.train.config import CheckpointConfig, LogConfig, TrainConfig, from_dict

CHANGES = ("optimizer.learning_rate", "optimizer.clip_norm")
"""Settings that take effect in the middle of a run. Others are part of the model, the data or a checkpoint."""


@dataclass(frozen=True)
class Stage:
    """Settings that weights were trained with, from an optimizer step on."""

    trial: str
    first_step: int
    settings: dict[str, Any]


def as_trial(config: TrainConfig) -> TrainConfig:
    """The same mathematics on one process, with nothing left behind."""
    return replace(
        config,
        strategy="single",
        world_size=1,
        checkpoint=CheckpointConfig(),
        resume_from_checkpoint=None,
        max_restarts=0,
        faults=(),
        log=LogConfig(jsonl=False),
    )


def vary(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some settings replaced, by dotted name; SettingError for what there is not."""
    changed = config.as_dict()
    for name, value in settings.items():
        *parents, last = name.split(".")
        part = changed
        for parent in parents:
            part = part.setdefault(parent, {})
            if not isinstance(part, dict):
                raise SettingError(f"There is no setting {name}; {parent} has no parts.")
        part[last] = value
    return from_dict(changed)
