"""One run, carried on by one strategy after the other from each other's checkpoints, equals one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distlab.train.config import CheckpointConfig, ParallelConfig, TrainConfig
from distlab.train.launch import launch
from tests.train.strategies.equivalence import TOLERANCE
from tests.train.strategies.weights import TEXT, WEIGHT_TOLERANCE, Run, run

STEPS = 2
LEGS = ["ddp", "fsdp", "tensor_parallel", "pipeline", "fsdp", "pipeline", "ddp"]
"""Each takes over from the one before, after so many steps."""


def test_each_strategy_goes_on_where_another_stopped(tmp_path: Path) -> None:
    alone, weights = run(replace(TEXT, strategy="single", steps=STEPS * len(LEGS)))
    ranks = launch(_relay, 2, _legs(tmp_path), threads_per_rank=1, timeout_s=120)
    for legs in ranks:
        losses = [step.loss for result, _ in legs for step in result.steps]
        assert losses == pytest.approx([step.loss for step in alone.steps], abs=TOLERANCE["fp32"])
        for name, values in legs[-1][1].items():
            torch.testing.assert_close(values, weights[name], atol=WEIGHT_TOLERANCE, rtol=0)


def _legs(folder: Path) -> list[TrainConfig]:
    axes = {"tensor_parallel": ParallelConfig(tensor=2), "pipeline": ParallelConfig(pipeline=2)}
    return [
        replace(
            TEXT,
            strategy=strategy,
            parallel=axes.get(strategy, ParallelConfig()),
            steps=STEPS * (i + 1),
            folder=str(folder),
            checkpoint=CheckpointConfig(every_steps=STEPS),
            resume_from_checkpoint="latest" if i else None,
        )
        for i, strategy in enumerate(LEGS)
    ]


def _relay(configs: list[TrainConfig]) -> list[Run]:
    torch.manual_seed(torch.distributed.get_rank())
    return [run(config) for config in configs]
