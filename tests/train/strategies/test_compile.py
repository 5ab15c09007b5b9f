"""A compiled model computes what the plain one does, under every strategy that takes `compile`."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from distlab.errors import SettingError
from distlab.train.config import (
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.result import TrainResult
from distlab.train.strategies import build_strategy
from tests.train.strategies.equivalence import assert_same, train_cases
from tests.train.strategies.fake_ranks import fake_ranks

GPT = TrainConfig(
    compile=True,
    steps=5,
    model=ModelConfig("gpt", width=16, layers=2, heads=2),
    data=DataConfig("synthetic", global_batch=8, samples=32, sequence_length=8, micro_batches=2),
    optimizer=OptimizerConfig("adamw", learning_rate=3e-3, clip_norm=0.5),
)
CASES = [
    replace(GPT, strategy="ddp"),
    replace(GPT, strategy="fsdp"),
    replace(GPT, strategy="tensor_parallel", parallel=ParallelConfig(tensor=2)),
    replace(GPT, strategy="pipeline", parallel=ParallelConfig(pipeline=2)),
]
if find_spec("deepspeed"):
    CASES.append(replace(GPT, strategy="deepspeed", memory=MemoryConfig(zero_stage=0)))


def test_compiled_models_equal_the_plain_one() -> None:
    """The graphs are traced and run as they are: making C++ of them takes minutes, and is inductor's affair."""
    first, second = launch(_graphs_and_results, 2, threads_per_rank=1, timeout_s=120)
    for config, (graphs, result), (_, other) in zip(CASES, first, second, strict=True):
        assert graphs > 0, config.strategy
        assert_same(config, [result, other])


def _graphs_and_results() -> list[tuple[int, TrainResult]]:
    """For each case, how many graphs were traced, and what came of the run."""
    compiled: Any = torch.compile
    vars(torch)["compile"] = lambda model, **_: compiled(model, backend="aot_eager")
    found = []
    for config in CASES:
        torch._dynamo.reset()
        counters.clear()
        [result] = train_cases([config])
        found.append((counters["stats"]["unique_graphs"], result))
    return found


def test_inductor_compiles_the_classifier() -> None:
    """The one model that is compiled to the end."""
    counters.clear()
    config = replace(
        GPT, strategy="single", model=ModelConfig(width=8), data=replace(GPT.data, micro_batches=1)
    )
    assert_same(config, [train(config)])
    assert counters["stats"]["unique_graphs"] == 1


def test_zero_3_is_not_compiled() -> None:
    config = replace(GPT, strategy="deepspeed", memory=MemoryConfig(zero_stage=3))
    with fake_ranks(2), pytest.raises(SettingError, match="zero_stage is 3, whose hooks"):
        build_strategy(config, torch.device("cpu"))
