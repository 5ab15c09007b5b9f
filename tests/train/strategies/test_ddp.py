"""DDP communicates once per step, and compressed gradients train about as well as exact ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from distlab.errors import SettingError
from distlab.train.config import CommunicationConfig, DataConfig, MemoryConfig, ModelConfig, TrainConfig
from distlab.train.launch import launch
from distlab.train.result import TrainResult
from distlab.train.strategies import build_strategy
from distlab.train.strategies.ddp import DDP
from tests.train.strategies.equivalence import train_cases
from tests.train.strategies.fake_ranks import fake_ranks, gradient_collectives
from tests.train.strategies.weights import TEXT

EXACT = TrainConfig(steps=100, model=ModelConfig(width=32), data=DataConfig(global_batch=64))
CPU = torch.device("cpu")


def _compressed(compression: str, **settings: Any) -> TrainConfig:
    communication = CommunicationConfig(compression=compression, **settings)  # type: ignore[arg-type]
    return replace(EXACT, communication=communication)


FP16, POWERSGD = _compressed("fp16"), _compressed("powersgd", powersgd_rank=2)


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What both ranks of one launch found."""
    return launch(_on_ranks, 2, threads_per_rank=1)


def _on_ranks() -> dict[str, Any]:
    exact, fp16, powersgd = train_cases([EXACT, FP16, POWERSGD])
    counts = [
        gradient_collectives(replace(TEXT, data=replace(TEXT.data, micro_batches=micro_batches)))
        for micro_batches in (1, 3)
    ]
    return {"exact": exact, "fp16": fp16, "powersgd": powersgd, "counts": counts}


def _losses(result: TrainResult) -> list[float]:
    return [step.loss for step in result.steps]


def test_gradients_travel_once_per_step(ranks: list[dict[str, Any]]) -> None:
    """The small model is one bucket: one all-reduce, however many micro-batches."""
    assert DDP.accumulates_without_sync
    for rank in ranks:
        assert rank["counts"] == [{"allreduce": 1}, {"allreduce": 1}]


def test_gradients_in_fp16_train_as_well(ranks: list[dict[str, Any]]) -> None:
    """A gradient sent in fp16 has 11 bits: errors below 0.05 percent, in all directions alike."""
    for rank in ranks:
        exact, fp16 = rank["exact"], rank["fp16"]
        assert _losses(fp16) == pytest.approx(_losses(exact), abs=2e-3)
        assert fp16.held_out_loss == pytest.approx(exact.held_out_loss, abs=2e-3)
        assert _losses(fp16)[1:] != _losses(exact)[1:]  # or nothing was rounded
        assert fp16.weights_sum == ranks[0]["fp16"].weights_sum


def test_powersgd_makes_up_for_what_it_leaves_out(ranks: list[dict[str, Any]]) -> None:
    """Of a matrix of rank 10 to 32 two directions are sent; the rest is added to the next step's gradient.

    So it learns a little later. After 100 steps it must be within 0.03 of the exact run: a seventieth of the
    2.2 that training takes off the loss. Were it to forget what it left out, it would be 0.17 behind.
    """
    for rank in ranks:
        exact, powersgd = rank["exact"], rank["powersgd"]
        assert _losses(exact)[0] - exact.held_out_loss > 2
        assert powersgd.held_out_loss == pytest.approx(exact.held_out_loss, abs=0.03)
        # The first step's gradients travel whole (`start_powerSGD_iter`), so that the first two losses are exact.
        assert _losses(powersgd)[:2] == _losses(exact)[:2]
        assert all(a != b for a, b in zip(_losses(powersgd)[2:], _losses(exact)[2:], strict=True))
        assert powersgd.weights_sum == ranks[0]["powersgd"].weights_sum


def test_powersgd_would_remember_an_overflow() -> None:
    config = replace(POWERSGD, memory=MemoryConfig(precision="fp16"))
    with fake_ranks(2), pytest.raises(SettingError, match="an overflow would stay for good"):
        build_strategy(config, CPU)
