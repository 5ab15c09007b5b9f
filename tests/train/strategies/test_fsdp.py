"""FSDP does the mathematics of one process, holds 1/n of everything, and communicates as often as it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distlab.train.config import (
    MemoryConfig,
)
from distlab.train.mesh import local
from distlab.train.models import build_model, parameter_count
from distlab.train.optimizer import optimizer_bytes
from distlab.train.strategies.fsdp import FSDP
from tests.train.strategies.fake_ranks import fake_ranks, gradient_collectives
from tests.train.strategies.weights import TEXT, assert_equal_to_one_process

CPU = torch.device("cpu")
CASES = [
    replace(TEXT, strategy="fsdp"),
    replace(TEXT, strategy="fsdp", memory=MemoryConfig(precision="bf16")),
    replace(TEXT, strategy="fsdp", memory=MemoryConfig(reshard=False, offload=True)),
    # One sample a step: a rank without any takes part all the same.
    replace(TEXT, strategy="fsdp", data=replace(TEXT.data, global_batch=1, micro_batches=1)),
    replace(TEXT, strategy="fsdp", model=replace(TEXT.model, freeze=("embedding", "blocks.0"))),
]


def test_fsdp_equals_one_process() -> None:
    for results in assert_equal_to_one_process(CASES):
        for result in results:
            assert all(0 < step.communication_s < step.step_s for step in result.steps)


def test_a_rank_holds_its_share_of_weights_gradients_and_optimizer_state() -> None:
    config = replace(TEXT, strategy="fsdp", model=replace(TEXT.model, width=64))
    with fake_ranks(8):
        strategy = FSDP(config, CPU)
        model = build_model(config.model, config.seed)
        total = parameter_count(model)
        strategy.prepare(model)
        parameters = list(strategy.model.parameters())
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        strategy.optimizer.step()
        # All sizes are multiples of 8, so that the shares are even: 4 bytes each, and Adam's two moments.
        assert sum(local(p).nbytes for p in parameters) == 4 * total / 8
        assert sum(local(p.grad).nbytes for p in parameters if p.grad is not None) == 4 * total / 8
        steps = 4 * len(parameters)  # Adam also counts its steps, for each parameter
        assert optimizer_bytes(strategy.optimizer) == 8 * total / 8 + steps


@pytest.mark.parametrize("reshard", [True, False])
def test_how_often_weights_are_gathered_and_gradients_sent(reshard: bool) -> None:
    config = replace(TEXT, strategy="fsdp", memory=MemoryConfig(reshard=reshard))
    blocks, micro_batches = config.model.layers, config.data.micro_batches
    assert micro_batches == 3
    with fake_ranks(2):
        counts = gradient_collectives(config)
    # Each block once forward; once more backward, if it was dropped in between; the rest of the model once.
    gathers = micro_batches * ((2 if reshard else 1) * blocks + 1)
    assert FSDP.accumulates_without_sync  # gradients travel after the last micro-batch alone
    assert counts == {"allgather_base": gathers, "reduce_scatter_base": blocks + 1}
