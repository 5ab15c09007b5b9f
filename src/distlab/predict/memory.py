"""Bytes that a rank must hold to train a model: parameters, gradients and optimizer states, sharded or not.

Activations are not in here: they depend on batch, sequence and recomputation, and are often the larger part
(`training_memory`).
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.units import GIB

RESERVE_BYTES = 3.0 * GIB
"""Of a GPU's memory that programs can have, for what is in no model of tensors: the CUDA context, libraries'
workspaces, NCCL's buffers. Recalled (R): measure your own, as what nvidia-smi shows less torch's
max_memory_reserved."""


@dataclass(frozen=True)
class StateBytes:
    """Bytes per parameter of each kind of state. The default is mixed-precision Adam: 2 + 2 + 12.

    The 12 are fp32 copies of the weight, the momentum and the variance (Rajbhandari et al., ZeRO, SC'20).
    """

    parameter: float = 2
    gradient: float = 2
    optimizer: float = 12


MIXED_PRECISION_ADAM = StateBytes()
FULL_PRECISION_ADAM = StateBytes(parameter=4, gradient=4, optimizer=8)


@dataclass(frozen=True)
class RankMemory:
    """Bytes on one rank, by kind."""

    parameter_bytes: float
    gradient_bytes: float
    optimizer_bytes: float

    @property
    def total_bytes(self) -> float:
        return self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes


def zero_memory(
    parameters: float, world_size: int, stage: int, state: StateBytes = MIXED_PRECISION_ADAM
) -> RankMemory:
    """What one rank of `world_size` holds at ZeRO stage 0 to 3.

    Stage 0 is plain data parallelism; 1 shards the optimizer states, 2 the gradients too, 3 the parameters
    too (FSDP's full sharding). Between steps only: stage 3 gathers one layer at a time on top of this.
    """
    if stage not in range(4):
        raise SettingError(f"stage is {stage}; ZeRO has the stages 0 (plain data parallel), 1, 2 and 3.")
    if world_size < 1:
        raise SettingError(f"world_size is {world_size}; it must be 1 or more.")
    n = world_size
    return RankMemory(
        parameter_bytes=parameters * state.parameter / (n if stage >= 3 else 1),
        gradient_bytes=parameters * state.gradient / (n if stage >= 2 else 1),
        optimizer_bytes=parameters * state.optimizer / (n if stage >= 1 else 1),
    )
