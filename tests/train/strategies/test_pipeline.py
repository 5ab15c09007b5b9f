"""Pipelines do the mathematics of one process, alone and with data and tensor parallelism over one mesh."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from distlab.errors import SettingError
from distlab.train.config import DataConfig, MemoryConfig, ModelConfig, ParallelConfig, TrainConfig
from distlab.train.launch import launch
from distlab.train.models import IGNORED, build_model, parameter_count
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Batch
from distlab.train.strategies.pipeline import Pipeline, Stage, join
from tests.train.strategies.fake_ranks import fake_ranks
from tests.train.strategies.weights import TEXT, assert_equal_to_one_process

CPU = torch.device("cpu")
GPT = replace(TEXT, strategy="pipeline", parallel=ParallelConfig(pipeline=2))
GPIPE = replace(GPT, parallel=ParallelConfig(pipeline=2, schedule="gpipe"))
UNTIED = replace(GPT.model, tied=False)
CASES = [
    GPT,
    GPIPE,
    replace(GPIPE, data=replace(GPT.data, micro_batches=1, batching="shuffled")),
    replace(GPT, data=replace(GPT.data, global_batch=1)),  # two micro-batches hold no sample
    replace(GPT, memory=MemoryConfig(precision="fp16", activation_checkpointing="full")),
    replace(GPT, model=replace(UNTIED, freeze=("embedding", "blocks.1"))),
    replace(GPT, model=replace(GPT.model, freeze=("embedding",))),
]
COMBINED = [
    GPT,  # with 2 copies
    replace(GPIPE, parallel=ParallelConfig(pipeline=2, tensor=2, schedule="gpipe")),
    replace(GPT, parallel=ParallelConfig(pipeline=2, tensor=2), model=UNTIED),
    replace(
        GPT,
        parallel=ParallelConfig(pipeline=4),
        model=replace(GPT.model, layers=5),
        data=replace(GPT.data, micro_batches=6),
    ),
    replace(GPT, strategy="tensor_parallel", parallel=ParallelConfig(tensor=2)),  # with 2 copies
]


def test_pipelines_equal_one_process() -> None:
    for results in assert_equal_to_one_process(CASES):
        for result in results:
            assert all(0 < step.communication_s < step.step_s for step in result.steps)


def test_four_ranks_share_the_work_in_every_way() -> None:
    assert_equal_to_one_process(COMBINED, world_size=4)


def test_micro_batches_in_flight() -> None:
    """GPipe keeps all 6 until the backward pass; of 1F1B's two stages the first keeps 2, the second 1."""
    data = replace(GPT.data, micro_batches=6)
    peaks = launch(_peaks, 2, [replace(GPIPE, data=data), replace(GPT, data=data)], threads_per_rank=1)
    assert peaks == [[6, 2], [6, 1]]


def _peaks(configs: list[TrainConfig]) -> list[int]:
    """For each configuration, the most micro-batches whose activations this rank's stage kept at a time."""
    kept: list[int] = []
    forward = Stage.forward_one_chunk

    def counted(stage: Stage, *args: object, **kwargs: object) -> object:
        output = forward(stage, *args, **kwargs)
        kept.append(len(stage.fwd_cache))
        return output

    Stage.forward_one_chunk = counted  # type: ignore[method-assign]
    peaks = []
    for config in configs:
        strategy = build_strategy(config, CPU)
        strategy.prepare(build_model(config.model, config.seed))
        tokens = torch.zeros(6, 4, dtype=torch.int64)
        kept.clear()
        strategy.gradients(Batch([(tokens, tokens)], 24, learning_rate=0.1))
        peaks.append(max(kept))
    return peaks


def test_stages_hold_all_weights_under_their_names() -> None:
    config = replace(GPT, model=replace(GPT.model, layers=5), parallel=ParallelConfig(pipeline=4))
    config = replace(config, data=replace(config.data, micro_batches=4))
    whole = build_model(config.model, config.seed)
    parts: list[dict[str, Tensor]] = []
    for rank in range(4):
        with fake_ranks(4, rank):
            strategy = Pipeline(config, CPU)
            strategy.prepare(build_model(config.model, config.seed))
            parts.append(strategy.model.state_dict())
            if rank in (1, 2):  # a block of 12 D^2 + 2 D, of 5 blocks that 4 stages share
                assert parameter_count(strategy.model) == (12 * 32**2 + 2 * 32)
    assert [sum(".q." in name for name in part) for part in parts] == [1, 1, 1, 2]
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(whole.state_dict())
    for part in parts:
        for name, weights in part.items():
            assert weights.equal(whole.state_dict()[name])


def test_samples_are_joined_and_padded() -> None:
    first = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
    second = torch.tensor([[5], [6]]), torch.tensor([[7], [IGNORED]])
    none = torch.empty(0, 1, dtype=torch.int64), torch.empty(0, 1, dtype=torch.int64)
    inputs, targets = join([first, none, second], parts=2)
    no = IGNORED
    assert inputs.tolist() == [[1, 2, 3], [5, 0, 0], [6, 0, 0], [0, 0, 0]]
    assert targets.tolist() == [[2, 3, 4], [7, no, no], [no, no, no], [no, no, no]]
    inputs, targets = join([none], parts=3)
    assert inputs.shape == (3, 1)
    assert (targets == IGNORED).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(GPT, parallel=ParallelConfig()), "parallel.pipeline is 1"),
        (
            replace(GPT, model=ModelConfig(kind="mlp"), data=DataConfig(micro_batches=2)),
            "model.kind is 'mlp'",
        ),
        (replace(GPT, parallel=ParallelConfig(pipeline=4)), "model.layers is 3; it must be 4 or more"),
        (replace(GPT, data=replace(GPT.data, micro_batches=1)), "data.micro_batches is 1; schedule '1f1b'"),
        (replace(GPT, parallel=ParallelConfig(pipeline=2, tensor=3)), "model.heads is 4"),
        (GPT, "world_size is 3; it must be a multiple of 2"),
    ],
)
def test_what_cannot_be_cut(config: TrainConfig, message: str) -> None:
    with fake_ranks(3), pytest.raises(SettingError, match=message):
        build_strategy(config, CPU)


def test_a_stage_with_nothing_to_train() -> None:
    config = replace(GPT, model=replace(GPT.model, freeze=("embedding", "blocks.0")))
    with fake_ranks(2, rank=1):
        strategy = Pipeline(config, CPU)
        with pytest.raises(SettingError, match="stage 0 of the pipeline nothing to train"):
            strategy.prepare(build_model(config.model, config.seed))
