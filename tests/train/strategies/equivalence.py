"""What every exact strategy must prove: it does the mathematics of one process.

Many configurations run in one launch; each is compared with plain training of the same configuration.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distlab.train import loop
from distlab.train.config import MemoryConfig, ParallelConfig, TrainConfig
from distlab.train.data import MARK, Dataset, Text, load_data, load_text
from distlab.train.launch import launch
from distlab.train.loop import Trainer, train
from distlab.train.result import TrainResult

TOLERANCE = {"fp32": 2e-5, "bf16": 2e-2, "fp16": 5e-3}
"""Of losses near 2 and 5: sums in another order, and in 16 bits also another rounding of each."""

NORM_TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.02}
"""Of the gradient's norm, relative: far less than any wrong divisor would change it."""


def train_cases(configs: Sequence[TrainConfig]) -> list[TrainResult]:
    """Train each configuration on the ranks of this launch, each rank with random numbers of its own."""
    results = []
    with little_text():
        for config in configs:
            torch.manual_seed(977 * (dist.get_rank() + 1))
            results.append(train(config))
    return results


@contextmanager
def little_text() -> Iterator[None]:
    """Real text shrinks to `data.samples` ends of paragraphs, of all lengths: few steps make an epoch."""
    vars(loop)["load_data"] = load_little
    try:
        yield
    finally:
        vars(loop)["load_data"] = load_data


def load_little(config: TrainConfig) -> tuple[Dataset, Dataset]:
    """`load_data`, with little text."""
    if config.data.source != "text":
        return load_data(config)
    little = Text([], config.data.sequence_length), Text([], config.data.sequence_length)
    for text, whole in zip(little, _whole_text(config.data.sequence_length), strict=True):
        ends = (sample for sample in whole.samples if sample[-1] == MARK)
        text.samples += islice(ends, config.data.samples)
    return little


_whole_text = cache(load_text)


def run_cases(configs: Sequence[TrainConfig], world_size: int = 2) -> list[list[TrainResult]]:
    """For each configuration the results of all ranks; one launch for all of them."""
    ranks = launch(train_cases, world_size, list(configs), threads_per_rank=1, timeout_s=120)
    return [[results[i] for results in ranks] for i in range(len(configs))]


def alone(config: TrainConfig, left_out: Collection[int] = ()) -> TrainResult:
    """Plain training of the same mathematics in this process; in some steps its gradients overflow."""
    with little_text(), Trainer(plain(config)) as trainer:
        scale = trainer.strategy.scale
        for step in range(config.steps):
            factor = scale.factor
            if step in left_out:
                scale.factor = math.inf
            trainer.step(step)
            if step in left_out:
                scale.factor = factor / 2
        return trainer.result()


def plain(config: TrainConfig) -> TrainConfig:
    """The same mathematics in one process and in one piece."""
    memory = MemoryConfig(precision=config.memory.precision)
    data = replace(config.data, micro_batches=1)
    single = replace(
        config, strategy="single", memory=memory, data=data, parallel=ParallelConfig(), compile=False
    )
    return replace(single, communication=TrainConfig().communication)


def assert_same(
    config: TrainConfig,
    ranks: Sequence[TrainResult],
    tolerance: float | None = None,
    wanted: TrainResult | None = None,
) -> None:
    """The ranks agree with each other, and with plain training within the tolerance of the precision.

    In fp16 one or two steps may be left out: a rank's own gradients, before they are averaged, and ZeRO's, all in
    16 bits, overflow sooner than those of one process. Plain training leaves them out, too.
    """
    left_out = [step.step for step in ranks[0].steps if not step.applied]
    assert len(left_out) <= 2, _label(config)
    wanted = wanted or alone(config, left_out)
    close = tolerance or TOLERANCE[config.memory.precision]
    for result in ranks:
        assert len(result.steps) == config.steps >= 5
        assert [s.applied for s in result.steps] == [s.applied for s in wanted.steps], _label(config)
        assert _losses(result) == pytest.approx(_losses(wanted), abs=close), _label(config)
        assert result.held_out_loss == pytest.approx(wanted.held_out_loss, abs=close), _label(config)
        assert result.weights_sum == pytest.approx(wanted.weights_sum, abs=50 * close), _label(config)
        assert result.weights_sum == pytest.approx(ranks[0].weights_sum, abs=1e-9), _label(config)
        if config.optimizer.clip_norm is not None:
            norms = [step.gradient_norm for step in result.steps if step.applied]
            expected = [step.gradient_norm for step in wanted.steps if step.applied]
            assert norms == pytest.approx(expected, rel=NORM_TOLERANCE[config.memory.precision]), _label(
                config
            )


def _losses(result: TrainResult) -> list[float]:
    return [step.loss for step in result.steps]


def _label(config: TrainConfig) -> dict[str, Any]:
    """What the configuration changes, for the message of a failure."""
    changed, default = config.as_dict(), TrainConfig().as_dict()
    return {name: value for name, value in changed.items() if value != default[name]}
