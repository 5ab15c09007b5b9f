"""A test process over a session of its own, both forked here, and what is said of its tests."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distlab.course.grade.testing import Stop, reports
from distlab.course.grade.wire import Channel
from distlab.course.grade.work import Cell, Graded, Kind, Limits, Verdict, Work
from tests.course import forks_rig

LIMITS = Limits(cell_s=120.0, wall_s=1000.0, start_s=120.0)
BRIEF = Limits(cell_s=0.8, wall_s=1000.0, start_s=120.0)
SEED = 20_261

NOTEBOOK = """
import builtins, time
import numpy as np
import torch
value, numbers, text, nothing = 3, [1, 2, 3], "abc", None
table = {"a": [1.5]}
tensor, array = torch.arange(3.0), np.arange(3)
def double(x): return 2 * x
def none(*args): return None
def raises(name): raise getattr(builtins, name)("SECRET")
def raises_own():
    class Odd(LookupError): pass
    raise Odd("SECRET")
def slow(): time.sleep(1000)
def huge(): return "x" * 10**8
def fraction(x): return x
def items(): return (i for i in range(3))
class Always:
    def __eq__(self, other): return True
    def __bool__(self): return True
    def __lt__(self, other): return True
def lie(*args): return Always()
looks = []
def look(): looks.append(1); return len(looks)
"""
NAMES = (
    "value", "numbers", "text", "nothing", "table", "tensor", "array", "double", "none", "raises", "raises_own", "slow",
    "huge", "fraction", "items", "lie", "look", "looks", "undefined", "print", "all",
)  # fmt: skip


def hidden(source: str, grade_id: str = "t", points: float = 4) -> Cell:
    return Cell(source, grade_id, Kind.HIDDEN, points)


def work(*cells: Cell, limits: Limits = LIMITS, **more: Any) -> Work:
    return Work("lab", cells, names=NAMES, limits=limits, seed=SEED, **more)


@contextlib.contextmanager
def driving(learner: Channel | socket.socket) -> Iterator[Channel]:
    """A test process that drives the session at the other end of `learner`; the channel to it."""
    control, theirs = socket.socketpair()
    end = learner if isinstance(learner, socket.socket) else learner._socket
    with Channel(control) as channel, forks_rig.forked("testing", theirs, end):
        yield channel


def graded(folder: Path, given: Work, stop: Stop | None = None) -> tuple[list[Graded], Stop | None]:
    """What the tests come to, and where the run stopped."""
    with forks_rig.session(folder) as learner, driving(learner) as control:
        found = list(reports(control, given, stop, time.monotonic() + 600))
    ended = found.pop() if found and isinstance(found[-1], Stop) else None
    assert all(isinstance(report, Graded) for report in found)
    return [report for report in found if isinstance(report, Graded)], ended


def message(report: Graded) -> tuple[Verdict, str]:
    assert report.points == (report.max_points if report.verdict == Verdict.PASSED else 0)
    return report.verdict, report.message


F, P, E, N = Verdict.FAILED, Verdict.PASSED, Verdict.ERROR, Verdict.NOT_GRADABLE
RAISED = "Your code raised an error."
COULD_NOT = "The test could not work with what your code gave."
OWN_FAULT = "This test could not run: its own code is at fault."
CHECK = "A check of this test failed."
