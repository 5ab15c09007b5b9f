"""The test process: holds the tests, drives the learner's session, says what each test came to.

    serve(control, learner, baseline)                      # in the test process
    for report in reports(control, work, stop, deadline):  # where the marks are kept
        ...                                                # Graded, one per test, as they come; at the end perhaps Stop
    cells = complete(work, graded, stop)

A test is a cell of plain Python. It runs here, in a namespace of its own that holds the builtins and, of the names
that the lab declares, those its code uses: fetched once, before it begins. What it prints goes nowhere. It never
runs in the learner's process, and nothing of the learner's process runs here. In a timed lab it sees `baseline`, too
(`timing.py`).

How a test ends:

- passed, or as many points as its last expression says, if that has a value;
- failed: an assertion of its own. The message is the sentence that stands in the test's source, values left out;
- failed: any other exception in the test's code. Tests are released only if they pass on the model solution, so it
  came of what the learner's code gave (`None` where a list was expected);
- error: the learner's code raised. timeout, too much output, violation: it gave no answer, or none that is one;
- not gradable: the test could not be compiled, or imports what is not there.

The learner's code chooses among these endings when it has seen the arguments of a hidden test, and the learner is
told which it was. So there are few, and no name of an exception is among them: with 22 of those a test told five
bits. What is left are about three a test (`test_grade_testing.py` counts them), in visible tests, too: what
they say may be said by code that ran in a hidden one before. What an error in a visible test was, its output in
the graded notebook shows: that was made by the display pass.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import itertools
import json
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import FrameType, TracebackType
from typing import Any

from distlab.course.grade.exact import Exact
from distlab.course.grade.remote import (
    TOO_LONG,
    Learner,
    MissingName,
    Ran,
    RemoteError,
    Stopped,
)
from distlab.course.grade.timing import Baseline, Given
from distlab.course.grade.wire import Channel, Malformed
from distlab.course.grade.work import BASELINE, OWN_FAULT, Cell, Graded, Verdict, Work

MAX_MESSAGE = 500
LEFT_OUT = "…"
"""Stands for a value in a message."""
CHECK_FAILED = "A check of this test failed."
RAISED = "Your code raised an error."
COULD_NOT = "The test could not work with what your code gave."
TEST_TOO_LONG = "The test took too long with what your code gave."
LIBRARY_MESSAGES = ("msg", "err_msg")
"""The keywords under which torch's and numpy's assertions take a message."""


@dataclass(frozen=True)
class Stop:
    """Where a run ended before its last cell: tests from cell number `step` (from 0) on carry the verdict."""

    step: int
    verdict: Verdict
    message: str


def reports(
    control: Channel,
    work: Work,
    stop: Stop | None,
    deadline: float | None = None,
    freeze: Callable[[bool], bool] | None = None,
) -> Iterator[Graded | Stop]:
    """Have the test process at the other end of `control` grade `work`, and give its reports as they come.

    It stops before cell `stop.step`, and the last report is then `stop`, or an earlier Stop of its own: the
    learner's process is gone, or must go. Raises WireError where the test process ends or says what it should not:
    what came before stands. A timed test asks to have the learner's processes frozen, or let go on: `freeze` does it,
    and says whether they are.
    """
    # As a blob: characters as they are. Escaped, a submission could be larger than what a message may be.
    content = json.dumps(work.to_json(), ensure_ascii=False).encode("utf-8", "replace")
    control.send({"stop": asdict(stop) if stop else None}, [content], deadline)
    tests = iter([cell for cell in work.cells if cell.is_test])
    while True:
        message, _ = control.receive(deadline)
        match message:
            case {"freeze": bool(frozen)} if freeze is not None:
                control.send({"frozen": frozen if freeze(frozen) else None}, deadline=deadline)
            case {"graded": dict(raw)}:
                yield _check(raw, next(tests, None))
            case {"stop": {"step": int(step), "verdict": str(verdict), "message": str(said)}}:
                if verdict not in list(Verdict):
                    raise Malformed("a verdict that there is not")
                yield Stop(step, Verdict(verdict), said[:MAX_MESSAGE])
                return
            case {"done": True} if next(tests, None) is None:
                return
            case _:
                raise Malformed("not a report")


def _check(raw: dict[str, Any], cell: Cell | None) -> Graded:
    """A report of the test process, which the marks' keeper believes as far as it makes sense."""
    try:
        graded = Graded(**{**raw, "verdict": Verdict(raw["verdict"])})
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed("not a report of a test") from error
    sensible = (
        cell is not None
        and graded.grade_id == cell.grade_id
        and graded.max_points == cell.points
        and isinstance(graded.points, int | float)
        and 0 <= graded.points <= cell.points
        and isinstance(graded.message, str)
    )
    if not sensible:
        raise Malformed("a report of a test that makes no sense")
    return graded


def complete(work: Work, graded: Sequence[Graded], stop: Stop) -> tuple[Graded, ...]:
    """A report for each test of `work`: those not reported carry the verdict of `stop`."""
    tests = [cell for cell in work.cells if cell.is_test]
    rest = (
        Graded(cell.grade_id, stop.verdict, 0.0, cell.points, stop.message) for cell in tests[len(graded) :]
    )
    return (*graded, *rest)


def serve(control: Channel, learner: Channel, baseline: Channel | None = None) -> None:
    """Do the one piece of work that comes over `control`, against the session at the other end of `learner`.

    At the other end of `baseline` is the session that runs the work's baseline, where it has one.
    """
    message, (content,) = control.receive()
    work = Work.from_json(json.loads(content))
    raw = message["stop"]
    stop = Stop(raw["step"], Verdict(raw["verdict"]), raw["message"]) if raw else None
    _seed(work.seed)  # imports what the first test's time shall not pay for
    stopped = _Run(control, learner, work, baseline).steps(stop)
    control.send({"stop": asdict(stopped)} if stopped else {"done": True})


class _Run:
    """One piece of work, cell by cell."""

    def __init__(self, control: Channel, learner: Channel, work: Work, baseline: Channel | None) -> None:
        self.control, self.work = control, work
        self.end = time.monotonic() + work.limits.wall_s
        self.learner = Learner(learner, self.end)
        self.given = Given(baseline, control, work.limits) if baseline else None
        self.sessions: list[Learner] = [self.learner, *([self.given] if self.given else [])]

    def steps(self, stop: Stop | None) -> Stop | None:
        """Go through the cells; the Stop that ended it, if one did."""
        step, limits = 0, self.work.limits
        try:
            self.learner.files(self.work.files, limits.start_s)
            if self.given:
                self.given.prepare(self.work.baseline)
            for step, cell in enumerate(self.work.cells):
                if stop is not None and step >= stop.step:
                    return stop
                self.learner.deadline = min(self.end, time.monotonic() + limits.cell_s)
                if cell.is_test:
                    self.control.send({"graded": asdict(self.test(cell))})
                elif not cell.measure and self.run(cell).interrupted:
                    # What it would have left for the cells after it is not there.
                    raise Stopped(Verdict.TIMEOUT, TOO_LONG)
                if time.monotonic() > self.end:
                    step += 1
                    raise Stopped(
                        Verdict.TIMEOUT, f"The run was stopped here: all may take {limits.wall_s:g} s."
                    )
        except Stopped as stopped:
            return Stop(step, stopped.verdict, stopped.message)
        return None

    def run(self, cell: Cell) -> Ran:
        return self.learner.run(cell.source, False, self.work.limits.cell_s, cell.keeps)

    def test(self, cell: Cell) -> Graded:
        """Run one test. Raises Stopped where the learner's session is lost."""
        for session in self.sessions:
            session.stopped = None
        verdict, points, message = Verdict.PASSED, cell.points, ""
        try:
            with _time(self.learner.deadline, self.sessions), _quiet(), Exact():
                value = self._execute(cell)
                verdict, points = _credit(value, cell.points)
        except Stopped as limit:
            if not any(session.stopped for session in self.sessions):
                self.learner.stopped = limit
        except BaseException as error:
            verdict, message = self._failure(error, cell)
        if self.given:
            self.given.release()  # had the end of time come where the test does it
        # Whatever the test made of it: a call without an answer is the end of the test.
        if stopped := next((session.stopped for session in self.sessions if session.stopped), None):
            if stopped.lost:
                raise stopped
            verdict, message = stopped.verdict, stopped.message
        if verdict not in (Verdict.PASSED, Verdict.PARTIAL):
            points = 0.0
        return Graded(cell.grade_id, verdict, points, cell.points, message[:MAX_MESSAGE])

    def _execute(self, cell: Cell) -> Any:
        """The value of the test's last expression, or None."""
        tree = ast.parse(cell.source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        _seed(self.work.seed)
        space: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}
        for name in _used(cell.source, self.work.names):
            # All at once and once only: no value can change between two looks. One that is not there is a
            # NameError where the test uses it.
            with contextlib.suppress(MissingName):
                space[name] = self.learner.get(name)
        if self.given:
            space[BASELINE] = Baseline(self.given)
        exec(compile(tree, _file(cell), "exec", dont_inherit=True), space)
        if not isinstance(last, ast.Expr):
            return None
        return eval(compile(ast.Expression(last.value), _file(cell), "eval", dont_inherit=True), space)

    def _failure(self, error: BaseException, cell: Cell) -> tuple[Verdict, str]:
        """Verdict and message of the exception that ended a test. No text of the exception is looked at."""
        if isinstance(error, RemoteError):
            return Verdict.ERROR, RAISED
        compiled = not isinstance(error, SyntaxError) or _place(error.__traceback__, cell) is not None
        if isinstance(error, ImportError) or not compiled:
            return Verdict.NOT_GRADABLE, OWN_FAULT
        if isinstance(error, NameError) and error.name in self.work.names:
            return Verdict.FAILED, f"Your notebook does not define {error.name}."
        sentence = _sentence(error, cell)
        if isinstance(error, AssertionError) or sentence:
            return Verdict.FAILED, sentence or CHECK_FAILED
        return Verdict.FAILED, COULD_NOT


def _file(cell: Cell) -> str:
    """What the test's code has as its file, by which its frames are known."""
    return f"<test {cell.grade_id}>"


def _used(source: str, names: Sequence[str]) -> list[str]:
    """Of the declared names, those that the code reads. A builtin's name is never the learner's."""
    read = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    return [name for name in names if name in read and not hasattr(builtins, name)]


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _credit(value: Any, points: float) -> tuple[Verdict, float]:
    """What the last expression of a test says: None says nothing, a number is one of points.

    TypeError for all else, ValueError for a number out of range. It may come of what the learner's code gave (a
    number and an array are an array), and full points for it could be had by giving nonsense.
    """
    number = (
        value.item()
        if type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", 1) == 0
        else value
    )
    if number is None:
        return Verdict.PASSED, points
    if type(number) not in (int, float):
        raise TypeError("not a number of points")
    if not 0 <= number <= points:
        raise ValueError("points out of range")
    if number == points:
        return Verdict.PASSED, points
    return (Verdict.PARTIAL if number else Verdict.FAILED), float(number)


Place = tuple[int, int, int, int]
"""First line, first column (in bytes), last line, last column."""


def _sentence(error: BaseException, cell: Cell) -> str:
    """What the test's source says about the assertion that failed, found by its place; empty if it says nothing.

    The place is that of the innermost frame in the test's own code. There stands the assertion; or a call of
    a library's own assertion, with its message as an argument; or a message that could not be put together.
    """
    place = _place(error.__traceback__, cell)
    found = ""
    for node in ast.walk(ast.parse(cell.source)) if place else ():
        # From the outside inwards: the last that fits is the nearest.
        if isinstance(node, ast.Assert) and _holds(node, place):
            if isinstance(error, AssertionError) or (node.msg is not None and _holds(node.msg, place)):
                found = _template(node.msg)
        elif not isinstance(error, AssertionError):
            continue
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _holds(node, place):
            found = _template(node.exc.args[0]) if node.exc.args else ""
        elif isinstance(node, ast.Call) and _holds(node, place):
            said = [word.value for word in node.keywords if word.arg in LIBRARY_MESSAGES]
            found = _template(said[0]) if said else found
    return found


def _place(traceback: TracebackType | None, cell: Cell) -> Place | None:
    place = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if code.co_filename == _file(cell):
            line = traceback.tb_lineno
            place = (line, sys.maxsize, line, 0)  # anything on this line, where Python keeps no more of it
            first, last, column, end = next(
                itertools.islice(code.co_positions(), traceback.tb_lasti // 2, None), (None,) * 4
            )
            if first is not None and last is not None and column is not None and end is not None:
                place = (first, column, last, end)
        traceback = traceback.tb_next
    return place


def _holds(node: ast.stmt | ast.expr, place: Place | None) -> bool:
    """Does the node's text hold all of the place?"""
    if place is None or node.end_lineno is None or node.end_col_offset is None:
        return False
    first, column, last, end = place
    return (node.lineno, node.col_offset) <= (first, column) and (last, end) <= (
        node.end_lineno,
        node.end_col_offset,
    )


def _template(node: ast.expr | None) -> str:
    """The constant text of a message, `…` for each value in it; empty where it has none."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_template(part) or LEFT_OUT for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            before, after = _template(left), _template(right)
            return (before or LEFT_OUT) + (after or LEFT_OUT) if before or after else ""
    return ""


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What is printed goes nowhere, and what a test makes of warnings ends with it."""
    nowhere = _Nowhere()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        yield


@contextlib.contextmanager
def _time(deadline: float, sessions: Sequence[Learner]) -> Iterator[None]:
    """End what runs inside at the deadline, a test's own loops too; again and again, should it swallow that."""

    running = True

    def over(_: int, __: FrameType | None) -> None:
        if running and not any(session.asking for session in sessions):
            raise Stopped(Verdict.TIMEOUT, TEST_TOO_LONG, lost=False)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001), 0.5)
    try:
        try:
            yield
        finally:
            running = False  # an alarm may still come before this: hence the outer finally
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
