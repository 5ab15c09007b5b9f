"""torch's fully sharded data parallelism (FSDP2, `fully_shard`): every rank holds 1/n of everything.

Each block of the model is a *unit*, and what is left (embedding, head) is one more. A unit's weights lie in
shards, one on each rank. Right before the unit computes, an all-gather puts them together on every rank;
right after, the copy is dropped (`memory.reshard`; if not, it is kept until the backward pass is through).
Gradients are summed and dealt out by a reduce-scatter as soon as the unit's backward pass is done, and the
optimizer works on shards. So a rank holds 1/n of weights, gradients and optimizer state, and one or two whole
units at a time. The price is communication: two all-gathers and a reduce-scatter, 3/2 of DDP's bytes. With
several micro-batches gradients are reduced after the last alone; until then a rank keeps its own, whole.

Mixed precision. A `MixedPrecisionPolicy`, not autocast: the shards stay in fp32 for the optimizer, and what is
gathered is a 16-bit copy. So the all-gather moves half the bytes, the gathered unit takes half the memory,
and weights are cast once per gather. Under autocast fp32 weights would travel, to be cast on arrival. The
price: everything inside a unit is computed in 16 bits, also the sums and norms that autocast keeps in fp32;
results differ from autocast's by the rounding of 16-bit numbers. Gradients are reduced in fp32.

What is measured as communication: see `_watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.nn.utils import get_total_norm

from distlab.train.config import TrainConfig
from distlab.train.mesh import build_mesh, local
from distlab.train.models import blocks
from distlab.train.precision import DTYPES
from distlab.train.strategies.base import Batch, Strategy, Sums
from distlab.train.strategies.stopwatch import Stopwatch, stopwatch


class FSDP(Strategy):
    """Weights, gradients and optimizer state in shards; a block's weights are gathered while it computes."""

    shards = frozenset({"weights", "gradients", "optimizer"})

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.mesh = build_mesh(config, device)["data"]

    def wrap(self, model: nn.Module) -> nn.Module:
        memory = self.config.memory
        on_gpu = self.device.type == "cuda"
        half = DTYPES[memory.precision] if memory.precision != "fp32" else None
        options: dict[str, Any] = {
            "mesh": self.mesh,
            "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32),
            # Pinned memory is what a GPU copies from without a detour; without a GPU there is none.
            "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if memory.offload else OffloadPolicy(),
        }
        if not memory.offload:
            model.to(self.device)
        for parent, name in blocks(model):
            fully_shard(parent[name], reshard_after_forward=memory.reshard, **options)
        fully_shard(model, **options)  # the rest; kept from forward to backward, which begins with the head
        self.units = [module for module in model.modules() if isinstance(module, FSDPModule)]
        self.stopwatch = stopwatch(self.device)
        for unit in self.units:
            # Sums over ranks, not averages: the loss is divided by the tokens of all ranks already.
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
            _watch(unit, self.stopwatch, self.config.compile)
        return model

    def gradients(self, batch: Batch) -> Tensor:
        self.stopwatch.reset()
        return super().gradients(batch)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext()  # the units compute in the precision of their gathered weights

    def synchronise(self, last: bool) -> AbstractContextManager[Any]:
        cast(FSDPModule, self.model).set_requires_gradient_sync(last)
        return nullcontext()

    def communication_s(self) -> float:
        return self.stopwatch.total_s()

    def total_norm(self, gradients: Iterable[Tensor]) -> Tensor:
        """The root of the sum of all shards' squares; offloaded shards lie where no collective reaches."""
        squares = get_total_norm([local(gradient) for gradient in gradients]).to(self.device) ** 2
        dist.all_reduce(squares)
        return squares.sqrt()

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Sums:
        sums = super().evaluate(inputs, targets)
        for unit in self.units:  # some units wait for a backward pass to drop what they gathered
            unit.reshard()
        return sums

    def weights_sum(self) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for weights in self.model.parameters():
            total += local(weights.detach()).double().sum().to(self.device)
        dist.all_reduce(total)
        return total.item()


def _watch(unit: FSDPModule, watch: Stopwatch, compiled: bool) -> None:
    """Time what a unit does to communicate: the collectives, the waits for them, and copying in and out.

    FSDP has no public place for a clock; hooks around its own could serve, but several Python calls for each
    unit and pass show in short steps. These are the four methods of torch 2.13 in which it begins to gather
    weights, waits for them, sends gradients off (having waited for those of the unit before), and waits for
    the last ones at the end of the backward pass. On a GPU it gathers the next unit's weights while this one
    computes: only what that does not hide shows here. On CPU nothing is hidden.
    """
    for group in unit._get_fsdp_state()._fsdp_param_groups:
        for name in ("unshard", "wait_for_unshard", "post_backward", "finalize_backward"):
            method = _timed(getattr(group, name), watch)
            if compiled:  # no compiler can read a clock
                method = torch.compiler.disable(method)  # type: ignore[no-untyped-call]
            setattr(group, name, method)


def _timed(method: Callable[..., None], watch: Stopwatch) -> Callable[..., None]:
    def call(*args: Any) -> None:
        watch.start()
        method(*args)
        watch.stop()

    return call
