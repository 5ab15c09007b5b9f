"""A folder has one run at a time, and what another run left there stays."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.train.config import CheckpointConfig, DataConfig, ModelConfig, TrainConfig
from distlab.train.launch import launch
from distlab.train.lock import only_run
from distlab.train.loop import Trainer, train

SMALL = TrainConfig(
    strategy="single", steps=2, model=ModelConfig(width=16), data=DataConfig("synthetic", 8, samples=16)
)

HOLD = """
import sys
from distlab.train.config import TrainConfig
from distlab.train.lock import only_run
with only_run(TrainConfig(folder=sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusals(config: TrainConfig) -> list[str]:
    """What each rank is told of a second run that begins, and of one that resumes."""
    told = []
    for resume in (None, "latest"):
        with pytest.raises(SettingError) as refused:
            train(replace(config, resume_from_checkpoint=resume))
        told.append(str(refused.value))
    return told


def test_a_second_run_is_refused_on_every_rank_until_the_first_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SMALL, strategy="ddp", folder=str(tmp_path), checkpoint=CheckpointConfig(every_steps=1))
    monkeypatch.setattr("distlab.train.lock.PATIENCE_S", 0)
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "held\n"
    before = contents(tmp_path)
    said = f"Process {first.pid} on "
    with pytest.raises(SettingError, match=said):
        train(replace(config, strategy="single"))
    for told in launch(_impatient_refusals, 2, config, threads_per_rank=1):
        assert all(said in text and f"writing a run into {tmp_path}/run" in text for text in told)
    assert contents(tmp_path) == before
    first.kill()
    first.wait()
    first.stdin.close()
    first.stdout.close()
    assert len(train(replace(config, strategy="single")).steps) == 2


def _impatient_refusals(config: TrainConfig) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distlab.train.lock.PATIENCE_S", 0)
        return refusals(config)


def test_one_process_may_run_again_whatever_became_of_the_last(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    for _ in range(2):
        with pytest.raises(RuntimeError, match="as configured") as kept:
            train(replace(config, faults=(Fault("raise", step=1),)))
        with pytest.raises(SettingError, match="the run ends after 2") as also_kept:
            train(replace(config, faults=(Fault("raise", step=3),)))
    assert len(train(config).steps) == 2
    del kept, also_kept
    with Trainer(config), pytest.raises(SettingError, match="is writing a run"):
        train(config)


def test_a_run_that_is_taken_up_again_waits_for_its_own_killed_rank(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    assert holder.stdout.readline() == "held\n"
    holder.kill()  # and nobody waits for its end
    with only_run(replace(config, resume_from_checkpoint="latest")):
        pass
    holder.communicate()


def test_a_run_without_checkpoints_does_not_begin_among_those_of_another(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    train(replace(config, checkpoint=CheckpointConfig(every_steps=2)))
    before = contents(tmp_path)
    with pytest.raises(SettingError, match="holds checkpoints up to step 2"):
        train(config)
    assert {path: content for path, content in contents(tmp_path).items() if path.name != "run.lock"} == {
        path: content for path, content in before.items() if path.name != "run.lock"
    }


def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("mine\n")
    (tmp_path / "run" / "run.lock").symlink_to(tmp_path / "mine")
    with pytest.raises(SettingError, match=r"Cannot write into .*run: .*a link"):
        train(replace(SMALL, folder=str(tmp_path)))
    assert (tmp_path / "mine").read_text() == "mine\n"
