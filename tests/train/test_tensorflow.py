"""TensorFlow on the same task: synchronous strategies have torch's losses, the asynchronous one learns."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
)
from distlab.train.loop import train
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


def test_multi_worker_mirrored_equals_torch_with_an_empty_share() -> None:
    before = set(psutil.Process().children(recursive=True))
    result = train_tensorflow(UNEVEN)
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
    assert set(psutil.Process().children(recursive=True)) <= before


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
