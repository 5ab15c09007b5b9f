"""One process, nothing to average."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distlab.train.strategies.base import Strategy


class Single(Strategy):
    """Plain training: the baseline that a distributed run is measured against."""

    def prepare(self, model: nn.Module, device: torch.device) -> nn.Module:
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        if world_size != 1:
            raise ValueError(f"strategy 'single' runs on 1 process, not on {world_size}; use 'ddp'.")
        return model.to(device)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def communication_s(self) -> float:
        return 0.0
