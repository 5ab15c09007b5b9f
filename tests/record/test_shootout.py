"""The recording of one job under every framework: read back as it was written, and equal work in the one shown."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import LaunchError, SettingError
from distlab.record import shootout


def found() -> dict[str, Any]:
    """What `record` returns, made up."""
    run = shootout.Run([2.0, 1.0], 0.01, 0.02, 0.001, 3.0, 0.5, 2)
    return {
        "format": shootout.FORMAT,
        "command": "a command",
        "versions": {"torch": "2.13"},
        "load_average": 1.0,
        "stamp": {"hardware": "a processor", "cores": 2, "date": "2026-11-30T00:00:00"},
        "runs": {"DDP": asdict(run)},
        "small": {"torch, one by one": asdict(shootout.Rounds(0.3, 0.1, 0.2))},
        "stall": asdict(shootout.Stall([], 20.0, "shut down")),
    }


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shootout, "record", found)
    path = tmp_path / "new" / "shootout.json"
    assert shootout.main(["--out", str(path)]) == 0
    read = shootout.read(path)
    assert read.runs["DDP"].losses == [2.0, 1.0]
    assert read.small["torch, one by one"].median_s == 0.2
    assert read.stall.waited_s == 20.0
    assert not path.with_name("shootout.json.part").exists()


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(SettingError, match="no recording of a shootout"):
        shootout.read(other)


@pytest.mark.parametrize("way", shootout.WAYS)
def test_every_way_changes_how_and_not_what(way: str) -> None:
    config, alone = shootout.job(way), shootout.job("single process")
    for part in ("steps", "seed", "model", "data", "optimizer"):
        assert getattr(config, part) == getattr(alone, part)


@pytest.mark.parametrize("name", ["shootout.json", "shootout_again.json"])
def test_a_recording_in_the_repository_is_of_equal_work(name: str) -> None:
    recording = shootout.read(shootout.RECORDED.with_name(name))
    assert list(recording.runs) == list(shootout.WAYS)
    alone = recording.runs["single process"]
    assert len(alone.losses) == shootout.JOB["steps"]
    for run in recording.runs.values():
        # Rounding makes runs part slowly: early steps agree closely, all of them about.
        assert run.losses[:20] == pytest.approx(alone.losses[:20], rel=1e-4)
        assert run.weights_sum == pytest.approx(alone.weights_sum, rel=1e-2)
        assert 0 < run.communication_s + 1e-9 < run.fastest_s <= run.median_s
    assert set(recording.small) == {*shootout.SETTINGS, "torch, one by one", "torch, one buffer"}
    assert "load average" in str(recording)


def test_ranks_that_do_not_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shootout, "STALL_MOST_S", 0.01)  # Python itself takes longer to start
    with pytest.raises(LaunchError, match=r"did not end within 0\.01 s; expected about 20 s"):
        shootout.stall()
