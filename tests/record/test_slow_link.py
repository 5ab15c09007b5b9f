"""The recording of one slow cable: read back as written, and made with the cable slow that is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.faults.network import missing_rights
from distlab.record import slow_link


def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = json.loads(slow_link.RECORDED.read_text())
    monkeypatch.setattr(slow_link, "record", lambda: recorded)
    path = tmp_path / "new" / "slow_link.json"
    assert slow_link.main(["--out", str(path)]) == 0
    assert slow_link.read(path) == slow_link.read()


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": "another"}))
    with pytest.raises(SettingError, match="no recording of a slow link"):
        slow_link.read(path)


@pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))
def test_it_records_between_namespaces_of_which_one_has_a_slow_cable(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"HOSTS": 3, "SLOW_HOST": 1, "RATE_MBITS": 40.0, "SHARES": (0.25,), "PAYLOAD_MIB": 0.5}
    for name, value in small.items():
        monkeypatch.setattr(slow_link, name, value)
    made = slow_link.record()
    assert (made["hosts"], made["payload_bytes"]) == (3, 2**19)
    assert made["stamp"]["command"].startswith("pairs.py --payload-MiB 0.5")
    [run] = made["runs"]
    rates = {(a, b): rate for a, row in enumerate(run["GBps"]) for b, rate in enumerate(row) if a != b}
    assert max(rate for pair, rate in rates.items() if 1 in pair) < min(rates[0, 2], rates[2, 0])
    past_the_bucket = (
        2**19 - 2**18
    )  # which passes at once; an all-reduce of three sends more than the payload
    assert run["all_reduce_s"] > past_the_bucket * 8 / 10e6
