"""What the training loop needs of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Strategy(ABC):
    """Makes the gradients of the global batch out of what each rank computes on its shard."""

    @abstractmethod
    def prepare(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Put the model on the device and make it ready to train; call the returned module."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Leave in every rank's `.grad` the mean over ranks of the gradients of their losses."""

    @abstractmethod
    def communication_s(self) -> float:
        """Seconds that the last `backward` waited for gradients; read it once the device has finished."""
