"""The log of benchmarks: what comes back is what went in, once each, and a damaged file is found out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.train.benchmark_log import append, benchmark, collect, read_benchmarks
from distlab.train.config import from_dict
from distlab.train.runs import summarise
from tests.train.test_logs import SMALL
from tests.train.test_runs import write


def run(folder: Path, name: str) -> str:
    return write(replace(SMALL, name=name, folder=str(folder)))


def test_a_later_reader_gets_summary_settings_and_stamp(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run(tmp_path, "first"), run(tmp_path, "second")
    log = tmp_path / "benchmarks.jsonl"
    assert collect((first, second), log, label="before packing") == 0
    assert "2 runs added" in capsys.readouterr().out
    entries = read_benchmarks(log)
    assert [entry.run for entry in entries] == [summarise(first), summarise(second)]
    assert [entry.label for entry in entries] == ["before packing"] * 2
    assert from_dict(entries[0].config).name == "first"
    assert entries[0].stamp["hardware"] == entries[0].run.hardware
    assert entries[0].stamp["date"]


def test_a_run_is_written_once_and_again_when_it_went_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log = run(tmp_path, "one"), tmp_path / "benchmarks.jsonl"
    collect((folder,), log)
    collect((folder,), log, label="again")
    assert "0 runs added" in capsys.readouterr().out
    ranks = sorted(Path(folder, "log").glob("rank_*.jsonl"))
    for rank in ranks:
        last = json.loads(rank.read_text().splitlines()[-1])
        with rank.open("a") as file:
            file.write(json.dumps(last | {"step": last["step"] + 1}) + "\n")
    collect((folder,), log)
    assert [entry.run.steps for entry in read_benchmarks(log)] == [5, 6]


def test_a_loss_that_was_not_finite_survives(tmp_path: Path) -> None:
    entry = benchmark(run(tmp_path, "one"))
    log = tmp_path / "benchmarks.jsonl"
    append(log, [replace(entry, run=replace(entry.run, loss=math.inf))])
    assert "Infinity" not in log.read_text(), "plain JSON, which every reader takes"
    assert math.isnan(read_benchmarks(log)[0].run.loss)


@pytest.mark.parametrize(
    "damage",
    ["not json\n", "[]\n", "{}\n", '{"schema": 2, "run": {}}\n', "[" * 100_000 + "\n", '{"schema": 1'],
)
def test_a_damaged_log_is_named_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    entry, log = benchmark(run(tmp_path, "one")), tmp_path / "benchmarks.jsonl"
    append(log, [entry])
    log.write_text(log.read_text() + damage)
    before = log.read_bytes()
    with pytest.raises(SettingError, match=r"line"):
        append(log, [replace(entry, log_sha256="other")])
    assert log.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step_s", float("nan")),
        ("step_s", True),
        ("world_size", -1),
        ("world_size", 2.0),
        ("name", "\x1b[2J"),
        ("strategy", 7),
        ("shards", ["weights", None]),
        ("cost", None),
    ],
)
def test_a_strangers_line_has_numbers_and_names_or_is_refused(
    tmp_path: Path, name: str, value: object
) -> None:
    log = tmp_path / "benchmarks.jsonl"
    append(log, [benchmark(run(tmp_path, "one"))])
    entry = json.loads(log.read_text())
    entry["run"][name] = value
    log.write_text(json.dumps(entry) + "\n")
    with pytest.raises(SettingError, match="line 1"):
        read_benchmarks(log)


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="name the folder"):
        collect((), tmp_path / "log")
    with pytest.raises(SettingError, match="no line"):
        benchmark(run(tmp_path, "one"), "two\nlines")
    with pytest.raises(SettingError, match="Cannot read"):
        read_benchmarks(tmp_path / "none")
    with pytest.raises(SettingError):
        collect((str(tmp_path / "nothing"),), tmp_path / "log")
    assert not (tmp_path / "log").exists(), "nothing is written before all runs are read"
