"""One process, nothing to share: the baseline that a distributed run is measured against."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.optimizer import OptimizerInBackward, set_learning_rate
from distlab.train.strategies.base import Batch, Strategy, Update


class Single(Strategy):
    """Plain training; with `optimizer.in_backward` also without ever holding all gradients at once."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        if self.world_size != 1:
            raise SettingError(
                f"strategy 'single' runs on 1 process, not on {self.world_size}; set world_size to 1, or "
                "strategy to 'ddp'."
            )
        if config.optimizer.in_backward:
            _check_in_backward(config)

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def build_optimizer(self) -> Any:
        if self.config.optimizer.in_backward:
            return OptimizerInBackward(self.model, self.config.optimizer)
        return super().build_optimizer()

    def gradients(self, batch: Batch) -> Tensor:
        set_learning_rate(self.optimizer, batch.learning_rate)  # for updates during the backward pass
        return super().gradients(batch)

    def update(self, learning_rate: float) -> Update:
        if self.config.optimizer.in_backward:
            return Update(norm=None)  # each weight was updated as soon as its gradient was known
        return super().update(learning_rate)

    def optimizers(self) -> list[Any]:
        if self.config.optimizer.in_backward:
            return list(cast(OptimizerInBackward, self.optimizer).optimizers.values())
        return super().optimizers()


def _check_in_backward(config: TrainConfig) -> None:
    """SettingError where something needs all gradients at once, which updates in the backward pass rule out."""
    for name, value, expected in (
        ("optimizer.clip_norm", config.optimizer.clip_norm, None),
        ("data.micro_batches", config.data.micro_batches, 1),
        (
            "memory.precision",
            config.memory.precision,
            "bf16" if config.memory.precision == "bf16" else "fp32",
        ),
    ):
        if value != expected:
            raise SettingError(
                f"optimizer.in_backward updates a weight before the other gradients exist, and {name} is "
                f"{value!r}, which needs all of them; set it to {expected!r}, or in_backward to false."
            )
