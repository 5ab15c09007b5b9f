"""Tensor parallelism with torch's DTensor: every layer is split over the ranks of the mesh's `tensor` axis.

Two matrices in a row are split so that one exchange serves both (Shoeybi et al., 2019, Megatron-LM). The
first is split by *column* of its mathematical form x W: each rank computes some of the hidden units, from the
whole input. The second is split by *row*: each rank multiplies its own hidden units with the matching rows,
which gives one summand of the output; an all-reduce adds the summands. What lies between the two works on
each hidden unit by itself (an activation function) or on each attention head, so that it needs no exchange.

    x (whole) --> W1, columns --> hidden units, 1/n --> W2, rows --> summand of y -- all-reduce --> y (whole)

In the backward pass it is the other way round: the gradient of y is whole, that of x a sum over ranks. So a
transformer block costs two all-reduces of the activations forward and two backward, in every layer and not
hidden behind anything: this is for fast links. In a GPT, q, k, v and `up` are split by column, whole heads at
a time, `o` and `down` by row. The token embedding is split by token and the head, whose matrix has the same
shape and may be the same, by token as well; its logits are gathered. Norms are small: every rank has them.

Data parallelism on top: the mesh's `data` axis holds further copies, and one all-reduce sums their gradients.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.gpt import GPT
from distlab.train.mesh import build_mesh, sum_gradients
from distlab.train.strategies.base import Batch, Strategy
from distlab.train.strategies.stopwatch import Stopwatch, stopwatch


class TensorParallel(Strategy):
    """Every rank of the `tensor` axis holds 1/n of each large layer, and computes 1/n of it for all samples."""

    shards = frozenset({"weights", "gradients", "optimizer"})

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        if config.parallel.tensor == 1:
            raise SettingError(
                "parallel.tensor is 1, which leaves strategy 'tensor_parallel' nothing to split; set it to 2 "
                "or more, or strategy to 'ddp'."
            )
        check_divisible(config)
        self.mesh = build_mesh(config, device)
        self.data_size, self.data_rank = self.mesh["data"].size(), self.mesh.get_local_rank("data")
        self.stopwatch = stopwatch(device)

    def wrap(self, model: nn.Module) -> nn.Module:
        watch = None if self.config.compile else self.stopwatch
        split_layers(model.to(self.device), self.mesh["tensor"], watch)
        return model

    def gradients(self, batch: Batch) -> Tensor:
        self.stopwatch.reset()
        if self.config.model.dropout > 0:
            same_random_numbers(self.mesh, self.device)
        part = super().gradients(batch)
        self.stopwatch.start()
        sum_gradients(self.model, self.mesh, "data")
        self.stopwatch.stop()
        # All ranks of the tensor axis computed the same loss: one of them counts it.
        return part if self.mesh.get_local_rank("tensor") == 0 else torch.zeros_like(part)

    def communication_s(self) -> float:
        return self.stopwatch.total_s()


def check_divisible(config: TrainConfig) -> None:
    """SettingError for a model that the tensor axis cannot split evenly."""
    model, ranks = config.model, config.parallel.tensor
    if ranks == 1:
        return
    if model.kind == "cnn":
        raise SettingError(
            "model.kind is 'cnn', whose convolutions are not split over a tensor axis; set it to 'gpt' or 'mlp', "
            "or parallel.tensor to 1."
        )
    name, size = ("heads", model.heads) if model.kind == "gpt" else ("width", model.width)
    if size % ranks:
        raise SettingError(
            f"model.{name} is {size}; it must be a multiple of parallel.tensor, {ranks}, so that each rank "
            "gets as much as the others."
        )


def split_layers(model: nn.Module, mesh: DeviceMesh, watch: Stopwatch | None) -> None:
    """Split a GPT or an MLP over the one axis of `mesh`, in place; parameters keep their names.

    Every parameter becomes a DTensor, which knows the whole tensor's shape and which part this rank holds.
    `watch` counts the time of the exchanges; a compiled model makes them where no clock can be read.
    """
    plan = gpt_plan(model) if isinstance(model, GPT) else MLP_PLAN
    weights = dict(model.named_parameters(remove_duplicate=False))
    tied = "head.weight" in weights and weights["head.weight"] is weights.get("embedding.weight")
    for name, style in plan.items():
        layer = model.get_submodule(name)
        parallelize_module(layer, mesh, style)
        if watch is not None:
            _watch(layer, watch)
        if isinstance(layer, nn.Embedding):
            _split_gradient(layer.weight)
    if isinstance(model, GPT) and tied:
        model.head.weight = model.embedding.weight


def _split_gradient(weight: Tensor) -> None:
    """Keep this rank's part of a gradient that DTensor computes as a whole: that of an embedding."""
    if weight.requires_grad:
        assert isinstance(weight, DTensor)
        weight.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient.redistribute(placements=weight.placements)
        )


class Copied(ParallelStyle):
    """Every rank has the whole layer and computes all of it."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        def to_dtensor(_: nn.Module, inputs: tuple[Tensor], mesh: DeviceMesh) -> DTensor:
            return DTensor.from_local(inputs[0], mesh, [Replicate()], run_check=False)

        def to_local(_: nn.Module, output: DTensor, mesh: DeviceMesh) -> Tensor:
            return output.to_local()

        return distribute_module(module, device_mesh, None, to_dtensor, to_local)  # type: ignore[arg-type]


MLP_PLAN: dict[str, ParallelStyle] = {
    "blocks.0.1": ColwiseParallel(),
    "blocks.1.0": RowwiseParallel(),
    "head": Copied(),
}


def gpt_plan(model: GPT) -> dict[str, ParallelStyle]:
    """How each layer is split, by its name."""
    block: dict[str, ParallelStyle] = {
        "attention_norm": Copied(),
        # q, k and v read one x: as one DTensor, so that its three gradients are added before the all-reduce.
        "attention": PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Replicate()),
        "attention.q": ColwiseParallel(),
        "attention.k": ColwiseParallel(),
        "attention.v": ColwiseParallel(),
        "attention.o": RowwiseParallel(),
        "mlp_norm": Copied(),
        "mlp.up": ColwiseParallel(),
        "mlp.down": RowwiseParallel(),
    }
    plan = {f"blocks.{i}.{name}": style for i in model.blocks for name, style in block.items()}
    plan |= {
        "embedding": RowwiseParallel(input_layouts=Replicate()),
        "norm": Copied(),
        "head": ColwiseParallel(output_layouts=Replicate()),
    }
    # What a stage of a pipeline lacks has an Identity in its place.
    return {
        name: style for name, style in plan.items() if not isinstance(model.get_submodule(name), nn.Identity)
    }


def same_random_numbers(mesh: DeviceMesh, device: torch.device) -> None:
    """Let the ranks of the `tensor` axis draw alike from here on: they must drop the same activations."""
    seed = torch.randint(2**62, (1,), device=device)
    dist.broadcast(seed, group=mesh.get_group("tensor"), group_src=0)
    torch.manual_seed(int(seed))


def _watch(layer: nn.Module, watch: Stopwatch) -> None:
    """Time the exchanges of a layer, by hooks around those of its style.

    The output of a row is summed and the head's is gathered, after the forward pass; the gradient of a
    column's input is summed, after the backward pass. torch begins an exchange and waits where the result is
    used, which is at once: here the wait is made a little earlier, so that it can be timed.
    """
    given: Tensor | None = None

    def before_input(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal given
        given = inputs[0]

    def after_input(_: nn.Module, inputs: tuple[Tensor]) -> None:
        nonlocal given
        if given is not None and given.requires_grad and given is not inputs[0]:  # the style converted it
            inputs[0].register_hook(lambda gradient: watch.start())  # type: ignore[no-untyped-call]
            given.register_hook(lambda gradient: _finish(gradient, watch))  # type: ignore[no-untyped-call]
        given = None

    layer.register_forward_pre_hook(before_input, prepend=True)
    layer.register_forward_pre_hook(after_input)
    layer.register_forward_hook(lambda *_: watch.start(), prepend=True)
    layer.register_forward_hook(lambda layer, inputs, output: _finish(output, watch))


def _finish(exchanged: Tensor, watch: Stopwatch) -> None:
    if isinstance(exchanged, AsyncCollectiveTensor):
        exchanged.trigger_wait()  # type: ignore[no-untyped-call]
    watch.stop()
