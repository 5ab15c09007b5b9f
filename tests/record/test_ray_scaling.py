"""The recording of Ray's waits that the book shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.record import ray_scaling


def test_the_recording_in_the_repository() -> None:
    found = ray_scaling.read()
    for version, run in found.scaling.items():
        assert run.autoscaler == version
        events = run.events
        assert list(events.values()) == sorted(events.values())
        for number in (1, 2):
            joined, stepped = events[f"node {number} joined"], events[f"worker {number} stepped"]
            assert 0 < joined < stepped <= events["released"]
            assert events[f"node {number} gone"] - events["released"] > run.idle_s
    training = found.training
    assert list(training.values()) == sorted(training.values())
    assert 0 < found.data["first batch"] <= found.data["all batches"]
    for search in found.searches.values():
        assert len(search.steps) == ray_scaling.TRIALS
        assert max(search.steps) == ray_scaling.STEPS
    assert sum(found.searches["asha"].steps) < sum(found.searches["pbt"].steps)
    assert found.stamp["hardware"] in str(found)


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads(ray_scaling.RECORDED.read_text())
    monkeypatch.setattr(ray_scaling, "record", lambda: recorded)
    path = tmp_path / "new" / "again.json"
    assert ray_scaling.main(["--out", str(path)]) == 0
    assert ray_scaling.read(path) == ray_scaling.read()
    assert not path.with_name("again.json.part").exists()


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(SettingError, match="no recording of Ray"):
        ray_scaling.read(other)
