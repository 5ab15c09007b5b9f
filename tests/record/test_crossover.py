"""The recording of a ring against recursive doubling: read back as written, and shaped as its cables were."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distlab.bench.algorithms import Race, Row
from distlab.errors import SettingError
from distlab.faults.network import missing_rights
from distlab.predict.collectives import Link
from distlab.record import crossover


def found() -> dict[str, Any]:
    """What `record` returns, made up."""
    rows = [Row(1024, {"ring": 0.06, "doubling": 0.02}), Row(2**20, {"ring": 0.1, "doubling": 0.2})]
    return {
        "format": crossover.FORMAT,
        "rate_Mbits": 200.0,
        "delay_ms": 10.0,
        "load_average": 0.25,
        "command": "a command",
        "stamp": {
            "hardware": "a processor",
            "cores": 2,
            "backend": "gloo",
            "torch": "2.13",
            "date": "2026-11-30T00",
        },
        "race": asdict(Race(4, Link(0.01, 2.5e7), rows)),
    }


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossover, "record", found)
    path = tmp_path / "new" / "crossover.json"
    assert crossover.main(["--out", str(path)]) == 0
    read = crossover.read(path)
    assert read.race.rows[1].median_s == {"ring": 0.1, "doubling": 0.2}
    assert read.race.link == Link(0.01, 2.5e7)
    assert (
        "4 network namespaces of one machine (a processor, 2 cores, load 0.2 before), cables of 200 Mbit/s"
        in str(read)
    )


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(SettingError, match="no recording of a crossover"):
        crossover.read(path)


def test_the_recording_has_a_crossover_and_no_time_below_its_cables() -> None:
    recording = crossover.read()
    race = recording.race
    assert race.world_size == crossover.HOSTS
    crossing = race.crossover_bytes()
    assert crossing is not None
    assert race.rows[0].payload_bytes < crossing < race.rows[-1].payload_bytes
    for row in race.rows:
        assert row.median_s["ring"] >= 2 * (race.world_size - 1) * recording.delay_ms / 1e3
        assert row.median_s["doubling"] >= 2 * recording.delay_ms / 1e3


@pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))
def test_a_race_between_namespaces_takes_as_long_as_its_cables() -> None:
    made = crossover.record(payloads=[2**12, 2**19], repeats=1)
    assert made.pop("format") == crossover.FORMAT
    race = crossover.parse(made).race
    small = race.rows[0].median_s
    assert small["ring"] >= 6 * crossover.DELAY_MS / 1e3
    assert small["doubling"] >= 2 * crossover.DELAY_MS / 1e3
