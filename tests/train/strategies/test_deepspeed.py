"""ZeRO does the mathematics of one process at every stage, and its state is that of every other strategy."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    from_dict,
)
from distlab.train.launch import launch
from distlab.train.loop import Trainer, train
from distlab.train.strategies import build_strategy
from distlab.train.strategies.deepspeed import DeepSpeed, import_deepspeed
from tests.train.strategies.equivalence import assert_same, run_cases
from tests.train.strategies.fake_ranks import gradient_collectives
from tests.train.strategies.test_pairwise import pairs

pytestmark = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed==0.19.8"
)

OWN: dict[str, list[Any]] = {
    "bucket_mb": [25.0, 0.002],
    "memory": [
        {"zero_stage": 0},
        {"zero_stage": 1},
        {"zero_stage": 2, "offload": True},
        {"zero_stage": 3},
        {"zero_stage": 3, "offload": True},
    ],
}
HALF = 3
WHOLE = TrainConfig(
    strategy="deepspeed",
    steps=2 * HALF,
    model=ModelConfig("gpt", width=32, layers=2, heads=2, freeze=("blocks.0.mlp",)),
    data=DataConfig("synthetic", global_batch=7, samples=40, sequence_length=16, micro_batches=2),
    optimizer=OptimizerConfig("adamw", learning_rate=0.003, weight_decay=0.1, clip_norm=0.5),
)
MEMORY = [
    MemoryConfig("bf16", zero_stage=1, offload=True),
    MemoryConfig("fp16", zero_stage=2),
    MemoryConfig("bf16", zero_stage=3),
    MemoryConfig("fp32", zero_stage=3, offload=True),
]


def test_every_pair_of_options_does_the_mathematics_of_one_process() -> None:
    configs = list(pairs("deepspeed", OWN))
    assert len(configs) >= 12
    for config, ranks in zip(configs, run_cases(configs), strict=True):
        assert_same(config, ranks)
        assert all(0 < step.communication_s < step.step_s for result in ranks for step in result.steps)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks of one launch found, for several tests."""
    folder = tmp_path_factory.mktemp("runs")
    train(_first_half(replace(WHOLE, strategy="single"), folder, "from_one_process"))
    found = launch(_on_ranks, 2, folder, threads_per_rank=1)
    return [{**rank, "folder": folder} for rank in found]


def _on_ranks(folder: Path) -> dict[str, Any]:
    torch.manual_seed(dist.get_rank())
    found: dict[str, Any] = {"exact": {}, "held": {}, "overflow": {}, "sent": {}}
    for memory in MEMORY:
        dropout = replace(WHOLE, memory=memory, model=replace(WHOLE.model, dropout=0.1))
        found["exact"][memory] = _same_in_two_parts(dropout, folder)
    found["resumed"] = _losses(_second_half(_with_stage(3), folder, "from_one_process"))
    _losses(_first_half(_with_stage(2), folder, "from_ranks"))
    for stage in range(4):
        found["held"][stage] = _elements_held(_with_stage(stage))
        found["sent"][stage] = _collectives(_with_stage(stage))
        if stage:
            found["overflow"][stage] = _overflow(_with_stage(stage, "fp16"))
    return found


def test_a_run_in_two_parts_is_the_run_in_one(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for memory, (losses, weights_and_moments) in rank["exact"].items():
            assert losses, memory
            assert weights_and_moments, memory


def test_a_run_of_one_process_goes_on_with_zero_3_on_two(ranks: list[dict[str, Any]]) -> None:
    wanted = [step.loss for step in train(replace(WHOLE, strategy="single")).steps]
    for rank in ranks:
        assert rank["resumed"] == pytest.approx(wanted[HALF:], abs=2e-5)


def test_a_run_of_zero_2_on_two_ranks_goes_on_in_one_process(ranks: list[dict[str, Any]]) -> None:
    wanted = [step.loss for step in train(replace(WHOLE, strategy="single")).steps]
    resumed = train(_second_half(replace(WHOLE, strategy="single"), ranks[0]["folder"], "from_ranks"))
    assert [step.loss for step in resumed.steps] == pytest.approx(wanted[HALF:], abs=2e-5)


def test_a_stage_keeps_what_it_says_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    """Weights, and moments of AdamW, two per trained weight; a few more, as pieces are of equal size."""
    for rank in ranks:
        weights, moments = rank["held"][0]
        assert moments < 2 * weights  # some weights are frozen
        for stage in (1, 2, 3):
            assert moments / 2 <= rank["held"][stage][1] < 1.05 * moments / 2
        assert rank["held"][1][0] == rank["held"][2][0] == weights
        assert weights / 2 <= rank["held"][3][0] < 1.05 * weights / 2


def test_gradients_travel_once_per_step_up_to_stage_1(ranks: list[dict[str, Any]]) -> None:
    """In one bucket. With three micro-batches as with one, or three times."""
    for rank in ranks:
        for stage, (accumulates_without_sync, counts) in rank["sent"].items():
            times = 1 if accumulates_without_sync else 3
            name = "reduce_scatter_base" if stage == 3 else "allreduce"
            assert accumulates_without_sync == (stage < 2)
            assert [count[name] for count in counts] == [1, times], stage
            assert stage == 3 or [count.total() for count in counts] == [1, times]


def test_an_overflow_leaves_the_step_out_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for stage, (applied, factor, weights_before, weights_after) in rank["overflow"].items():
            assert applied == [False, True], stage
            assert factor == TOO_LARGE / 2
            assert weights_before == weights_after


def _collectives(config: TrainConfig) -> tuple[bool, list[Counter[str]]]:
    """What the strategy says of accumulation, and what it sends for one micro-batch and for three."""
    strategy = build_strategy(config, torch.device("cpu"))
    counts = [
        gradient_collectives(replace(config, data=replace(config.data, micro_batches=micro_batches)))
        for micro_batches in (1, 3)
    ]
    return strategy.accumulates_without_sync, counts


TOO_LARGE = 2.0**40


def _overflow(config: TrainConfig) -> tuple[list[bool], float, float, float]:
    """Two steps, the first with a loss scale far too large: were they taken; the scale and weights after it."""
    with Trainer(config) as trainer:
        strategy = trainer.strategy
        before = strategy.weights_sum()
        strategy.scale.factor = TOO_LARGE
        trainer.step(0)
        factor, after = strategy.scale.factor, strategy.weights_sum()
        strategy.scale.factor = 1.0
        trainer.step(1)
        return [step.applied for step in trainer.result().steps], factor, before, after


def _elements_held(config: TrainConfig) -> tuple[int, int]:
    """Weights and moments on this rank after a step."""
    with Trainer(replace(config, steps=1)) as trainer:
        trainer.step(0)
        trainer.result()
        strategy = trainer.strategy
        assert isinstance(strategy, DeepSpeed)
        weights = sum(getattr(p, "ds_tensor", p).numel() for p in strategy.model.parameters())
        moments = [t for state in strategy.optimizer.state.values() for t in state.values() if t.dim()]
        return weights, sum(moment.numel() for moment in moments)


def _same_in_two_parts(config: TrainConfig, folder: Path) -> tuple[bool, bool]:
    """Are the losses of the second half, and all weights and moments at the end, the same to the bit?"""
    torch.manual_seed(dist.get_rank())
    losses, state = _run(config)
    torch.manual_seed(dist.get_rank())
    name = f"{config.memory.precision}_{config.memory.zero_stage}"
    _run(_first_half(config, folder, name))
    second_losses, second_state = _run(_second_half(config, folder, name))
    assert state.keys() == second_state.keys()
    return second_losses == losses[HALF:], all(torch.equal(state[k], second_state[k]) for k in state)


def _run(config: TrainConfig) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of all steps, and this rank's part of the state at the end."""
    with Trainer(config) as trainer:
        for step in range(trainer.first, config.steps):
            trainer.step(step)
        losses = [step.loss for step in trainer.result().steps]
        state = trainer.strategy.state()
    tensors = {k: v for part in state.values() for k, v in part.items() if isinstance(v, Tensor)}
    return losses, {k: v.to_local() if isinstance(v, DTensor) else v for k, v in tensors.items()}


def _losses(config: TrainConfig) -> list[float]:
    return [step.loss for step in train(config).steps]


def _first_half(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    checkpoint = CheckpointConfig(every_steps=HALF)
    return replace(config, name=name, folder=str(folder), steps=HALF, checkpoint=checkpoint)


def _second_half(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    return replace(config, name=name, folder=str(folder), resume_from_checkpoint="latest")


def _with_stage(stage: int, precision: str = "fp32") -> TrainConfig:
    values = WHOLE.as_dict()
    values["memory"] |= {"zero_stage": stage, "precision": precision}
    return from_dict(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": OptimizerConfig("adafactor")}, "optimizer.name is 'adafactor'"),
        (
            {"memory": MemoryConfig(zero_stage=0, offload=True)},
            "memory.zero_stage is 0, which shards nothing",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        build_strategy(replace(WHOLE, **changes), torch.device("cpu"))


def test_a_missing_deepspeed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(SettingError, match="pip install deepspeed"):
        import_deepspeed(torch.device("cpu"))
