"""Whole runs: updates in the backward pass are those after it; moments in 8 bits train about as well."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.result import TrainResult
from distlab.train.strategies import build_strategy
from tests.train.strategies.equivalence import alone, assert_same
from tests.train.strategies.weights import run

HALF = 3
IN_BACKWARD = OptimizerConfig(
    "adamw", learning_rate=0.01, weight_decay=0.1, warmup_steps=2, schedule="cosine", in_backward=True
)
GPT = TrainConfig(
    strategy="single",
    steps=2 * HALF,
    model=ModelConfig("gpt", width=16, layers=2, heads=2, freeze=("blocks.0.mlp",)),
    data=DataConfig("synthetic", global_batch=7, samples=25, sequence_length=12),
    optimizer=IN_BACKWARD,
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"memory": MemoryConfig("bf16", activation_checkpointing="full")},
        {"memory": MemoryConfig(activation_checkpointing="selective")},
        {"optimizer": replace(IN_BACKWARD, name="sgd", implementation="fused", weight_decay=0.0)},
        {"optimizer": replace(IN_BACKWARD, name="adafactor", implementation="plain")},
    ],
    ids=["adamw", "bf16, recomputed", "recomputed in part", "fused sgd", "adafactor"],
)
def test_a_run_with_updates_in_the_backward_pass_is_the_run_without(changes: dict[str, Any]) -> None:
    """Of a tied matrix too, whose gradient comes from both ends; the learning rate is each step's own."""
    config = replace(GPT, **changes)
    after = replace(config, optimizer=replace(config.optimizer, in_backward=False))
    assert_same(config, [train(config)], wanted=alone(after))


def test_a_run_with_updates_in_the_backward_pass_resumes_exactly(tmp_path: Path) -> None:
    config = replace(GPT, model=replace(GPT.model, dropout=0.1))
    config = replace(config, optimizer=replace(IN_BACKWARD, schedule="constant"))
    torch.manual_seed(3)
    whole = run(config)
    saved = replace(config, folder=str(tmp_path), checkpoint=CheckpointConfig(every_steps=HALF))
    run(replace(saved, steps=HALF))
    second = run(replace(saved, resume_from_checkpoint="latest"))
    assert second[0].resumed_from == HALF
    assert [step.loss for step in second[0].steps] == [step.loss for step in whole[0].steps[HALF:]]
    assert second[1].keys() == whole[1].keys()
    assert all(torch.equal(second[1][name], whole[1][name]) for name in whole[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": replace(IN_BACKWARD, clip_norm=1.0)}, "clip_norm is 1.0, which needs all .*to None"),
        ({"data": replace(GPT.data, micro_batches=2)}, "micro_batches is 2, which needs all of them; .*to 1"),
        ({"memory": MemoryConfig("fp16")}, "precision is 'fp16', which needs all of them; set it to 'fp32'"),
        ({"strategy": "ddp"}, "in_backward is True, which strategy 'ddp' cannot do; .*: single"),
        ({"strategy": "fsdp"}, "in_backward is True, which strategy 'fsdp' cannot do; .*: single"),
    ],
)
def test_what_needs_all_gradients_at_once_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_strategy(replace(GPT, **changes), torch.device("cpu"))


EIGHT_BIT = TrainConfig(
    strategy="single",
    steps=5,
    model=ModelConfig(width=128),
    data=DataConfig(global_batch=64),
    optimizer=OptimizerConfig("adamw_8bit", "plain", learning_rate=0.002),
)


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed: pip install torchao")
def test_moments_in_8_bits_train_about_as_well(tmp_path: Path) -> None:
    """Whole under DDP and in shards under FSDP, whose blocks of 256 have scales of their own as in one process."""
    exact, exact_weights = run(replace(EIGHT_BIT, optimizer=replace(EIGHT_BIT.optimizer, name="adamw")))
    saved = replace(EIGHT_BIT, folder=str(tmp_path), checkpoint=CheckpointConfig(every_steps=HALF))
    with uncompiled():
        alone, weights = run(EIGHT_BIT)
        run(replace(saved, steps=HALF))
        second, second_weights = run(replace(saved, resume_from_checkpoint="latest"))
    assert second.resumed_from == HALF
    assert all(torch.equal(second_weights[name], weights[name]) for name in weights)

    off = torch.cat([(weights[name] - exact_weights[name]).abs().flatten() for name in weights])
    way = EIGHT_BIT.optimizer.learning_rate * EIGHT_BIT.steps
    # The others: see test_a_mean_square_that_is_rounded_to_0_makes_a_long_step.
    assert torch.quantile(off, 0.5) < 0.01 * way
    assert torch.quantile(off, 0.995) < 0.5 * way
    losses = [step.loss for step in alone.steps]
    assert losses == pytest.approx([step.loss for step in exact.steps], abs=0.02)
    assert losses[2:] != [step.loss for step in exact.steps][2:]
    configs = [replace(EIGHT_BIT, strategy="ddp"), replace(EIGHT_BIT, strategy="fsdp")]
    for rank in launch(_uncompiled, 2, configs, threads_per_rank=1):
        for result in rank:
            # Sums in another order can round to another of the 256 codes.
            assert [step.loss for step in result.steps] == pytest.approx(losses, abs=1e-3)


def test_moments_in_8_bits_in_shards_are_not_saved() -> None:
    with pytest.raises(
        SettingError, match=r"strategy 'fsdp' cannot save in parts; .* single or ddp or horovod"
    ):
        replace(EIGHT_BIT, strategy="fsdp", folder="runs", checkpoint=CheckpointConfig(every_steps=HALF))


def uncompiled() -> Any:
    """Without the compiler of torchao's step, which takes a minute for what the same code does uncompiled."""
    return torch.compiler.set_stance("force_eager")


def _uncompiled(configs: list[TrainConfig]) -> list[TrainResult]:
    with uncompiled():
        return [train(config) for config in configs]
