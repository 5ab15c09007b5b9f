"""What a training run is, and what it gives back."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from distlab.bench.stamp import Stamp


@dataclass(frozen=True)
class TrainConfig:
    """One run on the digits data. Equal configurations describe equal mathematics at any world size."""

    model: Literal["mlp", "cnn"] = "mlp"
    width: int = 512
    """Units of each hidden layer (mlp) or channels of the last convolution (cnn)."""
    steps: int = 40
    global_batch: int = 256
    """Samples per step over all ranks together; the last batch of an epoch is smaller."""
    learning_rate: float = 0.1
    momentum: float = 0.9
    seed: int = 0
    strategy: Literal["single", "ddp"] = "ddp"

    def __post_init__(self) -> None:
        for name in ("width", "steps", "global_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step of one rank; `step_s = data_s + compute_s + communication_s`."""

    step: int
    loss: float
    """Mean loss over the step's global batch, the same on every rank."""
    samples: int
    """Samples that this rank computed on."""
    step_s: float
    data_s: float
    """Choosing the rank's samples and bringing them to the device."""
    compute_s: float
    """The rest: forward, backward, optimizer."""
    communication_s: float
    """Time in which the rank did nothing but wait for gradients to be averaged (see strategies/ddp.py)."""


@dataclass(frozen=True)
class TrainResult:
    """One rank's view of a run."""

    config: TrainConfig
    rank: int
    world_size: int
    parameters: int
    payload_bytes: int
    """Bytes of gradients that one step averages."""
    steps: list[StepRecord]
    accuracy: float
    """Share of the held-out digits that the trained model gets right."""
    weights_sum: float
    """Sum of all weights in double precision: equal on all ranks, or they have drifted apart."""
    stamp: Stamp

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and dictionaries."""
        return dataclasses.asdict(self)
