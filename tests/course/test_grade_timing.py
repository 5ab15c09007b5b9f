"""How much faster the learner's function is than the given one: measured by the test, told by no learner's code."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distlab.course.grade.remote import Learner, Remote
from distlab.course.grade.testing import Stop, reports
from distlab.course.grade.timing import NOT_HELD, Given, close, speedup
from distlab.course.grade.wire import Channel, Malformed
from distlab.course.grade.work import OWN_FAULT, Cell, Graded, Kind, Limits, Verdict, Work
from tests.course import forks_rig

INPUTS = [(number,) for number in range(6)]


class Clocked(Given):
    """A baseline without processes: a call takes as many seconds as `seconds` has next, and is noted."""

    def __init__(self, clock: list[float], seconds: list[float], events: list[str]) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        super().__init__(Channel(ours), Channel(ours), LIMITS)
        self.clock, self.seconds, self.events = clock, seconds, events

    def call(self, function: Remote | str, *args: Any, **_: Any) -> Any:
        return self.work("baseline", *args)

    def work(self, who: str, number: int) -> int:
        self.clock[0] += self.seconds.pop(0)
        self.events.append(who)
        return 2 * number

    def _freeze(self, frozen: bool) -> None:
        self.clock[0] += 1000.0  # as long as it takes: nobody's time
        self.events.append("freeze" if frozen else "thaw")
        self._frozen = frozen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def measured(
    clock: list[float], given_s: list[float], own_s: list[float], answer: Callable[[int], int] | None = None
) -> tuple[float, list[str]]:
    """The speedup of a function with these times, and who did what, in order."""
    events: list[str] = []
    given, own = Clocked(clock, given_s, events), Clocked(clock, own_s, events)

    def function(number: int) -> int:
        result = own.work("own", number)
        return answer(number) if answer else result

    return speedup(function, Remote(given, 1), INPUTS), events


def test_the_median_of_what_is_measured_in_turns_with_the_learner_frozen(clock: list[float]) -> None:
    ratio, events = measured(clock, [90, 4, 6, 60, 6, 8], [1, 2, 2, 2, 2, 2])
    assert ratio == 3.0  # of 2, 3, 30, 3, 4; the first, 90, warmed up
    alone = ["freeze", "baseline", "thaw"]
    assert events == [*["own", *alone, *alone, "own"] * 3]


def test_one_result_that_is_another_is_no_speed(clock: list[float]) -> None:
    for wrong in range(6):
        ratio, _ = measured(
            clock, [9] * 6, [1] * 6, lambda number, wrong=wrong: 2 * number + (number == wrong)
        )
        assert ratio == 0.0
    assert measured(clock, [9] * 6, [1] * 6, lambda number: 2 * number)[0] == 9.0


def test_the_learner_goes_on_where_the_baseline_fails(clock: list[float]) -> None:
    events: list[str] = []
    given = Clocked(clock, [], events)  # pops from nothing
    with pytest.raises(IndexError):
        speedup(lambda number: 2 * number, Remote(given, 1), INPUTS)
    assert events == ["freeze", "thaw"]


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        (INPUTS[:3], "3 inputs; at least 4"),
        ([*INPUTS, (3,)], "two inputs are equal"),
        ([(torch.zeros(2), "a")] * 2 + [(np.zeros(2), "a"), (torch.zeros(3), "a")], "two inputs are equal"),
    ],
)
def test_inputs_that_tell_nothing_are_refused(clock: list[float], inputs: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        speedup(lambda *_: None, Remote(Clocked(clock, [], []), 1), inputs)


def test_only_the_baseline_is_timed_against(clock: list[float]) -> None:
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, theirs, pytest.raises(TypeError, match="an attribute of baseline"):
        speedup(lambda number: number, Remote(Learner(channel, 0.0), 1), INPUTS)


NAN, INF = float("nan"), float("inf")
STAYS = Remote.__new__(Remote)
ALIKE = [
    (1, 1), (1.0, 1.0 + 1e-7), (1e9, 1e9 + 1), (NAN, NAN), (INF, INF), (1j, 1j + 1e-7), ("a", "a"), (None, None),
    ([1.0, (2, "x")], [1.0 + 1e-7, (2, "x")]), ({"a": [0.0]}, {"a": [1e-7]}), ({1, 2}, {2, 1}), (True, True),
    (torch.ones(3), torch.ones(3) + 1e-7), (torch.tensor([True]), torch.tensor([True])), (np.arange(3), np.arange(3)),
    (torch.tensor([NAN]), torch.tensor([NAN])), (np.float64(1), np.float64(1 + 1e-9)), (torch.float32, torch.float32),
]  # fmt: skip
DIFFERENT = [
    (1, 2), (1, 1.0), (1, True), (1.0, 1.001), (NAN, 1.0), (INF, -INF), (INF, 1.0), (1j, 1.0), ("a", "b"), (None, 0),
    ([1], [1, 2]), ([1], (1,)), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 2}), ({1}, {1, 2}), (STAYS, STAYS),
    ([STAYS], [STAYS]), (STAYS, 1), (torch.ones(3), torch.ones(3) + 1e-3), (torch.ones(3), torch.ones(3, 1)),
    (torch.ones(3), torch.ones(3).double()), (torch.ones(3), np.ones(3)), (torch.tensor([True]), torch.tensor([False])),
    (np.arange(3), np.arange(3) + 1), (np.arange(3), np.arange(4)), (torch.float32, torch.float64),
]  # fmt: skip


@pytest.mark.parametrize(("got", "wanted"), ALIKE, ids=str)
def test_close(got: Any, wanted: Any) -> None:
    assert close(got, wanted) is True


@pytest.mark.parametrize(("got", "wanted"), DIFFERENT, ids=lambda value: type(value).__name__)
def test_not_close(got: Any, wanted: Any) -> None:
    assert close(got, wanted) is False


GIVEN = """
def double(x): return 2 * x
def fails(x): raise ValueError
def odd(): return (i for i in range(3))
def waits():
    import time
    time.sleep(1000)
"""
LEARNERS = """
import builtins
def double(x): return x + x
baseline = builtins.baseline = type("Slow", (), {"double": lambda self, x: 0})()
"""
LIMITS = Limits(cell_s=60.0, wall_s=600.0, start_s=120.0)


@contextlib.contextmanager
def driving(folder: Path) -> Iterator[Channel]:
    """A test process with the sessions of a learner and of a baseline, each in a folder of its own."""
    control, theirs = socket.socketpair()
    ends, folders = [], [folder / name for name in ("learner", "given")]
    with contextlib.ExitStack() as stack:
        for each in folders:
            ours, end = socket.socketpair()
            stack.enter_context(forks_rig.forked("session", end, work=each))
            ends.append(ours)
        channel = stack.enter_context(Channel(control))
        stack.enter_context(forks_rig.forked("testing", theirs, *ends))
        yield channel


def graded(
    folder: Path,
    test: str,
    given: str = GIVEN,
    freeze: Callable[[bool], bool] | None = lambda frozen: True,
    limits: Limits = LIMITS,
) -> tuple[Verdict, str]:
    """What a hidden test comes to in a lab with this baseline."""
    cells = (Cell(LEARNERS), Cell(test, "t", Kind.HIDDEN, 1.0))
    work = Work("lab", cells, ("double",), timed=True, baseline=(given,), limits=limits)
    with driving(folder) as control:
        (report,) = reports(control, work, None, time.monotonic() + 600, freeze)
    assert isinstance(report, Graded | Stop)
    return report.verdict, report.message


def test_a_test_sees_the_given_code_and_the_learners_apart(tmp_path: Path) -> None:
    test = (
        "assert [double(3), baseline.double(3)] == [6, 6], 'not both'\n"
        "assert list(baseline.odd()) == [0, 1, 2], 'not iterated'"
    )
    assert graded(tmp_path, test) == (Verdict.PASSED, "")


TIMED = """
from distlab.course.grade.timing import speedup
assert speedup(double, baseline.double, [(n,) for n in range(5)]) > 0, "another result"
"""


def test_the_learner_is_frozen_and_goes_on_by_turns(tmp_path: Path) -> None:
    asked: list[bool] = []

    def freeze(frozen: bool) -> bool:
        asked.append(frozen)
        return True

    assert graded(tmp_path, TIMED, freeze=freeze) == (Verdict.PASSED, "")
    assert asked == [True, False] * 5


def test_what_cannot_be_held_is_not_graded(tmp_path: Path) -> None:
    assert graded(tmp_path, TIMED, freeze=lambda frozen: False) == (Verdict.NOT_GRADABLE, NOT_HELD)


def test_a_test_process_cannot_freeze_what_nobody_lets_it(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="not a report"):
        graded(tmp_path, TIMED, freeze=None)


@pytest.mark.parametrize(
    "test", ["baseline.fails(1)", "try:\n    baseline.fails(1)\nexcept BaseException:\n    pass"]
)
def test_where_the_baseline_fails_the_learner_is_not_to_blame(tmp_path: Path, test: str) -> None:
    assert graded(tmp_path, test) == (Verdict.NOT_GRADABLE, OWN_FAULT)


def test_a_baseline_that_takes_for_ever_is_ended(tmp_path: Path) -> None:
    limits = Limits(cell_s=0.5, wall_s=600.0, start_s=120.0)
    assert graded(tmp_path, "baseline.waits()", limits=limits) == (Verdict.NOT_GRADABLE, OWN_FAULT)


def test_a_baseline_that_does_not_run_is_the_labs_fault(tmp_path: Path) -> None:
    assert graded(tmp_path, "double(1)", given="1 / 0") == (Verdict.NOT_GRADABLE, OWN_FAULT)
