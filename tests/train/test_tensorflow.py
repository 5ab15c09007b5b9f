"""TensorFlow on the same task: synchronous strategies have torch's losses, the asynchronous one learns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import psutil
import pytest

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
    from_dict,
)
from distlab.train.data import load_data
from distlab.train.loop import train
from distlab.train.records import read_info, read_log
from distlab.train.result import StepRecord, TrainResult
from distlab.train.sampler import BatchPlan
from distlab.train.tensorflow import check, train_tensorflow

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None,
    reason="TensorFlow is not installed: pip install 'distlab[frameworks]'",
)

TOLERANCE = 1e-5
"""Of losses near 2: float32 sums in another order, by other kernels."""

# The third step of each epoch has one sample: a worker has none.
UNEVEN = TrainConfig(
    strategy="tensorflow",
    seed=3,
    steps=7,
    model=ModelConfig("cnn", width=8),
    data=DataConfig(global_batch=718, micro_batches=2),
    optimizer=OptimizerConfig(weight_decay=0.01, schedule="cosine", warmup_steps=2),
)


def _losses(config: TrainConfig) -> list[float]:
    return [step.loss for step in train(replace(config, strategy="single")).steps]


def test_multi_worker_mirrored_equals_torch_with_an_empty_share(tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    config = replace(UNEVEN, folder=str(tmp_path), log=LogConfig(samples=True))
    result = train_tensorflow(config)
    assert result is not None
    single = train(replace(UNEVEN, strategy="single"))
    assert [step.loss for step in result.steps] == pytest.approx(_losses(UNEVEN), abs=TOLERANCE)
    assert result.held_out_loss == pytest.approx(single.held_out_loss, abs=TOLERANCE)
    assert result.accuracy == single.accuracy
    assert result.weights_sum == pytest.approx(single.weights_sum, abs=1e-4)
    assert result.world_size == 2
    assert [step.samples for step in result.steps] == [359, 359, 1, 359, 359, 1, 359]
    assert all(step.communication_s > 0 for step in result.steps)
    assert result.stamp.backend.startswith("tensorflow 2.")
    _assert_logged(config, result)
    assert set(psutil.Process().children(recursive=True)) <= before


def _assert_logged(config: TrainConfig, result: TrainResult) -> None:
    """Both ranks wrote down each step, as ranks of torch do."""
    lines = read_log(str(config.run_folder))
    assert [(line.step, line.rank) for line in lines] == [
        (step, rank) for step in range(7) for rank in (0, 1)
    ]
    for line, step in zip(lines[::2], result.steps, strict=True):
        assert {field.name: getattr(line, field.name) for field in fields(StepRecord)} == vars(step)
    plan = BatchPlan(load_data(config)[0], config.data, config.seed)
    for line in lines:
        assert line.loss == result.steps[line.step].loss
        assert line.sample_ids == plan.share(plan.global_batch(line.step), 2, line.rank)
        assert (line.world_size, line.attempt, line.tier) == (2, 0, result.stamp.tier)
        assert line.samples_per_s == pytest.approx(line.samples / line.step_s)
        assert line.run_s >= line.step_s > 0
    info = read_info(str(config.run_folder))
    assert from_dict(info.config) == config
    assert info.stamp["backend"] == result.stamp.backend, "what carried the gradients, not what met the ranks"


def test_mirrored_equals_torch() -> None:
    outcome = _run("mirrored", "--steps", "5")
    config = TrainConfig(steps=5)
    assert outcome["losses"] == pytest.approx(_losses(config), abs=TOLERANCE)


def test_parameter_server_learns_in_four_processes() -> None:
    before = set(psutil.Process().children(recursive=True))
    outcome = _run("parameter_server", "--steps", "40")
    losses = outcome["losses"]
    assert len(losses) == 40
    assert losses[-1] < losses[0] / 2
    assert outcome["accuracy"] > 0.7
    assert set(psutil.Process().children(recursive=True)) <= before


def _run(example: str, *args: str) -> dict[str, list[float]]:
    done = subprocess.run(
        [sys.executable, "-m", f"distlab.train.tensorflow.{example}", "--json", *args],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    outcome: dict[str, list[float]] = json.loads(done.stdout)
    return outcome


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            replace(UNEVEN, model=ModelConfig("gpt", width=32), data=DataConfig(source="text")),
            "model.kind is 'gpt'",
        ),
        (
            replace(UNEVEN, folder="runs", checkpoint=CheckpointConfig(every_steps=2)),
            "neither saves nor resumes",
        ),
        (replace(UNEVEN, model=ModelConfig(freeze=("head",))), "model.freeze is set"),
        (replace(UNEVEN, optimizer=OptimizerConfig(name="adamw")), "optimizer.name is 'adamw'"),
        (replace(UNEVEN, parallel=ParallelConfig(tensor=2)), "parallel.tensor is 2"),
    ],
)
def test_what_only_torch_does_here_is_refused(config: TrainConfig, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        check(config)


def test_missing_tensorflow_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'distlab\[frameworks\]'"):
        check(UNEVEN)
