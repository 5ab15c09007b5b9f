"""Ranks on one time line: clocks of several hosts, and the merged file."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from distlab.observe.profile.analyze import analyze
from distlab.observe.profile.clocks import align
from distlab.observe.profile.traces import digest
from tests.observe.profile.synthetic import BASE_NS, MAIN, event, gloo, kernel, op, step, trace, write

AHEAD_US = 7_000_000.0
"""How far the other host's clock is ahead."""


def two_hosts(ahead_us: float = AHEAD_US, drift: float = 0.0) -> list[dict[str, Any]]:
    """20 all-reduces; a rank enters up to 400 us late, and both leave within 20 us after the last has entered."""
    generator = random.Random(1)
    events: list[list[dict[str, Any]]] = [[step(0, 0, 50_000)], [step(0, ahead_us, ahead_us + 50_000)]]
    for i in range(20):
        entered = [1000.0 * i + generator.uniform(0, 400) for _ in range(2)]
        for rank, enter in enumerate(entered):
            leave = max(entered) + 100 + generator.uniform(0, 20)
            shift = rank * (ahead_us + drift * i)
            events[rank].append(gloo("all_reduce", enter + shift, leave + shift, 8 + i))
    return [trace(events[rank], rank, host=f"node-{rank}") for rank in range(2)]


def test_a_host_whose_clock_is_ahead_is_brought_into_line_within_what_is_stated() -> None:
    first, second = align([digest(values, rank) for rank, values in enumerate(two_hosts())]).clocks
    assert (first.offset_s, first.uncertainty_s, first.how) == (0.0, 0.0, "the reference")
    assert second.uncertainty_s is not None
    assert abs(second.offset_s - AHEAD_US * 1e-6) <= second.uncertainty_s
    assert second.uncertainty_s < 300e-6  # less than one collective takes
    assert abs(second.offset_s - AHEAD_US * 1e-6) < 20e-6


def test_clocks_that_drift_are_said_to() -> None:
    _, second = align([digest(values, rank) for rank, values in enumerate(two_hosts(drift=500.0))]).clocks
    assert "contradict" in second.how
    assert second.uncertainty_s is not None
    assert second.uncertainty_s > 5e-3


def test_one_host_has_one_clock() -> None:
    traces = [digest(values | {"host_name": "same"}, rank) for rank, values in enumerate(two_hosts())]
    assert [(clock.offset_s, clock.uncertainty_s) for clock in align(traces).clocks] == [(0, 0), (0, 0)]


def test_hosts_without_a_common_collective_keep_their_clocks_and_it_is_said(tmp_path: Path) -> None:
    for rank in range(2):
        write(tmp_path, trace([step(0, 0, 10), op("aten::mm", 1, 2)], rank, host=f"node-{rank}"), rank)
    analysis = analyze(tmp_path)
    assert analysis.clocks[1].uncertainty_s is None
    assert any("Clock of rank 1: no collective" in problem for problem in analysis.problems)


def test_the_merged_file_has_a_process_for_each_rank(tmp_path: Path) -> None:
    for rank, values in enumerate(two_hosts()):
        values["traceEvents"] += [
            *kernel(
                "sgemm", 10 + rank * AHEAD_US, 20 + rank * AHEAD_US, stream=MAIN
            ),  # a stream of a thread's number
            op("aten::mm", 5, 8) | {"ph": "s", "id": 3},
        ]
        write(tmp_path, values, rank)
    analysis = analyze(tmp_path)
    with gzip.open(tmp_path / "merged.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert {entry["pid"] for entry in events} == {0, 1}
    names = {(e["pid"], e["args"]["name"]) for e in events if e["name"] in ("process_name", "thread_name")}
    assert {(0, "rank 0 (node-0)"), (1, "rank 1 (node-1)"), (1, f"GPU 0 stream {MAIN}")} <= names
    steps = {entry["pid"]: entry["ts"] for entry in events if entry["name"] == "ProfilerStep#0"}
    doubt_us = (analysis.clocks[1].uncertainty_s or 0) * 1e6
    assert steps[0] == pytest.approx(0, abs=doubt_us)
    assert steps[1] == pytest.approx(0, abs=doubt_us)
    kernels = [entry for entry in events if entry.get("cat") == "kernel"]
    assert all(entry["tid"] != MAIN for entry in kernels)
    assert len({entry["id"] for entry in events if entry["ph"] == "s"}) == 2
    # The same line as in the analysis.
    assert [rank.steps[0].start_s * 1e6 for rank in analysis.ranks] == pytest.approx(
        [steps[0], steps[1]], abs=1e-3
    )


def test_times_are_exact_to_the_nanosecond() -> None:
    found = digest(
        trace([step(0, 5_079_513_377_921.927, 5_079_513_377_922.928), event("x", "cpu_op", 1, 2)]), 0
    )
    (_, start, end) = found.steps[0]
    assert start == pytest.approx(BASE_NS + 5_079_513_377_921_927, abs=1)
    assert end - start == 1001
