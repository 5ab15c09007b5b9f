"""Which faults strike, whom, and how often. What they do to a run is in test_exactness.py."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.faults.inject import InjectedError, Injector, exhaust_memory
from distlab.observe.runs import Run
from distlab.train.config import TrainConfig, from_dict
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.records import read_log
from distlab.train.runs import summarise


def _config(folder: Path | None, *faults: dict[str, Any], resume: str | None = None) -> TrainConfig:
    return from_dict(
        {
            "folder": str(folder) if folder else None,
            "steps": 10,
            "resume_from_checkpoint": resume,
            "faults": list(faults),
        }
    )


@pytest.mark.parametrize("resume", [None, "latest"])
def test_a_link_in_place_of_the_folder_of_marks_is_refused(tmp_path: Path, resume: str | None) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/0.json").write_text("theirs")
    (tmp_path / "run/faults").symlink_to(tmp_path / "outside")
    faults = [{"kind": "raise", "step": 3, "rank": 0}, {"kind": "raise", "step": 4, "rank": 0}]
    with pytest.raises(SettingError, match="run/faults is a link"):
        Injector(_config(tmp_path, *faults, resume=resume), rank=0, first=0).after(4)
    assert [path.read_text() for path in (tmp_path / "outside").iterdir()] == ["theirs"]


def test_a_fault_strikes_its_rank_after_its_step_once(tmp_path: Path) -> None:
    config = _config(tmp_path, {"kind": "raise", "step": 3, "rank": 1})
    other = Injector(config, rank=0, first=0)
    for steps in range(1, 11):
        other.after(steps)
    injector = Injector(config, rank=1, first=0)
    injector.after(1)
    injector.after(2)
    before = time.time()
    with pytest.raises(InjectedError, match="Rank 1 fails after step 3"):
        injector.after(3)
    mark = json.loads((tmp_path / "run/faults/0.json").read_text())
    assert (mark["kind"], mark["step"], mark["rank"]) == ("raise", 3, 1)
    assert before <= mark["time_s"] <= time.time()
    # The run comes back at a checkpoint before the fault, or without any.
    for first, resumed in ((2, config), (0, _config(tmp_path, *_plain(config), resume="latest"))):
        again = Injector(resumed, rank=1, first=first)
        for steps in range(first + 1, 11):
            again.after(steps)


def test_ranks_that_torchrun_starts_again_are_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, {"kind": "raise", "step": 1})
    with pytest.raises(InjectedError):
        Injector(config, rank=0, first=0).after(1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    Injector(config, rank=0, first=0).after(1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")  # a new run of the same name
    with pytest.raises(InjectedError):
        Injector(config, rank=0, first=0).after(1)


def test_each_fault_of_a_rank_strikes_by_itself(tmp_path: Path) -> None:
    config = _config(tmp_path, {"kind": "raise", "step": 2}, {"kind": "raise", "step": 4})
    with pytest.raises(InjectedError, match="step 2"):
        Injector(config, rank=0, first=0).after(2)
    again = Injector(config, rank=0, first=1)
    again.after(2)
    with pytest.raises(InjectedError, match="step 4"):
        again.after(4)


def test_without_a_folder_a_fault_strikes_all_the_same() -> None:
    with pytest.raises(InjectedError):
        Injector(_config(None, {"kind": "raise", "step": 2}), rank=0, first=0).after(2)


def test_a_slowed_rank_stays_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    injector = Injector(_config(tmp_path, {"kind": "slow", "step": 3, "seconds": 0.25}), rank=0, first=0)
    for steps in range(1, 7):
        injector.within()
        injector.after(steps)
    assert slept == [0.25] * 3  # in the steps that follow


def test_a_slowed_rank_is_the_one_that_its_log_its_metrics_and_the_cost_blame(tmp_path: Path) -> None:
    slow = {"kind": "slow", "step": 2, "rank": 1, "seconds": 0.2}
    launch(train, 2, replace(_config(tmp_path, slow), steps=6), threads_per_rank=1)
    lines = read_log(str(tmp_path / "run"))
    for line in lines:
        assert line.step_s == pytest.approx(line.data_s + line.compute_s + line.communication_s)
        if line.step >= 2:
            assert line.step_s > 0.15, "the step lasts as long as its slowest rank, for all of them"
            assert (line.compute_s > 0.2) == (line.rank == 1)
            assert (line.communication_s > 0.15) == (line.rank == 0)
    assert summarise(str(tmp_path / "run")).step_s > 0.15
    followed = Run(tmp_path / "run")
    followed.poll(time.time())
    assert followed.ranks[1].compute_s > 2 * followed.ranks[0].compute_s
    assert followed.account.straggler_s > 0.15 * 4


def test_a_shortage_of_memory_is_real_and_passes() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError):
        exhaust_memory()
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(2**26)) == 2**26


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "kill", "step": 0}, "step is 0; it must be 1"),
        ({"kind": "kill", "step": 1, "rank": -1}, "rank is -1; it must be 0"),
        ({"kind": "slow", "step": 1, "seconds": -1.0}, "seconds is -1.0; it must be 0"),
        ({"kind": "slow_network", "step": 1, "rate_Mbits": 0.0}, "rate_Mbits is 0.0; it must be 0.001"),
    ],
)
def test_faults_that_make_no_sense(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Fault(**values)


@pytest.mark.parametrize(
    ("fault", "folder", "says"),
    [
        ({"kind": "kill", "step": 11}, "runs", "step 11; the run ends after 10"),
        ({"kind": "fill_disk", "step": 1}, None, "folder is not set"),
        ({"kind": "fill_disk", "step": 1}, "s3://bucket", "expected a local path"),
        ({"kind": "stall_storage", "step": 1}, "s3://bucket", "'stall_storage' and folder is 's3://bucket'"),
        ({"kind": "stall_storage", "step": 1}, None, "folder is not set"),
        ({"kind": "slow_network", "step": 1}, None, "python -m distlab.faults.network 2"),
        ({"kind": "drop_network", "step": 1}, None, "ranks are in none of their own"),
        ({"kind": "damage_checkpoint", "step": 1}, "runs", "no checkpoint need be there yet"),
    ],
)
def test_faults_that_could_never_strike(fault: dict[str, Any], folder: str | None, says: str) -> None:
    config = from_dict({"folder": folder, "steps": 10, "faults": [fault]})
    with pytest.raises(SettingError, match=says):
        Injector(config, rank=0, first=0)


def test_a_save_in_the_background_is_there_when_the_next_one_begins() -> None:
    faults = [{"kind": "damage_checkpoint", "step": 4}]
    checkpoint = {"every_steps": 2, "asynchronous": True}
    Injector(from_dict({"folder": "runs", "steps": 10, "checkpoint": checkpoint, "faults": faults}), 0, 0)
    late = {"folder": "runs", "steps": 10, "checkpoint": checkpoint | {"every_steps": 3}, "faults": faults}
    with pytest.raises(SettingError, match="to half of it where"):
        Injector(from_dict(late), 0, 0)


def _plain(config: TrainConfig) -> list[dict[str, Any]]:
    return [dict(vars(fault)) for fault in config.faults]
