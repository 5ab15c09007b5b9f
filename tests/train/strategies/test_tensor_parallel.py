"""Tensor parallelism does the mathematics of one process, on 1/n of each layer, with two exchanges a pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distlab.errors import SettingError
from distlab.train.config import DataConfig, MemoryConfig, ModelConfig, ParallelConfig, TrainConfig
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.mesh import local
from distlab.train.models import build_model
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Batch
from distlab.train.strategies.tensor_parallel import TensorParallel
from tests.train.strategies.fake_ranks import Collectives, fake_ranks
from tests.train.strategies.weights import TEXT, assert_equal_to_one_process

CPU = torch.device("cpu")
TWO = ParallelConfig(tensor=2)
GPT = replace(TEXT, strategy="tensor_parallel", parallel=TWO)
MLP = TrainConfig(
    strategy="tensor_parallel",
    steps=6,
    parallel=TWO,
    model=ModelConfig(width=32),
    data=DataConfig(global_batch=718, micro_batches=2),  # the last batch of an epoch has a single sample
)
CASES = [
    GPT,
    MLP,
    replace(GPT, memory=MemoryConfig(precision="bf16", activation_checkpointing="selective")),
    replace(GPT, memory=MemoryConfig(activation_checkpointing="full")),
    replace(GPT, model=replace(GPT.model, tied=False, freeze=("head", "blocks.0", "blocks.1.mlp"))),
]


def test_tensor_parallelism_equals_one_process() -> None:
    for results in assert_equal_to_one_process(CASES):
        for result in results:
            assert all(0 < step.communication_s < step.step_s for step in result.steps)


def test_ranks_of_the_tensor_axis_drop_the_same_activations() -> None:
    config = replace(GPT, model=replace(GPT.model, dropout=0.2))
    first, second = launch(_from_own_random_numbers, 2, config, threads_per_rank=1)
    # The norms are whole on both ranks: other masks would make other gradients of them.
    assert first == second


def _from_own_random_numbers(config: TrainConfig) -> list[float]:
    torch.manual_seed(torch.distributed.get_rank())
    strategy = build_strategy(config, CPU)
    strategy.prepare(build_model(config.model, config.seed))
    tokens = torch.arange(24).reshape(2, 12)
    strategy.gradients(Batch([(tokens, tokens)], 24, learning_rate=0.1))
    return local(strategy.model.get_parameter("norm.weight").grad).tolist()


def test_a_rank_holds_its_share() -> None:
    width, layers, ranks = 64, 3, 4
    config = replace(GPT, model=replace(GPT.model, width=width), parallel=ParallelConfig(tensor=ranks))
    with fake_ranks(ranks):
        strategy = TensorParallel(config, CPU)
        strategy.prepare(build_model(config.model, config.seed))
        parameters = list(strategy.model.parameters())
        tokens = torch.zeros(1, 4, dtype=torch.int64)
        strategy.gradients(Batch([(tokens, tokens)], 4, learning_rate=0.1))
        # Matrices in parts (tied embedding, 12 D^2 in a block), the vectors of the norms whole.
        wanted = (256 * width + layers * 12 * width**2) / ranks + (2 * layers + 1) * width
        assert sum(local(p).numel() for p in parameters) == wanted
        assert sum(local(p.grad).numel() for p in parameters if p.grad is not None) == wanted


def test_two_all_reduces_a_block_and_pass() -> None:
    blocks = GPT.model.layers
    with fake_ranks(2):
        strategy = TensorParallel(GPT, CPU)
        strategy.prepare(build_model(GPT.model, GPT.seed))
        tokens = torch.zeros(1, 4, dtype=torch.int64)
        with Collectives() as seen:
            strategy.gradients(Batch([(tokens, tokens)], 4, learning_rate=0.1))
    # Beside the blocks: the embedding's output, the gradient of the head's input, and the logits.
    assert seen.counts == {"all_reduce": 2 * (2 * blocks + 1), "all_gather_into_tensor": 1}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(GPT, parallel=ParallelConfig()), "parallel.tensor is 1"),
        (replace(GPT, model=replace(GPT.model, heads=2), parallel=ParallelConfig(tensor=4)), "heads is 2"),
        (
            replace(MLP, model=ModelConfig(width=33)),
            "width is 33; it must be a multiple of parallel.tensor, 2",
        ),
        (replace(MLP, model=ModelConfig(kind="cnn")), "model.kind is 'cnn'"),
        (GPT, "world_size is 3; it must be a multiple of 2"),
    ],
)
def test_what_cannot_be_split(config: TrainConfig, message: str) -> None:
    with fake_ranks(3), pytest.raises(SettingError, match=message):
        build_strategy(config, CPU)


def test_without_a_process_group() -> None:
    with pytest.raises(SettingError, match="no process group"):
        train(GPT)
