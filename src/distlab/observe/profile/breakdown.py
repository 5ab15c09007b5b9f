"""Each step of a rank, divided into compute, exposed communication, data and idle time.

Whole nanoseconds and set arithmetic: the parts add up to the step exactly, whatever overlaps in the trace.

On a CPU the operators are what computes, and Python between them counts as idle unless a transfer is under way, which
then is what nothing hides. On a GPU the device is looked at, not the host: kernels and copies compute, NCCL's kernels
communicate, and while the device has nothing to do the host may be loading data, else the device is idle. A step is
what lies between two calls of `profiler.step()` on the host, also there.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.observe.profile.analysis import StepTimes
from distlab.observe.profile.intervals import Times, clip, length, subtract, union
from distlab.observe.profile.traces import Trace

NS = 1e-9


@dataclass(frozen=True)
class Activity:
    """When a rank did what; the first three are disjoint."""

    compute: Times
    exposed: Times
    data: Times
    communication: Times


def activity(trace: Trace) -> Activity:
    """Divide a rank's whole trace."""
    if trace.on_gpu:
        compute = union((s.start, s.end) for s in trace.spans if s.kind in ("kernel", "copy"))
        communication = union((s.start, s.end) for s in trace.spans if s.kind == "transfer")
        exposed = subtract(communication, compute)
        data = subtract(subtract(_data(trace), compute), communication)
        return Activity(compute, exposed, data, communication)
    data = _data(trace)
    calls = union((s.start, s.end) for s in trace.spans if s.kind == "call")
    operators = union((s.start, s.end) for s in trace.spans if s.kind == "op")
    # An operator may hold the call that waits inside itself: a node of the autograd graph does.
    compute = subtract(subtract(operators, calls), data)
    communication = union([*((s.start, s.end) for s in trace.spans if s.kind == "transfer"), *calls])
    return Activity(compute, subtract(subtract(communication, compute), data), data, communication)


def _data(trace: Trace) -> Times:
    return union((s.start, s.end) for s in trace.spans if s.kind == "data" and s.thread == trace.main_thread)


def break_down(trace: Trace, origin: int = 0) -> tuple[StepTimes, ...]:
    """The parts of each step of the trace.

    origin: what `start_s` counts from, in ns by the clock of the rank's host.
    """
    whole = activity(trace)
    return tuple(_step(whole, number, start, end, origin) for number, start, end in trace.steps)


def _step(whole: Activity, number: int, start: int, end: int, origin: int) -> StepTimes:
    compute, exposed, data, communication = (
        length(clip(part, start, end))
        for part in (whole.compute, whole.exposed, whole.data, whole.communication)
    )
    idle = end - start - compute - exposed - data
    return StepTimes(
        step=number,
        start_s=(start - origin) * NS,
        step_s=(end - start) * NS,
        compute_s=compute * NS,
        communication_s=communication * NS,
        exposed_s=exposed * NS,
        data_s=data * NS,
        idle_s=idle * NS,
    )


def in_steps(trace: Trace) -> Times:
    """When a step is under way."""
    return union((start, end) for _, start, end in trace.steps)
