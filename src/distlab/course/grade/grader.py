"""Grade one submission: what its notebook shows, and what its tests come to.

    with Children() as children:
        result = grade(work, children)

Two passes, each in sandboxes of its own. The display pass runs the cells as the learner's notebook would and keeps
what they show. In the test pass the cells run once more, unseen, and a process that the learner's code cannot
reach runs the tests in notebook order (`testing.py`): so nothing that is shown was made by code that had seen a
hidden argument, or ran beside such code (`turns.py`). This module runs neither tests nor learner code.

All sandboxes of a submission are started together: a start is mostly a wait for the kernel. Each gets its work when
its pass begins: the passes do not run at the same time. A timed lab has one more, for its baseline (`timing.py`).
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from distlab.course.grade.children import Child, Children, kill_all
from distlab.course.grade.outputs import LEFT_OUT, clean_outputs, count_or_none, size
from distlab.course.grade.remote import GRACE_S, TOO_LONG, Learner, Stopped
from distlab.course.grade.testing import TEST_TOO_LONG, Stop, complete, reports
from distlab.course.grade.turns import Turns
from distlab.course.grade.wire import Channel, TimedOut, WireError
from distlab.course.grade.work import MIB, Cell, Graded, Kind, Result, Shown, Verdict, Work
from distlab.machine import cores, cpu_model, gpus

GRAVEST = (Verdict.NOT_GRADABLE, Verdict.VIOLATION, Verdict.MEMORY, Verdict.OUTPUT, Verdict.TIMEOUT)
"""What one test's verdict makes of the whole submission's, the first that occurs."""

LAUNCHERS = ("distlab.train", "launch")
"""What code says that starts ranks: the package, or the function imported in another way."""

TURNS = Turns()
"""Of all submissions that this process grades."""


class _MachineFault(Exception):  # noqa: N818 - a state of the machine
    """A sandbox was lost through no fault of what ran in it."""


@dataclass(frozen=True)
class _Sandboxes:
    """One submission's, with our ends of their channels. Without a display pass there is no `display`."""

    learner: Channel
    display: Child | None
    control: Channel
    tests: Child
    session: Child


def grade(work: Work, children: Children) -> Result:
    """Both passes. A sandbox that is lost is the verdict `not gradable`; all else says something of the work.

    Raises `SandboxFailed` where this machine can make none.
    """
    shown: tuple[Shown, ...] = ()
    stop: Stop | None = None
    seconds: dict[str, float] = {}
    with TURNS.submission(work.timed), _sandboxes(work, children) as sandboxes:
        try:
            if sandboxes.display:
                with TURNS.shown(), _timed(seconds, "display_s"):
                    shown, stop = _display(work, sandboxes.learner, sandboxes.display)
            with TURNS.unseen():
                try:
                    with _timed(seconds, "tests_s"):
                        graded, stop = _test(work, sandboxes, stop)
                finally:  # what it started could know an argument, and must not outlive the turn
                    kill_all([sandboxes.session, sandboxes.tests])
        except _MachineFault as fault:
            stop = Stop(0, Verdict.NOT_GRADABLE, f"Not graded: {fault}")
            graded = ()
    cells = complete(work, graded, stop) if stop else graded
    provenance = {**_provenance(work), **{name: round(value, 4) for name, value in seconds.items()}}
    return Result(work.lab, _overall(cells, stop), stop.message if stop else "", cells, shown, provenance)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


@contextmanager
def _sandboxes(work: Work, children: Children) -> Iterator[_Sandboxes]:
    """Start them together, and end them together."""
    learner, display_end = socket.socketpair()
    control, tests_end = socket.socketpair()
    to_session, session_end = socket.socketpair()
    to_baseline, baseline_end = socket.socketpair()
    launching = "launching " if _launches(work) else ""
    wanted = [("testing", [tests_end, to_session]), (f"{launching}session", [session_end])]
    if work.display:
        wanted.append((f"{launching}display", [display_end]))
    if work.baseline:
        wanted[0][1].append(to_baseline)
        wanted.append((f"{launching}session", [baseline_end]))
    with Channel(learner) as to_display, Channel(control) as to_tests, display_end, to_baseline, baseline_end:
        tests, session, *others = started = children.start_together(work.limits, wanted)
        try:
            yield _Sandboxes(to_display, others[0] if work.display else None, to_tests, tests, session)
        finally:
            kill_all(started)


def _launches(work: Work) -> bool:
    """Does its code name what starts ranks? That is made ready then; else a first rank would take seconds more."""
    sources = [*(cell.source for cell in work.cells), *work.baseline]
    sources += [base64.b64decode(content).decode("latin-1") for content in work.files.values()]
    return any(word in source for source in sources for word in LAUNCHERS)


def _overall(cells: Iterable[Graded], stop: Stop | None) -> Verdict:
    if stop:
        return stop.verdict
    found = {cell.verdict for cell in cells}
    if found <= {Verdict.PASSED}:
        return Verdict.PASSED
    return next((verdict for verdict in GRAVEST if verdict in found), Verdict.FAILED)


def _display(work: Work, channel: Channel, session: Child) -> tuple[tuple[Shown, ...], Stop | None]:
    """What each code cell shows, and where the run stopped before its end, if it did.

    Of all that is shown, as much is kept as may be printed: a page holds it all.
    """
    shown = [Shown() for _ in work.cells]
    left = work.limits.output_bytes
    step = 0
    learner = Learner(channel, time.monotonic() + work.limits.wall_s)
    try:
        learner.files(work.files, work.limits.start_s)
        for step, cell in enumerate(work.cells):
            if cell.kind == Kind.HIDDEN:
                continue
            ran = learner.run(cell.source, True, work.limits.cell_s)
            outputs = clean_outputs(ran.outputs)
            kept = outputs if size(outputs) <= left else [LEFT_OUT]
            left -= size(kept)
            shown[step] = Shown(tuple(kept), count_or_none(ran.execution_count))
            if ran.interrupted and not cell.is_test:
                raise Stopped(Verdict.TIMEOUT, TOO_LONG)
    except Stopped as stopped:
        return tuple(shown), _reason(Stop(step, stopped.verdict, stopped.message), session)
    finally:
        session.begin_to_kill()
    return tuple(shown), None


def _test(work: Work, sandboxes: _Sandboxes, stop: Stop | None) -> tuple[tuple[Graded, ...], Stop | None]:
    """What each test came to that was reached before `stop`, and where the run ended before its end."""
    graded: list[Graded] = []
    ended: Stop | None = None
    deadline = time.monotonic() + work.limits.start_s + work.limits.wall_s + 2 * GRACE_S
    try:
        for report in reports(sandboxes.control, work, stop, deadline, sandboxes.session.freeze):
            if isinstance(report, Stop):
                ended = report
            else:
                graded.append(report)
    except WireError as error:
        ended = _lost_tests(work, len(graded), sandboxes.tests, late=isinstance(error, TimedOut))
    if ended and ended != stop:
        ended = _reason(ended, sandboxes.session)
    return tuple(graded), ended


def _reason(stop: Stop, session: Child) -> Stop:
    """`stop` with what the kernel knows about the end of the learner's process."""
    ending = session.kill()
    limits = session.limits
    if ending.lost:
        raise _MachineFault("the sandbox of the notebook was lost.")
    if ending.memory:
        mib = limits.memory_bytes // MIB
        return Stop(stop.step, Verdict.MEMORY, f"Your code needed more than {mib} MiB of memory.")
    if ending.output:
        mib = limits.output_bytes // MIB
        return Stop(stop.step, Verdict.OUTPUT, f"Your code printed more than {mib} MiB.")
    if ending.processor:
        return Stop(
            stop.step, Verdict.TIMEOUT, f"Your code used more than {limits.cpu_s:g} s of processor time."
        )
    if ending.violation:
        return Stop(stop.step, Verdict.VIOLATION, "Your code made a system call that no notebook needs.")
    return stop


def _lost_tests(work: Work, done: int, tests: Child, late: bool) -> Stop:
    """The test process ended in the middle, or said nothing in time: where, and whose fault it was."""
    ending = tests.kill()
    if ending.lost:
        raise _MachineFault("the sandbox of the tests was lost.")
    steps = [step for step, cell in enumerate(work.cells) if cell.is_test]
    step = steps[done] if done < len(steps) else len(work.cells)
    if ending.memory:
        return Stop(step, Verdict.MEMORY, "The test needed too much memory for what your code gave.")
    if late or ending.processor:  # inside one call of a library's, which no alarm interrupts
        return Stop(step, Verdict.TIMEOUT, TEST_TOO_LONG)
    return Stop(step, Verdict.NOT_GRADABLE, "Not graded: the process of the tests ended.")


def _provenance(work: Work) -> dict[str, Any]:
    """What was run, with what tests, where. Digests of what was submitted and of its tests are the coordinator's."""
    learners = [cell for cell in work.cells if not cell.is_test]
    return {
        "code_run_sha256": _digest([[cell.source for cell in learners], dict(work.files)]),
        "tests_run_sha256": _digest([_tests(work.cells), sorted(work.names), *work.baseline]),
        "seed": work.seed,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **_machine(),
    }


def _tests(cells: Iterable[Cell]) -> list[list[Any]]:
    return [[cell.grade_id, cell.source, cell.points] for cell in cells if cell.is_test]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def _machine() -> dict[str, Any]:
    """Of this machine and environment: the same for every submission that this process grades."""
    installed = sorted(f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions())
    devices = gpus()
    return {
        "environment": _digest(installed),
        "tier": "gpu" if devices else "cpu",
        "hardware": devices[0].name if devices else cpu_model(),
        "cores": cores(),
        "memory_GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "distlab": importlib.metadata.version("distlab"),
    }
