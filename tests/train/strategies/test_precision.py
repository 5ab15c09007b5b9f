"""The loss scale of fp16 falls and rises as it must, and a step that overflows is left out on all ranks alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp import GradScaler  # type: ignore[attr-defined]

from distlab.train import precision
from distlab.train.config import (
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from distlab.train.launch import launch
from distlab.train.loop import Trainer
from distlab.train.mesh import local
from distlab.train.precision import FIRST_FACTOR, LossScale
from distlab.train.strategies.base import Batch, Strategy
from distlab.train.strategies.ddp import DDP

TOO_LARGE = 2.0**40
HALF = TrainConfig(
    steps=2,
    model=ModelConfig("gpt", width=16, layers=2, heads=2),
    data=DataConfig("synthetic", global_batch=7, samples=40, sequence_length=8, micro_batches=2),
    optimizer=OptimizerConfig("adamw", learning_rate=3e-3, clip_norm=0.5),
    memory=MemoryConfig(precision="fp16"),
)
CASES = [
    replace(HALF, strategy="ddp"),
    replace(HALF, strategy="fsdp"),
    replace(HALF, strategy="fsdp", memory=replace(HALF.memory, offload=True)),
    replace(HALF, strategy="tensor_parallel", parallel=ParallelConfig(tensor=2)),
    replace(HALF, strategy="pipeline", parallel=ParallelConfig(pipeline=2)),
]


def test_the_factor_is_halved_at_an_overflow_and_doubled_after_good_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As torch.amp.GradScaler does."""
    reference = GradScaler("cpu")
    assert reference._init_scale == FIRST_FACTOR
    assert reference.get_growth_interval() == precision.GOOD_STEPS
    reference.set_growth_interval(3)
    monkeypatch.setattr(precision, "GOOD_STEPS", 3)
    scale = LossScale(enabled=True)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], 1.0)
    factors = []
    for norm in [math.inf, 1, math.nan, 1, 1, 1, 1, 1, math.inf, 1, 1, 1, 1, 1, 1]:
        before = weight.item()
        reference.scale(weight)
        weight.grad = torch.tensor([float(norm)])
        reference.step(optimizer)
        reference.update()
        assert scale.observe(norm) == (weight.item() != before)
        assert scale.factor == reference.get_scale()
        factors.append(FIRST_FACTOR / scale.factor)
    assert factors == [2, 2, 4, 4, 4, 2, 2, 2, 4, 4, 4, 2, 2, 2, 1]


def test_without_fp16_the_factor_is_1() -> None:
    scale = LossScale(enabled=False)
    assert scale.observe(math.inf)
    assert scale.factor == 1


@pytest.fixture(scope="module")
def ranks() -> list[list[dict[str, Any]]]:
    """What each rank found, by case."""
    return launch(_on_ranks, 2, threads_per_rank=1, timeout_s=120)


def _on_ranks() -> list[dict[str, Any]]:
    return [
        {"everywhere": _overflow(config, _too_large), "on rank 1": _overflow(config, _infinite_on_rank_1)}
        for config in CASES
    ]


@pytest.mark.parametrize("kind", ["everywhere", "on rank 1"])
def test_an_overflow_leaves_the_step_out_on_all_ranks(ranks: list[list[dict[str, Any]]], kind: str) -> None:
    for rank in ranks:
        for config, found in zip(CASES, rank, strict=True):
            applied, factor, unchanged, changed = found[kind]
            assert applied == [False, True], config.strategy
            assert factor == (TOO_LARGE if kind == "everywhere" else FIRST_FACTOR) / 2
            assert unchanged, config.strategy
            assert changed, config.strategy


def _overflow(
    config: TrainConfig, spoil: Callable[[Strategy, pytest.MonkeyPatch], None]
) -> tuple[list[bool], float, bool, bool]:
    """Two steps, the first one spoiled.

    Were they taken; the loss scale after the first; did weights stay in the first, and change in the second?
    """
    with Trainer(config) as trainer, pytest.MonkeyPatch.context() as patch:
        strategy = trainer.strategy
        before = _weights(strategy)
        spoil(strategy, patch)
        trainer.step(0)
        factor, after = strategy.scale.factor, _weights(strategy)
        patch.undo()
        strategy.scale.factor = 1.0
        trainer.step(1)
        applied = [step.applied for step in trainer.result().steps]
        return applied, factor, before == after, after != _weights(strategy)


def _too_large(strategy: Strategy, patch: pytest.MonkeyPatch) -> None:
    """Numbers of fp16 end at 65,504."""
    strategy.scale.factor = TOO_LARGE


def _infinite_on_rank_1(strategy: Strategy, patch: pytest.MonkeyPatch) -> None:
    """Before DDP's ranks add their gradients; else in the part that rank 1 alone holds."""
    if strategy.rank == 0:
        return
    if isinstance(strategy, DDP):
        patch.setattr(strategy, "gradient_factor", math.inf)
        return
    real = strategy.gradients

    def gradients(batch: Batch) -> Tensor:
        part = real(batch)
        gradient = next(p.grad for p in strategy.model.parameters() if p.grad is not None)
        local(gradient).view(-1)[0] = math.inf
        return part

    patch.setattr(strategy, "gradients", gradients)


def _weights(strategy: Strategy) -> list[list[float]]:
    """What this rank holds."""
    return [local(p.detach()).flatten().tolist() for p in strategy.model.parameters()]
