"""Traces that anybody may have written: read as far as they are whole, one sentence where they are not."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError, WorkError
from distlab.observe.profile import traces
from distlab.observe.profile.analysis import from_json
from distlab.observe.profile.analyze import analyze
from distlab.observe.profile.memory import memory_lines
from distlab.observe.profile.traces import digest, rank_files, read_trace
from tests.observe.profile.synthetic import MAIN, data, gloo, memory, op, step, trace, write

WHOLE = trace([step(0, 0, 100), data(0, 10), op("aten::mm", 10, 50), gloo("all_reduce", 50, 90)])


def refused(path: Path) -> str:
    with pytest.raises(SettingError) as error:
        read_trace(path, 0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_one(tmp_path: Path) -> None:
    found = read_trace(write(tmp_path, WHOLE), 0)
    assert (found.rank, found.world_size, found.host, found.pid) == (0, 2, "node-0", MAIN)
    assert [number for number, _, _ in found.steps] == [0]
    assert [span.kind for span in found.spans] == ["data", "op", "transfer"]
    assert found.synthetic


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(json.dumps(WHOLE).encode(), mtime=0)[:-40], "cut off or damaged"),
        (b"\x1f\x8bnot gzip at all", "cut off or damaged"),
        (json.dumps(WHOLE).encode()[:-10], "cut off or damaged"),
        (b"[" * 200_000, "cut off or damaged"),
        (b"", "cut off or damaged"),
        (b"[]", "no Chrome trace"),
        (b'{"traceEvents": {}}', "no Chrome trace"),
        (json.dumps(WHOLE | {"distributedInfo": {"rank": 5}}).encode(), "of rank 5, not 0"),
    ],
)
def test_what_is_none_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "rank_0.trace.json.gz"
    path.write_bytes(content)
    assert said in refused(path)


def test_a_bomb_a_giant_a_link_and_a_pipe_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "MOST_JSON_BYTES", 10_000)
    monkeypatch.setattr(traces, "MOST_FILE_BYTES", 5_000)
    path = tmp_path / "rank_0.trace.json.gz"
    path.write_bytes(gzip.compress(b" " * 20_000))
    assert "more than 10000 bytes uncompressed" in refused(path)
    path.write_bytes(b" " * 6_000)
    assert "more than 5000 bytes" in refused(path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert "Cannot read" in refused(path)
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(path)


def test_many_small_values_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.trace.json.gz"
    path.write_bytes(gzip.compress(b'{"traceEvents":[' + b"[]," * (traces.MOST_VALUES // 2) + b"[]]}", 1))
    said = refused(path)
    assert "more than 12000000 values" in said
    assert "profile fewer steps" in said


def test_the_limits_leave_room_for_50_steps_of_the_largest_run() -> None:
    # Measured of tensor parallelism: 2 447 613 bytes and 210 129 values a step.
    assert traces.MOST_JSON_BYTES > 50 * 2_447_613
    assert traces.MOST_VALUES > 50 * 210_129


HOSTILE: list[Any] = [
    None,
    7,
    {},
    {"ph": "X"},
    op("aten::mm", 1, 2) | {"ts": "now"},
    op("aten::mm", 1, 2) | {"ts": float("nan")},
    op("aten::mm", 1, 2) | {"ts": 1e300},
    op("aten::mm", 1, 2) | {"dur": -5},
    op("aten::mm", 1, 2) | {"dur": True},
    op("aten::mm", 1, 2) | {"args": [1]},
    op("aten::mm", 1, 2) | {"ph": {}, "cat": []},
    op("aten::mm", 1, 2, weight=float("nan")),
    op("aten::mm", 1, 2, weight=json.loads("[" * 500 + "]" * 500)),
    op("aten::mm", 1, 2, **{"Input Dims": "big"}),
    op("aten::mm", 1, 2, **{"Input Dims": [[2**62] * 50, ["x"], [[]]]}),
    op("aten::mm", 1, 2) | {"name": ["a"], "tid": {}},
    op("\x1b[31m" + "x" * 10_000, 1, 2),
    memory(3, 5) | {"args": {"Total Allocated": "all", "Device Type": 0}},
    memory(3, 5) | {"args": {"Total Allocated": 2**80, "Device Type": 0}},
    step(0, 10, 20),  # a second step 0, inside the first
    step(10**13, 200, 300),
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_an_event_that_does_not_fit_harms_no_other(number: int, tmp_path: Path) -> None:
    write(tmp_path, WHOLE | {"traceEvents": [*WHOLE["traceEvents"], HOSTILE[number]]})
    analysis = analyze(tmp_path)
    ((times,),) = [rank.steps for rank in analysis.ranks]
    assert times.step_s == pytest.approx(100e-6)
    assert times.exposed_s == pytest.approx(40e-6)
    assert "\x1b" not in analysis.to_json()
    assert from_json(analysis.to_json()) == analysis
    with gzip.open(tmp_path / "merged.trace.json.gz") as merged:
        events = json.load(merged, parse_constant=pytest.fail)["traceEvents"]
    assert {"aten::mm", "gloo:all_reduce", "ProfilerStep#0"} <= {
        event["name"] for event in events if "name" in event
    }
    assert all(
        len(operator.name) <= traces.MOST_NAME for rank in analysis.ranks for operator in rank.operators
    )


def test_no_time_goes_into_shapes_that_no_tensor_has() -> None:
    shapes = [[1] * 1000, [10**300, 1], [True, 2], [3, 5]]
    [found] = digest(trace([step(0, 0, 1000), op("aten::mm", 1, 2, **{"Input Dims": shapes})]), 0).spans
    assert found.elements == 15


def test_other_files_of_a_folder_are_none_of_ours(tmp_path: Path) -> None:
    write(tmp_path, WHOLE, 0)
    write(tmp_path, WHOLE, 12)
    for name in (
        "rank_x.trace.json.gz",
        "rank_1.trace.json",
        "merged.trace.json.gz",
        "rank_9999999.trace.json.gz",
    ):
        (tmp_path / name).write_bytes(b"?")
    assert list(rank_files(tmp_path)) == [0, 12]


def test_what_is_damaged_or_missing_is_said_and_the_rest_is_analysed(tmp_path: Path) -> None:
    write(tmp_path, WHOLE | {"distributedInfo": {"rank": 0, "world_size": 4}})
    damaged = write(tmp_path, WHOLE | {"distributedInfo": {"rank": 2, "world_size": 4}}, 2)
    damaged.write_bytes(damaged.read_bytes()[:-30])
    analysis = analyze(tmp_path)
    assert [rank.rank for rank in analysis.ranks] == [0]
    assert (analysis.world_size, analysis.missing_ranks, analysis.tier) == (4, (1, 2, 3), "simulated")
    said = " ".join(analysis.problems)
    assert "No trace of rank 1, 2, 3" in said
    assert "Rank 2 is left out: rank_2.trace.json.gz is not a whole trace" in said
    assert "profile.json is missing" in said


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"[1]",
        b'{"command": 7}',
        b'{"command": "x", "stamp": {"cores": NaN}}',
        b'{"command": "x", "stamp": {"cores": 1e999}}',
        b'{"rank": 0, "steps_seen": "many"}',
    ],
)
def test_what_a_rank_or_the_command_says_of_itself_may_be_damaged(content: bytes, tmp_path: Path) -> None:
    write(tmp_path, WHOLE)
    for name in ("profile.json", "rank_0.json"):
        (tmp_path / name).write_bytes(content)
    analysis = analyze(tmp_path)
    assert (len(analysis.ranks), analysis.command, analysis.stamp) == (1, "unknown", {})
    assert "profile.json cannot be read: the command is not known." in analysis.problems


def test_no_trace_at_all_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"no trace of any rank.*profiler\.step\(\)"):
        analyze(tmp_path)


def test_memory_keeps_its_peak_however_thin_the_line() -> None:
    events = [memory(at, at % 97) for at in range(2000)]
    events[1234] = memory(1234, 10**9)
    found = digest(trace([step(0, 0, 1000), step(1, 1000, 2000), *events, memory(50, 77, gpu=True)]), 0)
    cpu, gpu = memory_lines(found, found.steps[0][1], points=40)
    assert (cpu.device, cpu.peak_bytes, cpu.peak_step, cpu.counted_from_start) == ("cpu", 10**9, 1, True)
    assert cpu.peak_at_s == pytest.approx(1234e-6)
    assert len(cpu.points) <= 40
    assert max(cpu.points, key=lambda point: point[1])[0] == pytest.approx(1234e-6)
    assert list(cpu.points) == sorted(cpu.points, key=lambda point: point[0])
    assert (gpu.device, gpu.peak_bytes, gpu.peak_step, gpu.counted_from_start) == ("gpu:0", 77, 0, False)
