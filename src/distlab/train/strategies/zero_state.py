"""The weights and the optimizer state that ZeRO keeps in flat pieces, by parameter name.

ZeRO puts many parameters into one long vector and cuts it into n equal pieces, one for each rank, wherever
the cuts fall. A checkpoint has what all strategies have: a tensor per parameter, of which a rank may hold
some rows. So each parameter is put together, one at a time, and a rank keeps its rows; the way back is the
same. DeepSpeed's documented `safe_get_full_...` and `safe_set_full_...` do the gathering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import _CHECKPOINT_PREFIX
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer


class ZeroState:
    """Reads and writes the state of a DeepSpeed engine of stage 1, 2 or 3."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, stage: int, mesh: DeviceMesh) -> None:
        """Before DeepSpeed replaces the optimizer's parameters by flat pieces. mesh: of all ranks, one axis."""
        self.stage = stage
        self.mesh = mesh
        named = model.named_parameters(remove_duplicate=False)  # a tied matrix goes by both its names
        self.parameters = {name.replace(_CHECKPOINT_PREFIX, ""): p for name, p in named}
        self.trained: dict[str, int] = {}
        """The parameters that the optimizer sees, by their first name, and the number of its group of each."""
        first_names = {p: name for name, p in reversed(self.parameters.items())}
        for i, group in enumerate(optimizer.param_groups):
            self.trained |= {first_names[p]: i for p in group["params"]}

    def attach(self, deepspeed: Any, engine: Any) -> None:
        """After DeepSpeed did that, and before the first step. deepspeed: the package."""
        self.deepspeed = deepspeed
        self.zero = engine.optimizer
        self.pieces = list(self._pieces())
        """This rank's flat pieces of the fp32 weights, and the optimizer's group of each."""
        self._create_optimizer_state()
        _, piece = self.pieces[0]
        state = self.zero.state[piece]
        self.moments = [key for key, value in state.items() if value.shape == piece.shape]
        self.counts = [key for key in state if key not in self.moments]

    def read(self) -> dict[str, Any]:
        """The state as `Strategy.state` gives it, in rows (DTensors); weights are the fp32 ones."""
        weights = {p: self._rows(self._whole_weights(p)) for p in self.parameters.values()}
        _, piece = self.pieces[0]
        optimizer: dict[str, Any] = {}
        for name, group in self.trained.items():
            for key in self.moments:
                moment = self.deepspeed.utils.safe_get_full_optimizer_state(self.parameters[name], key)
                optimizer[f"state.{name}.{key}"] = self._rows(moment)
            for key in self.counts:  # the same for all parameters: they have taken the same steps
                optimizer[f"state.{name}.{key}"] = self.zero.state[piece][key].clone()
            for key, value in _settings(self.zero.param_groups[group]).items():
                optimizer[f"param_groups.{name}.{key}"] = value
        return {"model": {name: weights[p] for name, p in self.parameters.items()}, "optimizer": optimizer}

    def write(self, state: dict[str, Any]) -> None:
        """Take over what `read` gave, as loaded from a checkpoint."""
        optimizer = state["optimizer"]
        for parameter, rows in {self.parameters[name]: rows for name, rows in state["model"].items()}.items():
            self._set_weights(parameter, rows.full_tensor())
        for name in self.trained:
            for key in self.moments:
                moment = optimizer[f"state.{name}.{key}"].full_tensor()
                self.deepspeed.utils.safe_set_full_optimizer_state(self.parameters[name], moment, key)
            for key in self.counts:
                for _, piece in self.pieces:
                    self.zero.state[piece][key].copy_(optimizer[f"state.{name}.{key}"])

    def _whole_weights(self, parameter: nn.Parameter) -> Tensor:
        if parameter.requires_grad:
            weights: Tensor = self.deepspeed.utils.safe_get_full_fp32_param(parameter)
            return weights
        with self.deepspeed.zero.GatheredParameters([parameter], enabled=self.stage == 3):
            return parameter.detach().float().clone()  # frozen ones are kept as they are computed with

    @torch.no_grad()
    def _set_weights(self, parameter: nn.Parameter, weights: Tensor) -> None:
        with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
            parameter.copy_(weights)
        if parameter.requires_grad:
            self.deepspeed.utils.safe_set_full_fp32_param(parameter, weights)

    def _rows(self, whole: Tensor) -> DTensor:
        """This rank's rows; `clone` lets the others go."""
        rows = distribute_tensor(whole, self.mesh, [Shard(0)], src_data_rank=None)
        return cast(DTensor, rows.clone())

    def _pieces(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        if self.stage < 3:
            yield from zip(self.zero.param_groups, self.zero.single_partition_of_fp32_groups, strict=True)
        else:
            for i, piece in enumerate(self.zero.fp32_partitioned_groups_flat):
                yield self.zero.param_groups[self.zero.sub_group_to_group_id[i]], piece

    def _create_optimizer_state(self) -> None:
        """Let torch's optimizer make its state now, which it does in its first step, and leave the weights.

        A step with no gradient and no learning rate does. But it counts, and Adam corrects its first steps by
        their number. And DeepSpeed looks once, after the step of the first group, where the moments of all
        groups lie; those of later groups would not be there yet.
        """
        optimizer = self.zero.optimizer
        groups = optimizer.param_groups
        for group, piece in self.pieces:
            gradient, piece.grad = piece.grad, torch.zeros_like(piece)
            optimizer.param_groups = [group | {"params": [piece], "lr": 0.0}]
            optimizer.step()
            piece.grad = gradient
            if "step" in optimizer.state[piece]:
                optimizer.state[piece]["step"].zero_()
        optimizer.param_groups = groups
        if self.stage < 3:
            self.zero._lazy_init_hp_params_optimizer_state()


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}
