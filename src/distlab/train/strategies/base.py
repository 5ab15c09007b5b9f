"""What the training loop needs of a strategy, and what most strategies do alike.

One optimizer step is `gradients` (forward and backward over this rank's micro-batches) and then `update`
(clip, step). The mathematics is the same everywhere: with L the sum of the losses of all tokens of the step,
on all ranks and in all micro-batches, and T their number, the step follows the gradient of L / T. Averaging
the means of micro-batches or of ranks would weigh a token by the company it keeps.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from distlab.bench.stamp import Stamp, stamp
from distlab.train.config import TrainConfig
from distlab.train.models import IGNORED, loss_sum
from distlab.train.optimizer import build_optimizer, join_8bit, set_learning_rate, split_8bit
from distlab.train.precision import LossScale, autocast
from distlab.train.recompute import recompute_activations

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
"""Optimizer state and settings as one entry per parameter: a rank's entries do not depend on which others
the rank holds, so that ranks with different layers (pipeline stages) write one common checkpoint."""


@dataclass(frozen=True)
class Batch:
    """A rank's part of one optimizer step."""

    micro_batches: list[tuple[Tensor, Tensor]]
    """Inputs and targets. As many on every rank; one may hold no sample."""
    global_tokens: int
    """Targets that count, over all ranks and micro-batches of the step."""
    learning_rate: float
    """Of this step."""


@dataclass(frozen=True)
class Sums:
    """What a model made of some held-out samples."""

    loss: float
    """Sum of the losses of all targets that count."""
    right: int
    """Targets guessed right."""
    tokens: int
    """Targets that count."""


@dataclass(frozen=True)
class Update:
    """What became of the gradients of a step."""

    norm: float | None
    """2-norm of the whole model's gradient before clipping; None where nothing needed it."""
    applied: bool = True
    """False: fp16 gradients overflowed, and the weights stayed as they were."""


class Strategy(ABC):
    """A way of training one model on all ranks; `prepare` it before anything else."""

    shards: frozenset[str] = frozenset()
    """What no rank holds whole: of "weights", "gradients", "optimizer"."""
    accumulates_without_sync = True
    """Do gradients travel once per step, however many micro-batches it has?"""
    gradient_factor = 1
    """What this rank's loss is multiplied by, so that the strategy's own arithmetic gives sums over ranks."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """SettingError for a configuration that cannot run on these ranks."""
        self.config = config
        self.device = device
        self.world_size, self.rank = (
            (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        )
        self.data_size, self.data_rank = self.world_size, self.rank
        """Copies of the model that take different samples, and which of them this rank belongs to."""

    @abstractmethod
    def wrap(self, model: nn.Module) -> nn.Module:
        """Put the model on the device and make it ready to train; the returned module is called."""

    def prepare(self, model: nn.Module) -> None:
        """Wrap the model and build its optimizer."""
        recompute_activations(model, self.config.memory.activation_checkpointing)
        self.model = self.wrap(model)
        self.forward = self.compiled() if self.config.compile else self.model
        self.scale = LossScale(self.config.memory.precision == "fp16")
        self.optimizer = self.build_optimizer()

    def compiled(self) -> Any:
        """What to call in place of the model in training when torch.compile is asked for."""
        return torch.compile(self.model)

    def build_optimizer(self) -> Optimizer:
        """The optimizer of the wrapped model."""
        return build_optimizer(self.model, self.config.optimizer)

    def rehearse(self, batch: Batch) -> None:  # noqa: B027
        """Do before a run, fresh or resumed, what only its first step would do otherwise; weights stay."""

    def gradients(self, batch: Batch) -> Tensor:
        """Leave the gradient of the mean loss over `global_tokens` in every `.grad`, times the loss scale.

        Returns this rank's part of that mean: the sum over all ranks is the loss of the step.
        """
        part = torch.zeros((), device=self.device)
        for i, (inputs, targets) in enumerate(batch.micro_batches):
            with self.synchronise(i == len(batch.micro_batches) - 1):
                with self.autocast():
                    outputs = self.forward(inputs)
                loss = loss_sum(outputs, targets) / batch.global_tokens
                del outputs  # as large as the vocabulary, and of no use to the backward pass
                self.backward(loss * (self.gradient_factor * self.scale.factor))
            part += loss.detach()
        return part

    def autocast(self) -> AbstractContextManager[Any]:
        """Around each forward pass: compute in the configured precision."""
        return autocast(self.device, self.config.memory.precision)

    def synchronise(self, last: bool) -> AbstractContextManager[Any]:
        """Around each micro-batch: gradients travel between ranks only in the last one's backward pass."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss` to every `.grad`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def update(self, learning_rate: float) -> Update:
        """Undo the loss scale, clip, step, and clear the gradients."""
        clip_norm = self.config.optimizer.clip_norm
        norm: float | None = None
        applied = True
        if clip_norm is not None or self.scale.enabled:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            total = self.total_norm(gradients) / self.scale.factor
            norm = total.item()
            applied = self.scale.observe(norm)
            if applied:
                torch._foreach_div_(gradients, self.scale.factor)
                if clip_norm is not None:
                    clip_grads_with_norm_(self.model.parameters(), clip_norm, total)
        if applied:
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
        self.optimizer.zero_grad()
        return Update(norm, applied)

    def total_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """2-norm over the gradients of the whole model, whatever part of them this rank holds."""
        norm = get_total_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sum_over_ranks(self, value: Tensor) -> dist.Work | None:
        """Begin to sum `value` in place over all ranks; wait for the result before reading it."""
        return dist.all_reduce(value, async_op=True) if self.world_size > 1 else None

    def stamp(self) -> Stamp:
        """Where this rank computes, and what carries gradients between ranks: a group of torch's."""
        return stamp(self.device)

    def communication_s(self) -> float:
        """Seconds for which the last step did nothing but wait for other ranks' gradients or weights."""
        return 0.0

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Sums:
        """Loss and right guesses on held-out samples; every rank gets the same samples and answers alike."""
        self.model.eval()
        with torch.no_grad(), self.autocast():
            outputs = self.model(inputs)
        self.model.train()
        return count_right(outputs, targets)

    def weights_sum(self) -> float:
        """Sum of the weights of the whole model in double precision."""
        total = 0.0
        for weights in self.model.parameters():
            part = weights.detach().double().sum()
            total += (part.full_tensor() if isinstance(part, DTensor) else part).item()
        return total

    def optimizers(self) -> list[Optimizer]:
        """All optimizers that hold state."""
        return [self.optimizer]

    def state(self) -> dict[str, Any]:
        """Weights and optimizer state by parameter name, each rank's own part: what a checkpoint holds."""
        return read_state(self.model, self.optimizers())

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned, as loaded from a checkpoint.

        Momentum, weight decay and the like stay those of this run's configuration.
        """
        write_state(self.model, self.optimizers(), state)

    def close(self) -> None:  # noqa: B027
        """Let go of what the strategy opened, when a run ends well."""


def read_state(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """Weights and optimizer state by parameter name, as `Strategy.state` returns them."""
    fresh = [optimizer for optimizer in optimizers if not optimizer.state]
    weights, state = get_state_dict(model, optimizers, options=FLAT)
    for optimizer in fresh:  # torch made its state in a step without gradients, which is none of the run's
        for values in optimizer.state.values():
            if "step" in values:
                values["step"].zero_()
    return {"model": weights, "optimizer": split_8bit(state)}


def write_state(model: nn.Module, optimizers: list[Optimizer], state: dict[str, Any]) -> None:
    """Take over what `read_state` returned, but for the settings of the optimizers, which are not looked at."""
    _, own = get_state_dict(model, optimizers, options=FLAT)
    settings = {name: value for name, value in own.items() if name.startswith("param_groups.")}
    loaded = join_8bit(state["optimizer"], own) | settings
    set_state_dict(model, optimizers, model_state_dict=state["model"], optim_state_dict=loaded, options=FLAT)


def count_right(outputs: Tensor, targets: Tensor) -> Sums:
    """Sums over the targets that count; outputs (..., classes), targets (...)."""
    counted = targets != IGNORED
    right = (outputs.argmax(-1) == targets)[counted].sum()
    return Sums(loss_sum(outputs, targets).item(), int(right), int(counted.sum()))
