"""The same file of settings, started by each launcher: the same training, on as many ranks as the launcher says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distlab.machine import free_port
from distlab.train.config import DataConfig, ModelConfig, TrainConfig
from distlab.train.loop import train

# The file says 3 ranks, each launcher 2: who does not listen to the launcher is found out.
CONFIG = TrainConfig(model=ModelConfig(width=24), data=DataConfig(global_batch=100), steps=5, world_size=3)
RUN = ["-m", "distlab.train", "--config", "run.yaml", "--json"]
LAUNCHERS = {
    "distlab": ["distlab", "train", "--world_size=2", *RUN[2:]],
    "torchrun, c10d": [
        *("torchrun", "--nproc_per_node=2", "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0"),
        *RUN,
    ],
    "torchrun, static": [
        *("torchrun", "--nproc_per_node=2", "--rdzv_backend=static", "--master_port={port}"),
        *RUN,
    ],
    "accelerate": [
        *("accelerate", "launch", "--multi_gpu", "--num_processes=2", "--main_process_port={port}"),
        *RUN,
    ],
    "deepspeed": ["deepspeed", "--num_gpus=2", "--master_port={port}", "--module", *RUN[1:]],
}


@pytest.fixture(scope="module")
def wanted() -> float:
    """The last loss of plain training."""
    return train(replace(CONFIG, strategy="single")).steps[-1].loss


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    values = CONFIG.as_dict()
    values["model"]["freeze"], values["faults"] = [], []  # YAML has no tuples
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    # The launchers start other programs of the environment by name.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    if shutil.which(command[0], path=environment["PATH"]) is None:
        pytest.skip(f"{command[0]} is not installed; pip install 'distlab[frameworks]' brings it")
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize("name", list(LAUNCHERS))
def test_every_launcher_starts_the_same_run(name: str, folder: Path, wanted: float) -> None:
    done = _run([part.format(port=free_port()) for part in LAUNCHERS[name]], folder)
    assert done.returncode == 0, done.stderr
    result = _summary(done.stdout)
    assert result["world_size"] == 2
    assert result["steps"] == CONFIG.steps
    assert result["loss"] == pytest.approx(wanted, abs=1e-5)


def test_a_launcher_that_starts_one_process_for_two_is_refused(folder: Path) -> None:
    """Without --multi_gpu accelerate tells its only process nothing of others."""
    done = _run(["accelerate", "launch", "--cpu", "--num_processes=2", *RUN], folder)
    assert done.returncode != 0
    assert "distlab train: RANK is not set: accelerate launch started this process alone" in done.stderr
    assert "--multi_gpu" in done.stderr
    assert done.stdout == ""


def _summary(output: str) -> dict[str, Any]:
    """The one line of JSON that rank 0 writes."""
    [line] = [line for line in output.splitlines() if '"held_out_loss"' in line]
    summary = json.loads(line[line.index("{") :])
    assert isinstance(summary, dict)
    return summary
