"""The recording of drills that the book shows: read back as the drills' own reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.faults.drills.report import Recovery
from distlab.record import drills

RECOVERY = Recovery("torchrun", "rank 1 killed", 0.1, 4.0, 0.5, 2, 0, 0, 0.4, (2, 1), "cpu", {"cores": 2})


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drills, "DRILLS", {"torchrun, rank": lambda: RECOVERY})
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1.0")
    path = tmp_path / "new" / "drills.json"
    assert drills.main(["--out", str(path)]) == 0
    found = drills.read(path)
    assert found.runs == {"torchrun, rank": RECOVERY}
    assert found.versions["ray"] == "ray 1.0"
    assert found.load_average >= 0
    assert not path.with_name("drills.json.part").exists()


def test_the_recording_in_the_repository() -> None:
    found = drills.read()
    assert list(found.runs) == list(drills.DRILLS)
    for name, run in found.runs.items():
        assert run.recovery_s > 0, name
        assert run.steps_lost == 2
        assert (run.samples_repeated, run.samples_skipped) == (0, 0)
    assert found.stamp["hardware"] in str(found)
    assert "load average" in str(found)


def test_another_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"format": "something else"}))
    with pytest.raises(SettingError, match="no recording of drills"):
        drills.read(other)
