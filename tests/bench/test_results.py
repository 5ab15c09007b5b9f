"""Result files: what is written comes back, and what nobody of us wrote is refused in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from distlab.bench.results import SAMPLES_MOST, Results, check_writable, read_results, thinned, write_results
from distlab.errors import SettingError

ROW = {"operation": "all_reduce", "payload_bytes": 1024, "samples_s": [1e-4, 2e-4], "median_s": 1.5e-4}
GOOD: dict[str, Any] = {
    "kind": "collectives",
    "identity": ["operation", "payload_bytes"],
    "rows": [ROW],
    "stamp": {"tier": "cpu", "topology": ["1 NUMA node"], "cores": 2},
    "notes": ["gloo has no avg."],
}


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    written = Results("gpu", ("operation",), [ROW, ROW | {"operation": "x"}], {"tier": "gpu"}, ("A note.",))
    write_results(path, written)
    read = read_results(path)
    assert list(read.rows) == list(written.rows)
    assert (read.kind, read.stamp, read.notes) == ("gpu", {"tier": "gpu"}, ("A note.",))
    assert read.named(read.rows[1]) == (("operation", "x"),)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    assert sum('"samples_s"' in line for line in path.read_text().splitlines()) == 2  # a row, a line
    write_results(path, Results("gpu", ("operation",), [], {}))
    assert not read_results(path).rows


def test_an_infinite_time_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_results(tmp_path / "a", Results("x", ("a",), [{"a": 1, "samples_s": [float("inf")]}], {}))
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_it_says_so_beforehand(tmp_path: Path) -> None:
    for path in (tmp_path / "missing" / "a.json", tmp_path):
        with pytest.raises(SettingError, match="Cannot write"):
            check_writable(path)
        with pytest.raises(SettingError, match="Cannot write"):
            write_results(path, Results("x", ("a",), [], {}))
    assert not list(tmp_path.iterdir())


def test_thinning_keeps_order_spread_and_count() -> None:
    samples = [float(i) for i in range(1, 1001)]
    kept = thinned(samples)
    assert len(kept) == SAMPLES_MOST
    assert kept == sorted(kept)
    assert kept[0] == 1
    assert kept[-1] > 990
    assert thinned([1.23456789e-5]) == [1.23457e-5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: [], "holds a list"),
        (lambda c: {}, "kind is not a text"),
        (lambda c: c | {"kind": "x" * 3000}, "kind is not a text"),
        (lambda c: c | {"identity": []}, "identity"),
        (lambda c: c | {"identity": [[]]}, "identity|unhashable"),
        (lambda c: c | {"identity": ["a", "a"]}, "identity"),
        (lambda c: c | {"rows": None}, "lacks rows"),
        (lambda c: c | {"rows": [7]}, "row 1 is not an object"),
        (lambda c: c | {"rows": [ROW, ROW]}, "row 2 measures what a row before it does"),
        (lambda c: c | {"rows": [{"operation": "x"}]}, "row 1 has no payload_bytes"),
        (lambda c: c | {"rows": [ROW | {"operation": []}]}, "row 1's operation is"),
        (lambda c: c | {"rows": [ROW | {"payload_bytes": 1e999}]}, "payload_bytes is inf"),
        (lambda c: c | {"rows": [ROW | {"samples_s": []}]}, "no samples_s of 1 to 200"),
        (lambda c: c | {"rows": [ROW | {"samples_s": [1.0] * 201}]}, "no samples_s of 1 to 200"),
        (lambda c: c | {"rows": [ROW | {"samples_s": [0]}]}, "a time of 0 s"),
        (lambda c: c | {"rows": [ROW | {"samples_s": [-1.0]}]}, "a time of -1"),
        (lambda c: c | {"rows": [ROW | {"samples_s": [float("nan")]}]}, "a time of nan"),
        (lambda c: c | {"rows": [ROW | {"samples_s": [True]}]}, "a time of True"),
        (lambda c: c | {"rows": [ROW | {"samples_s": ["\x1b[31m"]}]}, r"a time of \?\[31m"),
        (lambda c: c | {"rows": [ROW | {"launches": [1]}]}, "do not add up"),
        (lambda c: c | {"rows": [ROW | {"launches": [3, -1]}]}, "do not add up"),
        (lambda c: c | {"stamp": {"tier": {}}}, "stamp's tier is"),
        (lambda c: c | {"notes": [1]}, "a note is not a text"),
    ],
)
def test_a_file_of_another_format_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    write(tmp_path / "good.json", GOOD)
    assert read_results(tmp_path / "good.json").kind == "collectives"
    with pytest.raises(SettingError, match=said):
        read_results(write(tmp_path / "bad.json", change(GOOD)))


def test_truncated_deep_and_binary_files_are_refused(tmp_path: Path) -> None:
    whole = json.dumps(GOOD)
    for length in range(len(whole)):
        with pytest.raises(SettingError):
            read_results(write(tmp_path / "cut.json", whole[:length]))
    with pytest.raises(SettingError, match="may be truncated"):
        read_results(write(tmp_path / "cut.json", whole[:-30]))
    for content in ("[" * 100_000, '{"kind": NaN}', "9" * 10_000):
        with pytest.raises(SettingError, match="not a file of results"):
            read_results(write(tmp_path / "bad.json", content))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="Cannot read"):
        read_results(tmp_path / "binary")


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(write(tmp_path / "good.json", GOOD))
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 2**40)  # sparse
    for name, said in [
        ("pipe", "not a regular file"),
        ("link", ""),
        ("huge", "more than 67108864 bytes"),
        ("none", "No such file"),
    ]:
        with pytest.raises(SettingError, match=f"Cannot read .*{said}"):
            read_results(tmp_path / name)
    with pytest.raises(SettingError, match="Cannot read"):
        read_results(tmp_path)
