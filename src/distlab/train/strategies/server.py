"""The server of asynchronous training: the weights that count, and what pushes do to them.

What can be proved is a bound. If n workers push in turn, each gradient is n - 1 updates old, and SGD without
momentum on a quadratic of curvature c follows w[t+1] = w[t] - a w[t-n+1], where a = learning rate * c / n,
as a push is an n-th of a step. It converges if and only if a < 2 sin(pi / (4n - 2)) (Levin and May 1976, A
note on difference-delay equations). So the largest learning rate is 2 / c with 1 or 2 workers and falls to
1.57 / c with many; and momentum makes it worse, as asynchrony itself acts like momentum (Mitliagkas et al.
2016, Asynchrony begets momentum).
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distlab.train.config import OptimizerConfig
from distlab.train.optimizer import build_optimizer


@dataclass(frozen=True)
class Push:
    """What a worker sends with a gradient."""

    version: int
    """Of the weights that the gradient was computed with: how many updates they had seen."""
    step: int
    learning_rate: float
    loss_sum: float
    """Of the worker's samples of this step, which have so many tokens:"""
    tokens: int
    stop: bool
    """Was the worker asked to stop?"""


@dataclass(frozen=True)
class Pull:
    """What a worker gets back with the newest weights."""

    version: int
    loss: float
    """Mean over the tokens of the newest push of every worker, whichever step that was."""
    last_step: int
    """The step after which all workers stop; -1 while nobody was asked to."""


class Server:
    """The weights that count, and how pushes change them. Workers may push from several threads."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        """The model is on the CPU and belongs to the server from now on."""
        self.model = model
        self.optimizer = build_optimizer(model, config)
        self.version = 0
        self.staleness: Counter[int] = Counter()
        """How many pushes were so many updates late."""
        self._parameters = trainable(model)
        self._newest: dict[int, Push] = {}
        self._last_step = -1
        self._lock = threading.Lock()

    def weights(self) -> Tensor:
        """A copy of all trainable weights, one after the other, shape (parameters,)."""
        return flatten(self._parameters)

    def push(self, worker: int, gradient: Tensor, push: Push) -> tuple[Tensor, Pull]:
        """Take one optimizer step with a worker's gradient, shape (parameters,); return the new weights."""
        with self._lock:
            self.staleness[self.version - push.version] += 1
            for parameter, part in zip(self._parameters, unflatten(gradient, self._parameters), strict=True):
                parameter.grad = part
            for group in self.optimizer.param_groups:
                group["lr"] = push.learning_rate
            self.optimizer.step()
            self.version += 1
            self._newest[worker] = push
            if push.stop and self._last_step < 0:
                # Nobody can be further than in the step after the newest that was pushed; one more step, and
                # everybody hears of it in time to stop together.
                self._last_step = max(other.step for other in self._newest.values()) + 2
            tokens = sum(other.tokens for other in self._newest.values())
            loss = sum(other.loss_sum for other in self._newest.values()) / tokens if tokens else math.nan
            return self.weights(), Pull(self.version, loss, self._last_step)


def describe(staleness: Counter[int]) -> str:
    """The histogram in words."""
    parts = ", ".join(f"{late}: {count}" for late, count in sorted(staleness.items()))
    mean = sum(late * count for late, count in staleness.items()) / staleness.total()
    return f"Staleness of {staleness.total()} gradients, in updates by others: {parts} (mean {mean:.2f})."


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One vector on the CPU that holds a copy of all of them, one after the other."""
    return torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector in the shapes of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
