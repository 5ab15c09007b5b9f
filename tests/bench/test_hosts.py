"""Collectives between hosts that are namespaces: no faster than their cables, with the network in the stamp."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlab.bench import hosts
from distlab.bench.collectives_command import main
from distlab.bench.hosts import HostNetwork
from distlab.bench.results import read_results
from distlab.errors import LaunchError, SettingError
from distlab.faults.network import missing_rights
from tests.namespaces import namespaces

needs_rights = pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))


@needs_rights
def test_times_are_bounded_by_the_cables(tmp_path: Path) -> None:
    code = main(
        hosts=2, rate_Mbits=100.0, delay_ms=4.0, operations=("all_reduce", "broadcast"), sizes_bytes=(8, 2**22),
        warmup=0, iterations=3, out=tmp_path / "out.json",
    )  # fmt: skip
    assert code == 0
    assert namespaces() == set()
    results = read_results(tmp_path / "out.json")
    assert results.stamp["network"] == (
        "2 network namespaces of one machine on a switch, cables 100 Mbit/s each way, 4 ms one way"
    )
    assert results.stamp["backend"] == "gloo"
    least_s = {(row["operation"], row["payload_bytes"]): row["min_s"] for row in results.rows}
    # An all-reduce of two ranks is two messages in a row, however many bytes.
    assert least_s["all_reduce", 8] >= 2 * 4e-3
    # Each rank sends and receives 4 MiB, less the two buckets of 256 KiB that pass at once.
    assert least_s["all_reduce", 2**22] >= (2**22 - 2 * 2**18) * 8 / 100e6
    assert all(row["wrong"] == 0 for row in results.rows)


def test_the_rank_that_failed_by_itself_is_named() -> None:
    gone = (1, ["Traceback", "RuntimeError: [pair.cc] Connection closed by peer [10.0.0.2]:4711"])
    cause = (1, ["Traceback", "  File x", "MemoryError: too much"])
    error = hosts._failure({0: gone, 1: cause, 2: (0, [])})
    assert isinstance(error, LaunchError)
    assert error.rank == 1
    assert str(error).startswith("Rank 1 ended with code 1: MemoryError: too much\n\nTraceback\n  File x")
    killed = hosts._failure({0: gone, 1: (-9, ["[W1129] a warning"])})
    assert str(killed) == "Rank 1 was killed by SIGKILL."
    setting = hosts._failure({0: (1, ["distlab.errors.SettingError: root is 7."])})
    assert isinstance(setting, SettingError)
    assert str(setting) == "root is 7."


@needs_rights
def test_without_rights_or_tun_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("distlab.faults.cable.TUN", str(tmp_path / "tun"))
    with pytest.raises(SettingError, match=r"No delay can be had here: .*tun cannot be opened"):
        main(hosts=2, delay_ms=1.0)
    monkeypatch.setattr("distlab.faults.network.missing_rights", lambda: "User 7 may not.")
    with pytest.raises(SettingError, match="User 7 may not"):
        main(hosts=2)


def test_a_network_says_what_it_is() -> None:
    assert str(HostNetwork(3)) == (
        "3 network namespaces of one machine on a switch, cables unlimited, no delay added"
    )
