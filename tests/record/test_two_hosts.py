"""The recording of one job between two hosts: read back as written, of equal work, and of the bytes that were due."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.faults.network import missing_rights
from distlab.record import two_hosts
from distlab.train.models import build_model

PAYLOAD_BYTES = 4 * sum(p.numel() for p in build_model(two_hosts.job("DDP").model, 0).parameters())


def found() -> dict[str, Any]:
    """What `record` returns, made up."""
    return {
        "format": two_hosts.FORMAT,
        "hosts": 2,
        "steps": 30,
        "command": "a command",
        "versions": {"torch": "2.13"},
        "load_average": [0.25, 3.0],
        "stamp": {"hardware": "a processor", "cores": 2, "date": "2026-11-30T00:00:00"},
        "runs": [
            asdict(two_hosts.Run(way, rate, 0.01, 0.02, 3.0, 500, [2.0, 1.0]))
            for way, rate in (("DDP", None), ("DDP", 100.0), ("FSDP2", None))
        ],
        "sent_of_payload": {"all-reduce": 1.0},
    }


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(two_hosts, "record", found)
    path = tmp_path / "new" / "two_hosts.json"
    assert two_hosts.main(["--out", str(path)]) == 0
    read = two_hosts.read(path)
    assert read.of("DDP", 100.0) == [two_hosts.Run("DDP", 100.0, 0.01, 0.02, 3.0, 500, [2.0, 1.0])]
    assert read.sent_of_payload == {"all-reduce": 1.0}
    assert "(a processor, 2 cores, load average 0.2 as it began and 3.0 as it ended)" in str(read)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(SettingError, match="no recording of two hosts"):
        two_hosts.read(path)


def test_the_recording_in_the_repository_is_of_equal_work() -> None:
    recording = two_hosts.read()
    reference = recording.of("DDP", None)[0].losses
    assert len(reference) == recording.steps == two_hosts.JOB["steps"]
    assert len(recording.runs) == len(two_hosts.WAYS) * len(two_hosts.RATES_MBITS) * two_hosts.TURNS
    for way, rate in product(two_hosts.WAYS, two_hosts.RATES_MBITS):
        assert len(recording.of(way, rate)) == two_hosts.TURNS
        for run in recording.of(way, rate):
            assert run.losses == pytest.approx(reference, rel=1e-2)
            assert 0 < run.fastest_s <= run.median_s
            assert run.start_s > 0


def test_the_recorded_bytes_are_those_of_each_framework() -> None:
    recording = two_hosts.read()
    for collective, part in (("all-reduce", 1.0), ("all-gather", 0.5), ("reduce-scatter", 1.0)):
        assert recording.sent_of_payload[collective] == pytest.approx(part, rel=0.02)
    for run in recording.runs:
        # FSDP2 gathers twice (all but its last unit), and gloo's reduce-scatter sends what an all-reduce does.
        sent = recording.steps * PAYLOAD_BYTES * (2.0 if run.way == "FSDP2" else 1.0)
        # On top come headers, the start, and the talk of Horovod's ranks in every cycle.
        more = 10**6 * (1 + (run.start_s + recording.steps * run.median_s) * (run.way == "Horovod"))
        assert 0.95 * sent < run.sent_bytes < 1.05 * sent + more


def test_no_recorded_step_is_faster_than_its_cable() -> None:
    for run in two_hosts.read().runs:
        if run.rate_Mbits is not None:
            past_the_bucket = PAYLOAD_BYTES * (2.0 if run.way == "FSDP2" else 1.0) * 0.95 - 2**18
            assert run.median_s > past_the_bucket * 8 / (run.rate_Mbits * 1e6)


@pytest.mark.timeout(900)  # twelve processes import torch, on a machine that has other work, too
@pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))
@pytest.mark.skipif(find_spec("horovod") is None, reason="see scripts/build_horovod")
def test_it_records_between_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(two_hosts.JOB, "steps", 6)
    made = two_hosts.record(rates_Mbits=[None], turns=1)
    assert [run["way"] for run in made["runs"]] == list(two_hosts.WAYS)
    assert all(len(run["losses"]) == made["steps"] == 6 for run in made["runs"])
    assert made["stamp"]["world_size"] == made["hosts"] == 2
    assert made["sent_of_payload"]["all-gather"] < 0.6
