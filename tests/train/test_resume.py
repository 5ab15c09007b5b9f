"""A run that is cut in two is the same run: to the bit at the same world size, and by its data at any other."""

from __future__ import annotations

import json
import math
import platform
import random
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    StrategyName,
    TrainConfig,
    from_dict,
)
from distlab.train.data import fingerprint, load_data
from distlab.train.launch import launch
from distlab.train.loop import Trainer, train
from distlab.train.models import build_model
from distlab.train.optimizer import build_optimizer
from distlab.train.result import TrainResult
from distlab.train.strategies.base import read_state
from distlab.train.strategies.parameter_server import ParameterServer

# 100 samples in batches of 12: nine steps an epoch, so that both halves begin in the middle of one.
WHOLE = TrainConfig(
    strategy="single",
    steps=12,
    model=ModelConfig("gpt", width=32, layers=2, heads=2, dropout=0.1),
    data=DataConfig("synthetic", global_batch=12, samples=100, sequence_length=16),
    optimizer=OptimizerConfig("adamw", learning_rate=0.01, schedule="cosine"),
    log=LogConfig(samples=True),
)
FIRST = 7


Draws = list[tuple[float, float, float]]


def _in_two(config: TrainConfig, folder: Path) -> tuple[TrainResult, Draws]:
    """Train to step 7 and save; then go on to the end."""
    saved = replace(config, name="cut", folder=str(folder), checkpoint=CheckpointConfig(every_steps=FIRST))
    train_and_draw(replace(saved, steps=FIRST, optimizer=_as_long(config)))
    return train_and_draw(replace(saved, resume_from_checkpoint="latest"))


def train_and_draw(config: TrainConfig) -> tuple[TrainResult, Draws]:
    """What Python's, NumPy's and torch's generators give before each step.

    Normal numbers: Python and NumPy make them two at a time, and the cut after seven steps parts such a pair.
    """
    drawn = []
    with Trainer(config) as trainer:
        for step in range(trainer.first, config.steps):
            drawn.append((random.gauss(0, 1), np.random.standard_normal(), torch.randn(()).item()))
            trainer.step(step)
        return trainer.result(), drawn


def _as_long(config: TrainConfig) -> OptimizerConfig:
    """A schedule that does not know where the first part stops."""
    return replace(config.optimizer, schedule="constant")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_in_two_parts_is_the_run_in_one(precision: str, tmp_path: Path) -> None:
    memory = MemoryConfig(precision=precision)  # type: ignore[arg-type]
    config = replace(WHOLE, memory=memory, optimizer=_as_long(WHOLE))
    whole, drawn = train_and_draw(config)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    second, drawn_then = _in_two(config, tmp_path)
    assert second.resumed_from == FIRST
    assert [step.step for step in second.steps] == list(range(FIRST, WHOLE.steps))
    assert [step.loss for step in second.steps] == [step.loss for step in whole.steps[FIRST:]]
    assert (second.weights_sum, second.held_out_loss) == (whole.weights_sum, whole.held_out_loss)
    assert drawn_then == drawn[FIRST:]


def test_three_ranks_of_ddp_add_up_in_the_same_order_after_a_resume(tmp_path: Path) -> None:
    model = ModelConfig("gpt", width=64, layers=2, heads=2, dropout=0.1)
    config = replace(WHOLE, strategy="ddp", model=model, optimizer=_as_long(WHOLE))
    ranks = launch(_whole_and_in_two, 3, config, tmp_path, threads_per_rank=1)
    for (whole, drawn), (second, drawn_then) in ranks:
        assert [step.loss for step in second.steps] == [step.loss for step in whole.steps[FIRST:]]
        assert (second.weights_sum, second.held_out_loss) == (whole.weights_sum, whole.held_out_loss)
        assert drawn_then == drawn[FIRST:]
    numbers = [number for (_, drawn), _ in ranks for step in drawn for number in step]
    assert len(set(numbers)) == 3 * WHOLE.steps * 3, "each rank has random numbers of its own"


def _whole_and_in_two(
    config: TrainConfig, folder: Path
) -> tuple[tuple[TrainResult, Draws], tuple[TrainResult, Draws]]:
    return train_and_draw(config), _in_two(config, folder)


def test_each_sample_is_seen_once_in_an_epoch_across_the_cut(tmp_path: Path) -> None:
    _in_two(WHOLE, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "cut/log/rank_0.jsonl").read_text().splitlines()]
    first_epoch = [i for line in lines[:9] for part in line["sample_ids"] for i in part]
    assert sorted(first_epoch) == list(range(100))


def test_one_rank_takes_up_what_two_began_and_back(tmp_path: Path) -> None:
    config = replace(WHOLE, model=replace(WHOLE.model, dropout=0.0), optimizer=_as_long(WHOLE))
    whole = train(config)
    saved = replace(config, folder=str(tmp_path), checkpoint=CheckpointConfig(every_steps=FIRST))
    launch(train, 2, replace(saved, strategy="fsdp", steps=FIRST), threads_per_rank=1)
    again = replace(saved, resume_from_checkpoint="step_7")
    alone = train(again)
    both = launch(train, 2, replace(again, strategy="ddp"), threads_per_rank=1)
    for result in [alone, *both]:
        assert result.resumed_from == FIRST
        assert [step.loss for step in result.steps] == pytest.approx(
            [step.loss for step in whole.steps[FIRST:]], abs=1e-5
        )


def test_the_mark_of_a_checkpoint_says_what_and_where(tmp_path: Path) -> None:
    """`step_N.json` of each checkpoint, key by key."""
    optimizer = replace(WHOLE.optimizer, clip_norm=1.0)
    config = replace(WHOLE, folder=str(tmp_path), optimizer=optimizer, checkpoint=CheckpointConfig(5))
    result = train(config)
    hardware = json.loads(json.dumps(asdict(result.stamp)))
    del hardware["date"]
    for steps, epoch in ((5, 0), (10, 1), (12, 1)):
        mark = json.loads((tmp_path / f"run/step_{steps}.json").read_text())
        last = result.steps[steps - 1]
        date = datetime.fromisoformat(mark["hardware"].pop("date"))
        assert timedelta(0) <= datetime.now(UTC) - date < timedelta(hours=1)
        checkpoint = mark.pop("checkpoint")
        assert {name: checkpoint[name] for name in ("kind", "world_size", "torch")} == {
            "kind": "sharded",
            "world_size": 1,
            "torch": torch.__version__,
        }
        assert checkpoint["model"]["embedding.weight"] == "float32[256, 32]"
        assert len(mark.pop("sha256")) == 64  # tests/train/checkpoint/ breaks the files that it is about
        assert from_dict(mark.pop("config")) == config
        assert mark == {
            "epoch": epoch,
            "step": steps,
            "loss": last.loss,
            "metrics": {
                "learning_rate": pytest.approx(0.01 * (1 + math.cos(math.pi * (steps - 1) / 12)) / 2),
                "step_s": last.step_s,
                "communication_s": 0.0,
                "gradient_norm": last.gradient_norm,
            },
            "hostname": platform.node(),
            "hardware": hardware,
            "world_size": 1,
            "data": fingerprint(load_data(config)[0]),
            "random": ["cuda"] * torch.cuda.is_available() + ["numpy", "python", "torch"],
        }
        assert last.loss > 1
        assert last.gradient_norm is not None


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    config = replace(WHOLE, folder=str(tmp_path), steps=3, checkpoint=CheckpointConfig(every_steps=2))
    first = train(config)
    again = train(replace(config, resume_from_checkpoint="latest"))
    assert (again.resumed_from, again.steps) == (3, [])
    assert again.weights_sum == first.weights_sum


def test_what_does_not_fit_a_checkpoint_is_refused(tmp_path: Path) -> None:
    config = replace(WHOLE, folder=str(tmp_path), steps=2, checkpoint=CheckpointConfig(every_steps=2))
    train(config)
    before = _files(tmp_path)
    resumed = replace(config, steps=4, resume_from_checkpoint="latest")
    for change, message in (
        ({"data": replace(config.data, global_batch=6)}, r"data.global_batch is 6, and .* with 12"),
        ({"seed": 1}, "seed is 1"),
        ({"model": replace(config.model, width=64)}, "another model"),
        ({"resume_from_checkpoint": "step_9"}, "no checkpoint step_9"),
        ({"folder": None, "checkpoint": CheckpointConfig()}, "folder is not set"),
    ):
        with pytest.raises(SettingError, match=message):
            train(replace(resumed, **change))  # type: ignore[arg-type]
        assert _files(tmp_path) == before


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    config = replace(WHOLE, folder=str(tmp_path / "file"), checkpoint=CheckpointConfig(every_steps=2))
    with pytest.raises(SettingError, match="file/run"):
        train(config)
    assert _files(tmp_path) == {str(tmp_path / "file"): b"in the way"}


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path: Path) -> None:
    config = replace(WHOLE, folder=str(tmp_path), steps=2, checkpoint=CheckpointConfig(every_steps=2))
    train(config)
    before = _files(tmp_path)
    with pytest.raises(SettingError, match=r"holds checkpoints up to step 2.*resume_from_checkpoint latest"):
        train(config)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("strategy", ["single", "parameter_server"])
def test_a_resumed_run_follows_its_own_configuration(strategy: StrategyName, tmp_path: Path) -> None:
    optimizer = OptimizerConfig(momentum=0.9)
    first = TrainConfig(
        strategy=strategy,
        steps=2,
        folder=str(tmp_path),
        model=ModelConfig(width=16),
        optimizer=optimizer,
        checkpoint=CheckpointConfig(every_steps=2),
    )
    train(first)
    config = replace(first, steps=4, resume_from_checkpoint="latest", optimizer=OptimizerConfig(momentum=0.1))
    with Trainer(config) as trainer:
        ours = trainer.strategy
        optimizer_here = ours.server.optimizer if isinstance(ours, ParameterServer) else ours.optimizer
        assert {group["momentum"] for group in optimizer_here.param_groups} == {0.1}


def test_saving_before_the_first_update_is_no_update() -> None:
    """As where fp16 overflowed in every step so far: torch makes the state that it is asked for by a step."""
    model = build_model(ModelConfig(width=16), 0)
    saved = read_state(model, [build_optimizer(model, OptimizerConfig("adamw"))])["optimizer"]
    counts = [value for name, value in saved.items() if name.endswith(".step")]
    assert counts
    assert all(count == 0 for count in counts)
