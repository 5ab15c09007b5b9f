"""The weights and the optimizer state that ZeRO keeps in flat pieces, by parameter name.

ZeRO puts many parameters into one long vector and cuts it into n equal pieces, one for each rank, wherever
the cuts fall. A checkpoint has what all strategies have: a tensor per parameter, of which a rank may hold
some rows. So each parameter is put together, one at a time, and a rank keeps its rows; the way back is the
same. DeepSpeed's documented `safe_get_full_...` and `safe_set_full_...` do the gathering.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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

    def read(self, engine: Any) -> dict[str, Any]:
        """The state as `Strategy.state` gives it, in rows (DTensors); weights are the fp32 ones."""
        from deepspeed.utils import safe_get_full_optimizer_state  # type: ignore[import-not-found,unused-ignore]

        weights = {p: self._rows(self._whole_weights(p)) for p in self.parameters.values()}
        optimizer: dict[str, Any] = {}
        moments, scalars = self._state_keys(engine)
        for name, group in self.trained.items():
            for key in moments:
                moment = safe_get_full_optimizer_state(self.parameters[name], key)
                optimizer[f"state.{name}.{key}"] = self._rows(moment)
            for key, value in scalars.items():
                optimizer[f"state.{name}.{key}"] = value.clone()
            for key, value in _settings(engine.optimizer.param_groups[group]).items():
                optimizer[f"param_groups.{name}.{key}"] = value
        return {"model": {name: weights[p] for name, p in self.parameters.items()}, "optimizer": optimizer}

    def write(self, engine: Any, state: dict[str, Any]) -> None:
        """Take over what `read` gave, as loaded from a checkpoint."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for parameter, rows in {self.parameters[name]: rows for name, rows in state["model"].items()}.items():
            self._set_weights(parameter, rows.full_tensor())
        optimizer = state["optimizer"]
        moments, scalars = self._state_keys(engine)
        for name, group in self.trained.items():
            for key in moments:
                moment = optimizer[f"state.{name}.{key}"].full_tensor()
                safe_set_full_optimizer_state(self.parameters[name], moment, key)
            for key in scalars:  # the same for all parameters: they have taken the same steps
                for _, piece in self._pieces(engine):
                    engine.optimizer.state[piece][key].copy_(optimizer[f"state.{name}.{key}"])
            settings = engine.optimizer.param_groups[group]
            settings |= {key: optimizer[f"param_groups.{name}.{key}"] for key in _settings(settings)}

    def _whole_weights(self, parameter: nn.Parameter) -> Tensor:
        from deepspeed.utils import safe_get_full_fp32_param
        from deepspeed.zero import GatheredParameters  # type: ignore[import-not-found,unused-ignore]

        if parameter.requires_grad:
            weights: Tensor = safe_get_full_fp32_param(parameter)
            return weights
        with GatheredParameters([parameter], enabled=self.stage == 3):
            return parameter.detach().float()  # frozen weights are kept in the precision of the computation

    @torch.no_grad()
    def _set_weights(self, parameter: nn.Parameter, weights: Tensor) -> None:
        from deepspeed.utils import safe_set_full_fp32_param
        from deepspeed.zero import GatheredParameters

        with GatheredParameters([parameter], modifier_rank=0, enabled=self.stage == 3):
            parameter.copy_(weights)
        if parameter.requires_grad:
            safe_set_full_fp32_param(parameter, weights)

    def _rows(self, whole: Tensor) -> DTensor:
        """This rank's rows; `clone` lets the others go."""
        return distribute_tensor(whole, self.mesh, [Shard(0)], src_data_rank=None).clone()

    def _state_keys(self, engine: Any) -> tuple[list[str], dict[str, Tensor]]:
        """What the optimizer remembers: names of what it has per number, and what it has per piece."""
        _create_optimizer_state(engine, list(self._pieces(engine)), self.stage)
        _, piece = next(self._pieces(engine))
        state = engine.optimizer.state[piece]
        moments = [key for key, value in state.items() if value.shape == piece.shape]
        return moments, {key: value for key, value in state.items() if key not in moments}

    def _pieces(self, engine: Any) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """This rank's flat pieces of the fp32 weights, and the optimizer's group of each."""
        zero = engine.optimizer
        if self.stage < 3:
            yield from zip(zero.param_groups, zero.single_partition_of_fp32_groups, strict=True)
        else:
            for i, piece in enumerate(zero.fp32_partitioned_groups_flat):
                yield zero.param_groups[zero.sub_group_to_group_id[i]], piece


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _create_optimizer_state(engine: Any, pieces: list[tuple[dict[str, Any], Tensor]], stage: int) -> None:
    """Let torch's optimizer make its state now, which it does in its first step, and leave the weights alone.

    A step with no gradient and no learning rate does. But it counts: Adam's correction of its first steps
    would be that of later ones if the count were left.
    """
    optimizer = engine.optimizer.optimizer
    if optimizer.state:
        return
    groups = optimizer.param_groups
    for group, piece in pieces:
        gradient, piece.grad = piece.grad, torch.zeros_like(piece)
        optimizer.param_groups = [group | {"params": [piece], "lr": 0.0}]
        optimizer.step()
        piece.grad = gradient
        if "step" in optimizer.state[piece]:
            optimizer.state[piece]["step"].zero_()
    optimizer.param_groups = groups
    if stage < 3:
        engine.optimizer._lazy_init_hp_params_optimizer_state()  # what a first step ends with
