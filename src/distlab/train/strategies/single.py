"""One process, nothing to share: the baseline that a distributed run is measured against."""

from __future__ import annotations

import torch
from torch import nn

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.strategies.base import Strategy


class Single(Strategy):
    """Plain training."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        if self.world_size != 1:
            raise SettingError(
                f"strategy 'single' runs on 1 process, not on {self.world_size}; set world_size to 1, or "
                "strategy to 'ddp'."
            )

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)
