"""What a training run gives back."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distlab.train.config import TrainConfig

if TYPE_CHECKING:
    from distlab.bench.stamp import Stamp


def finite(value: float) -> float | None:
    """The value, or None for nan and infinity, which JSON has no words for."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step of one rank; `step_s = data_s + compute_s + communication_s`."""

    step: int
    """Counted from 0."""
    epoch: int
    loss: float
    """Mean loss over the tokens of the step's global batch, the same on every rank."""
    learning_rate: float
    samples: int
    """Samples that this rank computed on."""
    tokens: int
    """Targets among them that count; for images, one a sample."""
    step_s: float
    """From choosing the samples to the end of the update. What lies between two steps (logging, saving, a fault that
    strikes) is in no step's time; the log's `run_s` goes on through it, and cost counts it as idle."""
    data_s: float
    """Choosing the rank's samples and bringing them to the device."""
    compute_s: float
    """The rest: forward, backward, optimizer; and the delay of an injected fault `slow`."""
    communication_s: float
    """Time in which the rank did nothing but wait for others (see the strategy's `communication_s`)."""
    gradient_norm: float | None = None
    """2-norm of the whole gradient before clipping, where it was needed."""
    applied: bool = True
    """False where an fp16 overflow left the step out."""


@dataclass(frozen=True)
class TrainResult:
    """One rank's view of a run."""

    config: TrainConfig
    rank: int
    world_size: int
    parameters: int
    """Trainable ones, of the whole model."""
    payload_bytes: int
    """Bytes of gradients that one step averages."""
    steps: list[StepRecord]
    """Those of this process: a resumed run begins where its checkpoint ends."""
    accuracy: float
    """Share of the held-out targets that the trained model gets right."""
    held_out_loss: float
    """Mean loss over the held-out targets."""
    weights_sum: float
    """Sum of all weights in double precision: equal on all ranks, or they have drifted apart."""
    stamp: Stamp
    resumed_from: int | None = None
    """Optimizer steps that the loaded checkpoint had behind it."""
    interrupted: bool = False
    """Was the run ended by Ctrl-C, with a checkpoint of its last step?"""

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and dictionaries."""
        return dataclasses.asdict(self)
