"""Steps divided into their parts: by hand, against a clock that ticks moment by moment, and beside HTA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.observe.profile.analysis import StepTimes
from distlab.observe.profile.analyze import main
from distlab.observe.profile.breakdown import break_down
from distlab.observe.profile.holistic import compare_with_hta
from distlab.observe.profile.operators import collectives, top_operators
from distlab.observe.profile.traces import digest, read_trace
from tests.observe.profile.synthetic import data, event, gloo, kernel, op, step, trace, write

US = 1e-6


def broken_down(events: list[dict[str, Any]]) -> tuple[StepTimes, ...]:
    return break_down(digest(trace(events), 0))


def parts(times: StepTimes) -> dict[str, float]:
    """In microseconds."""
    names = ("step", "compute", "communication", "exposed", "data", "idle")
    return {name: round(getattr(times, f"{name}_s") / US, 3) for name in names}


def test_a_step_on_a_cpu() -> None:
    (times,) = broken_down(
        [
            step(3, 0, 100),
            data(0, 20),
            op("aten::index", 5, 15),  # loading a batch runs operators, too
            op("aten::mm", 20, 50),
            gloo("all_reduce", 40, 80),  # hidden until 50
            op("autograd::engine::evaluate_function: X", 60, 75),
            op("c10d::allreduce_", 60, 65),  # inside an operator, and no computation
            op("aten::add_", 85, 95),
        ]
    )
    # Exposed: 50 to 60, the call from 60 to 65, 75 to 80.
    assert parts(times) == {
        "step": 100,
        "compute": 50,
        "communication": 40,
        "exposed": 20,
        "data": 20,
        "idle": 10,
    }
    assert times.step == 3
    assert times.own_s == pytest.approx(80 * US)
    assert times.hidden_s == pytest.approx(20 * US)


def test_what_the_main_thread_sends_is_no_thread_of_gloos() -> None:
    send = event("gloo:send", "user_annotation", 40, 70)
    (times,) = broken_down([step(0, 0, 100), op("aten::mm", 0, 50), send, op("aten::mm", 60, 65)])
    assert parts(times) == {
        "step": 100,
        "compute": 55,
        "communication": 30,
        "exposed": 15,
        "data": 0,
        "idle": 30,
    }


def test_waiting_that_is_named_is_communication() -> None:
    wait = event("distlab::communication", "user_annotation", 50, 80)
    (times,) = broken_down([step(0, 0, 100), op("aten::mm", 0, 50), wait, op("aten::add_", 70, 80)])
    assert parts(times) == {
        "step": 100,
        "compute": 60,
        "communication": 30,
        "exposed": 20,
        "data": 0,
        "idle": 20,
    }


def test_a_step_on_a_gpu_is_that_of_the_device() -> None:
    (times,) = broken_down(
        [
            step(0, 0, 100),
            data(0, 30),
            data(70, 78),  # the device waits for another rank meanwhile
            op("aten::mm", 30, 34),  # it only launches
            *kernel("ampere_sgemm", 20, 60),
            *kernel("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage)", 50, 80, stream=20),
            event("nccl:all_reduce", "user_annotation", 30, 31),  # the host's part: no communication
            event("Memcpy HtoD (Pinned -> Device)", "gpu_memcpy", 82, 90, 7, device=0),
        ]
    )
    assert parts(times) == {
        "step": 100,
        "compute": 48,
        "communication": 30,
        "exposed": 20,
        "data": 20,
        "idle": 12,
    }


def test_what_crosses_the_border_of_a_step_counts_in_both() -> None:
    first, second = broken_down(
        [step(0, 0, 50), step(1, 50, 100), op("aten::mm", 40, 70), gloo("barrier", 60, 120)]
    )
    assert (parts(first)["compute"], parts(second)["compute"]) == (10, 20)
    assert (parts(first)["exposed"], parts(second)["exposed"]) == (0, 30)


TIME = st.integers(0, 60)
ACTIVITIES = st.lists(
    st.tuples(st.sampled_from(["op", "call", "gloo", "data"]), TIME, st.integers(0, 25)), max_size=25
)


@settings(max_examples=200)
@given(ACTIVITIES, st.integers(1, 60))
def test_the_parts_make_up_the_step_whatever_overlaps(
    activities: list[tuple[str, int, int]], border: int
) -> None:
    make = {
        "op": lambda start, end: op("aten::mm", start, end),
        "call": lambda start, end: op("c10d::allreduce_", start, end),
        "gloo": lambda start, end: gloo("all_reduce", start, end),
        "data": data,
    }
    events = [make[kind](start, start + duration) for kind, start, duration in activities]
    steps = broken_down([step(0, 0, border), step(1, border, 61), *events])
    for times, (first, last) in zip(steps, [(0, border), (border, 61)], strict=True):
        ticks = {"compute": 0, "exposed": 0, "data": 0, "idle": 0, "communication": 0}
        for tick in range(first, last):
            on = {kind for kind, start, duration in activities if start <= tick < start + duration}
            ticks["communication"] += bool(on & {"call", "gloo"})
            if "data" in on:
                ticks["data"] += 1
            elif "op" in on and "call" not in on:
                ticks["compute"] += 1
            elif on:
                ticks["exposed"] += 1
            else:
                ticks["idle"] += 1
        assert parts(times) == {"step": last - first, **ticks}


def a_gpu_trace() -> list[dict[str, Any]]:
    """Two steps of 1,000 us; the last kernel ends with the second."""
    events: list[dict[str, Any]] = []
    for number in range(2):
        at = 1000 * number
        events += [
            step(number, at, at + 1000),
            event(f"ProfilerStep#{number}", "gpu_user_annotation", at + 100, at + 1000, 7),
            op(
                "aten::mm",
                at + 50,
                at + 60,
                **{"External id": 10 * number + 1, "Input Dims": [[8, 4], [4, 2]]},
            ),
            *kernel("sgemm", at + 100, at + 600, correlation=10 * number + 1),
            *kernel("ncclDevKernel_AllReduce_Sum_f32", at + 500, at + 800, 20, correlation=10 * number + 2),
            *kernel("elementwise", at + 900, at + 1000, correlation=10 * number + 3),
        ]
    return events


def test_holistic_trace_analysis_agrees(tmp_path: Path) -> None:
    path = write(tmp_path, trace(a_gpu_trace(), world_size=1))
    ((compared,), problem) = compare_with_hta({0: read_trace(path, 0)}, {0: path})
    assert problem == ""
    # The span of kernels is 100 to 2,000: 1,200 us compute, 400 us communicate alone, 300 us idle.
    assert compared.compute_percent == pytest.approx(100 * 1200 / 1900)
    assert compared.hta_compute_percent == pytest.approx(compared.compute_percent, abs=0.01)
    assert compared.idle_percent == pytest.approx(100 * 300 / 1900)
    assert compared.hta_idle_percent == pytest.approx(compared.idle_percent, abs=0.01)
    assert compared.overlap_percent == pytest.approx(100 / 3)
    assert compared.hta_overlap_percent == pytest.approx(100 / 3, abs=0.01)


def test_what_is_printed_of_a_gpu_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, trace(a_gpu_trace(), world_size=1))
    (tmp_path / "rank_0.snapshot.pickle").touch()
    assert main(tmp_path) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "tier SIMULATED" in said
    assert "we find 63.2% computing and 15.8% idle, it 63.2% and 15.8%" in said
    assert "snapshot.pickle, for pytorch.org/memory_viz" in said


def test_without_a_gpu_trace_hta_is_not_asked(tmp_path: Path) -> None:
    path = write(tmp_path, trace([step(0, 0, 10), op("aten::mm", 1, 2)]))
    assert compare_with_hta({0: read_trace(path, 0)}, {0: path}) == ((), "")


def test_operators_by_what_they_spend_themselves() -> None:
    events = [
        step(0, 0, 100),
        op("aten::linear", 0, 50, **{"Input Dims": [[2, 2]]}),
        op("aten::addmm", 10, 40, **{"Input Dims": [[2], [2, 2], []]}),
        op("aten::addmm", 60, 70, **{"Input Dims": [[9]]}),
        gloo("all_reduce", 20, 60),
        op("aten::mm", 100, 150),  # after the last step
    ]
    found = {operator.name: operator for operator in top_operators(digest(trace(events), 0))}
    assert list(found) == ["aten::addmm", "gloo:all_reduce", "aten::linear"]  # 40 each, and 20
    assert found["aten::linear"].self_s == pytest.approx(20 * US)
    assert (found["aten::addmm"].count, found["aten::addmm"].shapes) == (2, "[2], [2, 2]")
    assert sum(operator.share for operator in found.values()) == pytest.approx(1)


def test_kernels_come_with_the_shapes_of_what_launched_them() -> None:
    first, *_ = top_operators(digest(trace(a_gpu_trace()), 0))
    assert (first.name, first.device, first.count, first.shapes) == ("sgemm", "gpu", 2, "[8, 4], [4, 2]")


def test_collectives_by_kind() -> None:
    events = [
        step(0, 0, 100),
        gloo("all_reduce", 0, 10, 8),
        gloo("all_reduce", 10, 40, 16),
        gloo("barrier", 50, 51),
    ]
    first, second = collectives(digest(trace(events), 0))
    assert (first.name, first.count, first.elements) == ("gloo:all_reduce", 2, 24)
    assert (first.total_s, first.median_s) == (pytest.approx(40 * US), pytest.approx(20 * US))
    assert second.name == "gloo:barrier"
