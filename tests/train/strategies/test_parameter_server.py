"""Asynchronous training is not the mathematics of one process; it meets a bound instead.

What is deterministic is tested on the server alone, with workers that take turns.
"""

from __future__ import annotations

import math
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distlab.errors import LaunchError, SettingError
from distlab.faults.config import Fault
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from distlab.train.launch import launch
from distlab.train.loop import Trainer, train
from distlab.train.result import TrainResult
from distlab.train.strategies.parameter_server import ParameterServer
from distlab.train.strategies.server import Push, Server, describe
from tests.train.strategies.equivalence import alone

ASYNCHRONOUS = TrainConfig(
    strategy="parameter_server",
    steps=80,
    seed=3,
    model=ModelConfig(width=32),
    data=DataConfig(global_batch=256),
)


class Weight(nn.Module):
    """The smallest model: its loss is curvature / 2 * w^2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))


def _take_turns(workers: int, learning_rate: float, pushes: int) -> tuple[float, Counter[int]]:
    """|w| after so many pushes of workers in turn, each a part 1 / workers of a step at curvature 1."""
    server = Server(Weight(), OptimizerConfig(momentum=0.0))
    seen = [(server.weights(), 0)] * workers
    for i in range(pushes):
        weights, version = seen[i % workers]
        push = Push(version, i // workers, learning_rate, loss_sum=0.0, tokens=1, stop=False)
        weights, pull = server.push(i % workers, weights / workers, push)
        seen[i % workers] = (weights, pull.version)
    return abs(seen[(pushes - 1) % workers][0].item()), server.staleness


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_the_largest_stable_learning_rate_is_the_one_of_theory(workers: int) -> None:
    limit = workers * 2 * math.sin(math.pi / (4 * workers - 2))
    assert limit == pytest.approx({1: 2.0, 2: 2.0, 3: 1.854, 8: 1.672}[workers], abs=1e-3)
    below, staleness = _take_turns(workers, 0.9 * limit, 400 * workers)
    above, _ = _take_turns(workers, 1.1 * limit, 400 * workers)
    assert below < 1e-3
    assert above > 1e3
    late = Counter({workers - 1: 400 * workers}) - Counter({workers - 1: workers})
    assert staleness == late + Counter(range(workers))  # the first push of each is fresher


def test_workers_that_take_turns_repeat_bit_for_bit() -> None:
    assert _take_turns(3, 0.5, 50) == _take_turns(3, 0.5, 50)


def test_staleness_in_words() -> None:
    words = "Staleness of 4 gradients, in updates by others: 0: 2, 3: 2 (mean 1.50)."
    assert describe(Counter({3: 2, 0: 2})) == words


def test_one_rank_is_plain_training() -> None:
    config = replace(ASYNCHRONOUS, steps=7)
    assert [s.loss for s in train(config).steps] == pytest.approx([s.loss for s in alone(config).steps])
    assert train(config).weights_sum == alone(config).weights_sum


def _train_watched(configs: list[TrainConfig]) -> list[tuple[TrainResult, Counter[int]]]:
    """Train, and look at the server; with checkpoints, rank 1 is asked to stop in its fifth step."""
    watched = []
    for config in configs:
        with Trainer(config) as trainer:
            strategy = trainer.strategy
            assert isinstance(strategy, ParameterServer)
            for step in range(config.steps):
                if config.checkpoint.every_steps and strategy.rank == 1 and step == 4:
                    signal.raise_signal(signal.SIGINT)
                trainer.step(step)
                if trainer.stopped:
                    break
            staleness = strategy.server.staleness if strategy.rank == 0 else Counter[int]()
            watched.append((trainer.result(), staleness))
    return watched


def test_two_workers(tmp_path: Path) -> None:
    stopped = replace(
        ASYNCHRONOUS,
        folder=str(tmp_path),
        steps=5000,
        checkpoint=CheckpointConfig(every_steps=2500),
        data=DataConfig(global_batch=718),  # the third step of each epoch has one sample: rank 1 has none
    )
    first, second = launch(_train_watched, 2, [ASYNCHRONOUS, stopped], threads_per_rank=1)
    _assert_bound_but_not_equal(first[0], second[0])
    _assert_stopped_together(first[1][0], second[1][0])


def _assert_bound_but_not_equal(
    first: tuple[TrainResult, Counter[int]], second: tuple[TrainResult, Counter[int]]
) -> None:
    synchronous = alone(ASYNCHRONOUS)
    (result, staleness), (other, _) = first, second
    assert staleness.total() == 2 * ASYNCHRONOUS.steps
    assert any(late > 0 for late in staleness)
    for ours in (result, other):
        losses = [step.loss for step in ours.steps]
        assert losses[-1] < losses[0] / 2
        assert ours.held_out_loss < 1.5 * synchronous.held_out_loss + 0.1
    different = [a.loss - b.loss for a, b in zip(result.steps, synchronous.steps, strict=True)]
    assert max(map(abs, different)) > 1e-3
    assert result.weights_sum == other.weights_sum != synchronous.weights_sum
    assert result.accuracy == other.accuracy
    samples = [a.samples + b.samples for a, b in zip(result.steps, other.steps, strict=True)]
    assert samples == [step.samples for step in synchronous.steps]


def _assert_stopped_together(first: TrainResult, second: TrainResult) -> None:
    done = len(first.steps)
    assert 5 <= done == len(second.steps) < 2500
    assert first.interrupted
    assert second.interrupted
    resumed = train(replace(first.config, strategy="single", resume_from_checkpoint="latest", steps=done))
    assert resumed.resumed_from == done
    assert resumed.steps == []
    assert resumed.weights_sum == first.weights_sum == second.weights_sum


def test_a_worker_that_fails_is_named() -> None:
    config = replace(ASYNCHRONOUS, faults=(Fault("raise", step=3, rank=1),))
    with pytest.raises(LaunchError, match="Rank 1 of 2 failed") as caught:
        launch(train, 2, config, threads_per_rank=1)
    assert caught.value.rank == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": OptimizerConfig(clip_norm=1.0)}, "optimizer.clip_norm is 1.0"),
        ({"memory": MemoryConfig(precision="fp16")}, "memory.precision is 'fp16'"),
    ],
)
def test_what_needs_the_gradient_of_a_whole_step_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        train(replace(ASYNCHRONOUS, **changes))
