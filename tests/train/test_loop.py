"""The loop and DDP do the mathematics of plain torch; float32 sums in another order differ by about 1e-6."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from distlab.errors import SettingError
from distlab.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from distlab.train.data import Dataset, Text, load_digits
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.models import build_model
from distlab.train.sampler import BatchPlan
from tests.train.strategies.equivalence import little_text, load_little, run_cases

# 1,437 digits in batches of 718: two of them, and then a third step with a single digit.
UNEVEN = TrainConfig(model=ModelConfig(width=32), data=DataConfig(global_batch=718), steps=7, seed=3)
LOSS_TOLERANCE = 1e-5

# 58 paragraphs from 1 to 24 bytes long, each in a micro-batch of other lengths and of its own padding.
TEXT = replace(
    UNEVEN,
    model=ModelConfig("gpt", width=16, layers=1, heads=2),
    data=DataConfig("text", global_batch=17, micro_batches=3, sequence_length=24, samples=58),
    optimizer=OptimizerConfig(learning_rate=0.05),
)


def _reference_losses(config: TrainConfig) -> list[float]:
    """The same training in plain torch on whole batches, with no code of the loop or of a strategy."""
    data, _ = load_little(config)
    model = build_model(config.model, config.seed)
    optimizer = torch.optim.SGD(model.parameters(), config.optimizer.learning_rate, config.optimizer.momentum)
    losses: list[float] = []
    plan = BatchPlan(data, config.data, config.seed)
    for step in range(config.steps):
        inputs, targets = _whole_batch(data, plan.global_batch(step))
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs).flatten(0, -2), targets.flatten(), ignore_index=-1)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def _whole_batch(data: Dataset, ids: list[int]) -> tuple[Tensor, Tensor]:
    """Digits, or paragraphs as bytes padded with spaces; targets of padding are -1."""
    if not isinstance(data, Text):
        digits = load_digits()
        return digits.train_images[ids], digits.train_labels[ids]
    samples = [data.samples[i] for i in ids]
    inputs = pad_sequence([sample[:-1] for sample in samples], batch_first=True, padding_value=ord(" "))
    return inputs, pad_sequence([sample[1:] for sample in samples], batch_first=True, padding_value=-1)


def test_ddp_and_single_equal_plain_torch_with_an_empty_shard() -> None:
    configs = [UNEVEN, replace(UNEVEN, model=ModelConfig("cnn", width=8)), TEXT]
    *images, text = run_cases(configs)
    for config, ranks in zip(configs, [*images, text], strict=True):
        with little_text():
            alone = train(replace(config, strategy="single"))
        wanted = _reference_losses(config)
        for result in [alone, *ranks]:
            assert [step.loss for step in result.steps] == pytest.approx(wanted, abs=LOSS_TOLERANCE)
        assert ranks[0].weights_sum == ranks[1].weights_sum
        assert ranks[0].accuracy == ranks[1].accuracy
    for step, other in zip(text[0].steps, text[1].steps, strict=True):
        assert step.tokens != other.tokens
    for ranks in images:
        samples = [[step.samples for step in result.steps] for result in ranks]
        assert samples == [[359, 359, 1, 359, 359, 1, 359], [359, 359, 0, 359, 359, 0, 359]]


def test_records_and_stamp_say_what_ran() -> None:
    ranks = launch(train, 2, UNEVEN, threads_per_rank=1)
    assert [(result.rank, result.world_size) for result in ranks] == [(0, 2), (1, 2)]
    for result in ranks:
        for i, step in enumerate(result.steps):
            assert step.step == i
            assert step.epoch == i // 3
            assert step.learning_rate == UNEVEN.optimizer.learning_rate
            assert step.step_s == pytest.approx(step.data_s + step.compute_s + step.communication_s)
            assert min(step.data_s, step.compute_s, step.communication_s) > 0
        assert result.payload_bytes == 4 * result.parameters == 4 * (32**2 + 76 * 32 + 10)
        assert result.stamp.backend in ("gloo", "nccl")
        assert result.stamp.tier == {"gloo": "cpu", "nccl": "gpu"}[result.stamp.backend]
        assert result.stamp.threads_per_rank == 1
        assert result.stamp.command == "launch(train, world_size=2)"
        assert json.loads(json.dumps(result.as_dict()))["config"]["model"]["width"] == 32


def test_single_trains_without_communication_and_learns() -> None:
    result = train(TrainConfig(model=ModelConfig(width=64), steps=60, strategy="single"))
    assert {step.communication_s for step in result.steps} == {0.0}
    assert result.payload_bytes == 0
    assert result.accuracy > 0.8


def test_single_refuses_more_than_one_process() -> None:
    with pytest.raises(SettingError, match="'single' runs on 1 process, not on 2"):
        launch(train, 2, replace(UNEVEN, strategy="single"))


def test_the_learning_rate_follows_its_schedule_at_every_world_size() -> None:
    optimizer = OptimizerConfig(learning_rate=0.2, warmup_steps=2, schedule="linear")
    config = replace(UNEVEN, optimizer=optimizer)
    [ranks] = run_cases([config])
    for result in [train(replace(config, strategy="single")), *ranks]:
        rates = [step.learning_rate for step in result.steps]
        assert rates == pytest.approx([0.1, 0.2, 0.2, 0.16, 0.12, 0.08, 0.04])
