"""DDP does the mathematics of one process; float32 sums in another order leave differences of about 1e-6."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from distlab.train.config import TrainConfig, TrainResult
from distlab.train.data import ShardedSampler, load_digits
from distlab.train.launch import LaunchError, launch
from distlab.train.loop import train
from distlab.train.models import build_model, gradient_bytes, parameter_count
from distlab.train.strategies import build_strategy

# 1,437 digits in batches of 479 make 3 even steps; in batches of 718 the third step has a single digit.
UNEVEN = TrainConfig(width=32, steps=7, global_batch=718, seed=3)
LOSS_TOLERANCE = 1e-5


def _several(configs: list[TrainConfig]) -> list[TrainResult]:
    return [train(config) for config in configs]


def _reference_losses(config: TrainConfig) -> list[float]:
    """The same training in plain torch on whole batches, with no code of the loop."""
    digits = load_digits()
    model = build_model(config)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum)
    sampler = ShardedSampler(len(digits.train_labels), config.global_batch, 1, 0, config.seed)
    losses: list[float] = []
    for epoch in range(config.steps):
        sampler.set_epoch(epoch)
        for shard in sampler:
            optimizer.zero_grad()
            loss = cross_entropy(
                model(digits.train_images[shard.indices]), digits.train_labels[shard.indices]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return losses[: config.steps]


def test_ddp_equals_single_process_training_with_an_empty_shard() -> None:
    configs = [UNEVEN, replace(UNEVEN, model="cnn", width=8)]
    ranks = launch(_several, 2, configs, threads_per_rank=1)
    for i, config in enumerate(configs):
        alone = train(replace(config, strategy="single"))
        wanted = _reference_losses(config)
        results = [results[i] for results in ranks]
        assert [step.loss for step in alone.steps] == pytest.approx(wanted, abs=LOSS_TOLERANCE)
        for result in results:
            assert [step.loss for step in result.steps] == pytest.approx(wanted, abs=LOSS_TOLERANCE)
        assert results[0].weights_sum == results[1].weights_sum
        assert results[0].accuracy == results[1].accuracy
        samples = [[step.samples for step in result.steps] for result in results]
        assert samples == [[359, 359, 1, 359, 359, 1, 359], [359, 359, 0, 359, 359, 0, 359]]


def test_records_and_stamp_say_what_ran() -> None:
    ranks = launch(train, 2, UNEVEN, threads_per_rank=1)
    assert [(result.rank, result.world_size) for result in ranks] == [(0, 2), (1, 2)]
    for result in ranks:
        for i, step in enumerate(result.steps):
            assert step.step == i
            assert step.step_s == pytest.approx(step.data_s + step.compute_s + step.communication_s)
            assert min(step.data_s, step.compute_s, step.communication_s) > 0
        assert result.payload_bytes == 4 * result.parameters == 4 * (32**2 + 76 * 32 + 10)
        assert result.stamp.backend in ("gloo", "nccl")
        assert result.stamp.tier == {"gloo": "cpu", "nccl": "gpu"}[result.stamp.backend]
        assert result.stamp.threads_per_rank == 1
        assert result.stamp.command == "launch(train, world_size=2)"
        assert json.loads(json.dumps(result.as_dict()))["config"] == asdict(UNEVEN)


def test_single_trains_without_communication_and_learns() -> None:
    result = train(TrainConfig(width=64, steps=60, strategy="single"))
    assert {step.communication_s for step in result.steps} == {0.0}
    assert result.payload_bytes == 0
    assert result.accuracy > 0.8


def test_single_refuses_more_than_one_process() -> None:
    with pytest.raises(LaunchError, match="'single' runs on 1 process, not on 2"):
        launch(train, 2, replace(UNEVEN, strategy="single"))


def test_models_depend_on_the_seed_alone() -> None:
    first = build_model(UNEVEN)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = build_model(UNEVEN)
    assert torch.get_rng_state().equal(state)
    other = build_model(replace(UNEVEN, seed=4))
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert a.equal(b)
        assert not a.equal(c)
    assert gradient_bytes(first) == 4 * parameter_count(first)


def test_bad_configuration() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="strategy is 'dpp'"):
        build_strategy("dpp")
