"""The test process: holds the tests, drives the learner's session, says what each test came to.

    serve(control, learner)                                # in the test process
    for report in reports(control, work, stop, deadline):  # where the marks are kept
        ...                                                # Graded, one per test, as they come; at the end perhaps Stop
    cells = complete(work, graded, stop)

A test is a cell of plain Python. It runs here, in a namespace of its own that holds the builtins and, of the names
that the lab declares, those its code uses: fetched once, before it begins. What it prints goes nowhere. It never
runs in the learner's process, and nothing of the learner's process runs here.

How a test ends:

- passed, or as many points as its last expression says, if that is a number;
- failed: an assertion of its own. The message is the sentence that stands in the test's source, values left out;
- failed: any other exception in the test's code. Tests are released only if they pass on the model solution, so it
  came of what the learner's code gave (`None` where a list was expected);
- error: the learner's code raised. timeout, too much output, violation: it gave no answer, or none that is one;
- not gradable: the test could not be compiled, imports what is not there, or hands over what cannot cross.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import random
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from types import CodeType, FrameType, TracebackType
from typing import Any

from distlab.course.grade.remote import GRACE_S, Learner, MissingName, NotPlain, RemoteError, Stopped
from distlab.course.grade.wire import Channel, Malformed
from distlab.course.grade.work import Cell, Graded, Verdict, Work

MAX_MESSAGE = 500
LEFT_OUT = "…"
"""Stands for a value in a message."""
CHECK_FAILED = "A check of this test failed."


@dataclass(frozen=True)
class Stop:
    """Where a run ended before its last cell: tests from cell number `step` (from 0) on carry the verdict."""

    step: int
    verdict: Verdict
    message: str


def reports(
    control: Channel, work: Work, stop: Stop | None, deadline: float | None = None
) -> Iterator[Graded | Stop]:
    """Have the test process at the other end of `control` grade `work`, and give its reports as they come.

    It stops before cell `stop.step`, and the last report is then `stop`, or an earlier Stop of its own: the
    learner's process is gone, or must go. Raises WireError where the test process ends or says what it should not:
    what came before stands.
    """
    control.send({"work": work.to_json(), "stop": asdict(stop) if stop else None}, deadline=deadline)
    tests = iter([cell for cell in work.cells if cell.is_test])
    while True:
        message, _ = control.receive(deadline)
        match message:
            case {"graded": dict(raw)}:
                yield _check(raw, next(tests, None))
            case {"stop": dict(raw)}:
                try:
                    yield Stop(raw["step"], Verdict(raw["verdict"]), str(raw["message"])[:MAX_MESSAGE])
                except (KeyError, ValueError) as error:
                    raise Malformed("not a stop") from error
                return
            case {"done": True}:
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


def serve(control: Channel, learner: Channel) -> None:
    """Do the one piece of work that comes over `control`, against the session at the other end of `learner`."""
    message, _ = control.receive()
    work = Work.from_json(message["work"])
    raw = message["stop"]
    stop = Stop(raw["step"], Verdict(raw["verdict"]), raw["message"]) if raw else None
    run = _Run(control, Learner(learner, time.monotonic() + work.limits.wall_s), work)
    stopped = run.steps(stop)
    control.send({"stop": asdict(stopped)} if stopped else {"done": True})


class _Run:
    def __init__(self, control: Channel, learner: Learner, work: Work) -> None:
        self.control, self.learner, self.work = control, learner, work
        self.end = learner.deadline

    def steps(self, stop: Stop | None) -> Stop | None:
        """Go through the cells; the Stop that ended it, if one did."""
        step = 0
        try:
            self.learner.files(self.work.files, self.work.limits.start_s)
            for step, cell in enumerate(self.work.cells):
                if stop is not None and step >= stop.step:
                    return stop
                self.learner.deadline = min(self.end, time.monotonic() + self.work.limits.cell_s)
                if cell.is_test:
                    self._report(self.test(cell))
                elif not cell.measure:
                    self.cell(cell)
        except Stopped as stopped:
            return Stop(step, stopped.verdict, stopped.message)
        return None

    def cell(self, cell: Cell) -> None:
        if self.learner.run(cell.source, False, self.work.limits.cell_s).interrupted:
            raise Stopped(Verdict.TIMEOUT, "Your code took too long.")

    def _report(self, graded: Graded) -> None:
        self.control.send({"graded": asdict(graded)})

    def test(self, cell: Cell) -> Graded:
        """Run one test. Raises Stopped where the learner's session is lost."""
        self.learner.stopped = None
        verdict, points, message = Verdict.PASSED, cell.points, ""
        try:
            with _time(self.learner.deadline + GRACE_S + 1), _quiet():
                value = self._execute(cell)
            verdict, points = _credit(value, cell.points)
        except Stopped as limit:
            self.learner.stopped = self.learner.stopped or limit
        except BaseException as error:
            verdict, message = _failure(error, cell)
        if (stopped := self.learner.stopped) is not None:
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
            space[name] = self.learner.get(name)
        exec(_compile(tree, cell), space)
        if not isinstance(last, ast.Expr):
            return None
        return eval(_compile(ast.Expression(last.value), cell), space)


def _compile(tree: ast.Module | ast.Expression, cell: Cell) -> CodeType:
    mode = "exec" if isinstance(tree, ast.Module) else "eval"
    code: CodeType = compile(tree, _file(cell), mode)
    return code


def _file(cell: Cell) -> str:
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
    """What the last expression of a test says. Any number must be one of points; all else is no number."""
    item = (
        value.item()
        if type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", 1) == 0
        else value
    )
    if type(item) not in (int, float):
        return Verdict.PASSED, points
    if not 0 <= item <= points:
        raise ValueError("points out of range")
    if item == points:
        return Verdict.PASSED, points
    return (Verdict.PARTIAL if item else Verdict.FAILED), float(item)


def _failure(error: BaseException, cell: Cell) -> tuple[Verdict, str]:
    if isinstance(error, RemoteError):
        return Verdict.ERROR, f"Your code stopped with {error.kind or 'an exception'}."
    if isinstance(error, MissingName):
        return Verdict.FAILED, f"Your notebook does not define {error.args[0]}."
    if isinstance(error, AssertionError):
        return Verdict.FAILED, _message(error.__traceback__, cell)
    if isinstance(error, NotPlain | ImportError | SyntaxError):
        return Verdict.NOT_GRADABLE, "This test could not run: its own code is at fault."
    kind = type(error).__name__ if type(error).__module__ == "builtins" else "an exception"
    return Verdict.FAILED, f"The test could not work with what your code gave ({kind})."


def _message(traceback: TracebackType | None, cell: Cell) -> str:
    """The sentence in the test's source for the assertion that failed: found by its place, never by its text."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _file(cell):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    nodes = [
        node
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assert | ast.Raise) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if not nodes:
        return CHECK_FAILED
    node = min(nodes, key=lambda node: (node.end_lineno or 0) - node.lineno)
    if isinstance(node, ast.Assert):
        return _template(node.msg) or CHECK_FAILED
    call = node.exc
    if isinstance(call, ast.Call) and call.args:
        return _template(call.args[0]) or CHECK_FAILED
    return CHECK_FAILED


def _template(node: ast.expr | None) -> str:
    """The constant text of a message, `…` for each value in it; empty where it has none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) or LEFT_OUT for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _template(node.left), _template(node.right)
        return (left or LEFT_OUT) + (right or LEFT_OUT) if left or right else ""
    return ""


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(_Nowhere()), contextlib.redirect_stderr(_Nowhere()):
        yield


@contextlib.contextmanager
def _time(deadline: float) -> Iterator[None]:
    """End what runs inside at `deadline`, a test's own loops too; again each second, should it swallow that."""

    def over(_: int, __: FrameType | None) -> None:
        raise Stopped(Verdict.TIMEOUT, "The test took too long with what your code gave.", lost=False)

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(deadline - time.monotonic(), 0.001), 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
