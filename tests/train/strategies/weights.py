"""Runs of several configurations in one launch, with the weights that each ends with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from distlab.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from distlab.train.launch import launch
from distlab.train.loop import Trainer
from distlab.train.result import TrainResult
from distlab.train.strategies.base import Strategy
from tests.train.strategies.equivalence import assert_same, plain

WEIGHT_TOLERANCE = 1e-4
"""Of weights in fp32 after 6 steps of AdamW, which divides by gradients, however small."""

TEXT = TrainConfig(
    steps=6,
    seed=3,
    model=ModelConfig(kind="gpt", width=32, layers=3, heads=4),
    data=DataConfig(
        source="text", sequence_length=40, batching="by_length", global_batch=13, micro_batches=3
    ),
    optimizer=OptimizerConfig(name="adamw", learning_rate=3e-3, clip_norm=0.5),
)
"""Samples of all lengths, shares and micro-batches of unequal size, a tied matrix, clipping."""

Run = tuple[TrainResult, dict[str, Tensor]]


def run(config: TrainConfig) -> Run:
    """Train on this rank; also return the weights that it can see, whole, by name."""
    with Trainer(config) as trainer:
        for step in range(trainer.first, config.steps):
            trainer.step(step)
        return trainer.result(), whole_weights(trainer.strategy)


def whole_weights(strategy: Strategy) -> dict[str, Tensor]:
    """The weights of this rank's part of the model; every rank calls it."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
        for name, value in strategy.state()["model"].items()
    }


def run_all(configs: Sequence[TrainConfig]) -> list[Run]:
    """What each rank of a launch runs, from random numbers of its own."""
    torch.manual_seed(977 * (dist.get_rank() + 1))
    return [run(config) for config in configs]


def assert_equal_to_one_process(
    configs: Sequence[TrainConfig], world_size: int = 2
) -> list[list[TrainResult]]:
    """Losses, norms and final weights of every configuration are those of plain training.

    Returns the ranks' results for each configuration.
    """
    ranks = launch(run_all, world_size, list(configs), threads_per_rank=1, timeout_s=120)
    by_config = []
    for i, config in enumerate(configs):
        wanted, weights = run(plain(config))
        assert_same(config, [runs[i][0] for runs in ranks], wanted=wanted)
        if config.memory.precision == "fp32":
            seen = [name for runs in ranks for name in runs[i][1]]
            assert set(seen) == set(weights)
            for runs in ranks:
                for name, values in runs[i][1].items():
                    difference = (values - weights[name]).abs().max().item()
                    assert difference < WEIGHT_TOLERANCE, (name, config)
        by_config.append([runs[i][0] for runs in ranks])
    return by_config
