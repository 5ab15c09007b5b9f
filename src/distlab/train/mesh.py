"""One named mesh of ranks for all ways of dividing the work, and what its axes share.

A rank has a coordinate on each axis:

- `pipeline`: which layers it holds; only activations and their gradients pass from stage to stage, so that
  this axis bears the slowest links and comes first;
- `data`: which samples it takes;
- `tensor`: which part of every layer it holds; the ranks along it exchange activations in every layer, so
  that they should be neighbours inside one machine: this axis comes last, and its ranks are consecutive.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor

from distlab.errors import SettingError
from distlab.train.config import TrainConfig

AXES = ("pipeline", "data", "tensor")


def build_mesh(config: TrainConfig, device: torch.device) -> DeviceMesh:
    """All ranks of the process group by their coordinates; `data` takes what the other axes leave.

    SettingError where there is no process group, or its size does not divide.
    """
    if not dist.is_initialized():
        raise SettingError(
            f"strategy {config.strategy!r} shares the model among ranks, and this process has no process "
            "group; start it with `distlab train`, `torchrun` or `distlab.train.launch`."
        )
    pipeline, tensor = config.parallel.pipeline, config.parallel.tensor
    world_size = dist.get_world_size()
    if world_size % (pipeline * tensor):
        raise SettingError(
            f"world_size is {world_size}; it must be a multiple of {pipeline * tensor}, which is "
            f"parallel.pipeline, {pipeline}, times parallel.tensor, {tensor}."
        )
    shape = (pipeline, world_size // (pipeline * tensor), tensor)
    return init_device_mesh(device.type, shape, mesh_dim_names=AXES)


def sum_gradients(model: nn.Module, mesh: DeviceMesh, axis: str) -> None:
    """Replace every gradient by its sum over the ranks along `axis`, in one all-reduce of all of them.

    The simplest data parallelism there is. DDP sends the same in buckets while the backward pass goes on.
    """
    if mesh[axis].size() == 1:
        return
    gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
    buffer = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(buffer, group=mesh.get_group(axis))
    parts = torch.split(buffer, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies on this rank: the shard of a DTensor, else the tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
