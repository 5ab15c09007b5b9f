"""How much faster is the learner's function than the given one? For the hidden tests of a timed lab.

    from distlab.course.grade.timing import speedup

    inputs = [(_random.sample(range(10**6), 1000),) for _ in range(8)]
    assert speedup(sort, baseline.sort, inputs) >= 1.5, "sort is not 1.5 times as fast as the given one"

In the header of such a lab stands `timed: true`. `baseline` has what the lab's locked cells make, in a sandbox that
runs these cells alone: nothing that a learner writes can slow it down there. Nor from outside, by keeping the
machine busy: the learner's processes are frozen while the baseline works. The clock is the test's own. No input
comes twice, so that nothing is gained by keeping results, and what comes back has to be what the baseline gives.

Both sides pay for bringing arguments and results across (about a millisecond): give both enough to do.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from distlab.course.grade import plain
from distlab.course.grade.remote import Learner, Remote, RemoteError, Stopped
from distlab.course.grade.wire import Channel
from distlab.course.grade.work import OWN_FAULT, Limits, Verdict

LEAST = 4
"""Inputs: the first warms both sides up, and a median of fewer than three says little."""

TOLERANCE = 1e-5
"""Two floats are equal up to this, relative to the larger, or to 1: a faster way may round in another order."""

NOT_HELD = "Not graded: the processes of your code could not be held while the baseline ran."


def speedup(function: Callable[..., Any], baseline: Remote, inputs: Sequence[tuple[Any, ...]]) -> float:
    """The median, over the inputs but the first, of the baseline's time through the function's; 0.0 where one of
    the function's results is not `close` to the baseline's.

    `function` is the learner's, or calls it; `baseline` is an attribute of `baseline`. `inputs` are the arguments
    of one call each, all different. The two take turns at going first. ValueError for too few inputs or equal ones.
    """
    if len(inputs) < LEAST:
        raise ValueError(f"{len(inputs)} inputs; at least {LEAST} are needed")
    if len({_text(arguments) for arguments in inputs}) < len(inputs):
        raise ValueError("two inputs are equal: what a function kept of the first would count as speed")
    ratios = []
    for number, arguments in enumerate(inputs):
        if number % 2:
            wanted, baseline_s = _baseline_timed(baseline, arguments)
            got, function_s = _timed(function, arguments)
        else:
            got, function_s = _timed(function, arguments)
            wanted, baseline_s = _baseline_timed(baseline, arguments)
        if not close(got, wanted):
            return 0.0
        ratios.append(baseline_s / function_s)
    return statistics.median(ratios[1:])


def close(got: Any, wanted: Any) -> bool:
    """Are two plain values of one type, one shape and one length, and their floats equal but for rounding?

    Tensors and arrays are compared as `torch.testing.assert_close` does it for their type. An object that stays in
    a sandbox is close to nothing: what it stands for need not have been computed yet.
    """
    if type(got) is not type(wanted) or type(got) is Remote:
        return False
    match got:
        case list() | tuple():
            return len(got) == len(wanted) and all(map(close, got, wanted))
        case dict():
            return got.keys() == wanted.keys() and all(close(got[key], wanted[key]) for key in got)
        case complex():
            return close(got.real, wanted.real) and close(got.imag, wanted.imag)
        case float():
            near = math.isclose(got, wanted, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
            return near or (math.isnan(got) and math.isnan(wanted))
    if hasattr(got, "dtype"):
        try:
            torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(wanted), equal_nan=True)
        except AssertionError:
            return False
        return True
    return bool(got == wanted)


class Baseline:
    """The names of the baseline's session, as attributes: what a test knows as `baseline`."""

    def __init__(self, session: Given) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return self._session.get(name)


class Given(Learner):
    """The session that runs the lab's own cells and no learner's. Whatever goes wrong there is the lab's fault.

    Each request has the time of a cell: what the learner's code took leaves it no less.
    """

    def __init__(self, channel: Channel, control: Channel, limits: Limits) -> None:
        super().__init__(channel, math.inf)
        self._control, self._limits = control, limits
        self._frozen = False

    def prepare(self, sources: Sequence[str]) -> None:
        """Run the lab's cells, beside no file that was submitted. Raises Stopped where one fails."""
        self.files({}, self._limits.start_s)
        for source in sources:
            if not self.run(source, False, self._limits.cell_s).ok:
                raise self._stop(Stopped(Verdict.NOT_GRADABLE, OWN_FAULT))

    def _ask(
        self, request: dict[str, Any], limit_s: float | None, blobs: Sequence[bytes] = ()
    ) -> tuple[dict[str, Any], list[bytes]]:
        return super()._ask(request, self._limits.cell_s if limit_s is None else limit_s, blobs)

    def call(self, function: Remote | str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().call(function, *args, **kwargs)
        except RemoteError:
            if isinstance(
                function, str
            ):  # an iteration's end, a list that looks for a length: Python deals with it
                raise
            raise self._stop(Stopped(Verdict.NOT_GRADABLE, OWN_FAULT, lost=False)) from None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nothing of the learner's runs: the coordinator has frozen it. Raises Stopped where it cannot."""
        self._freeze(True)
        if not self._frozen:
            raise self._stop(Stopped(Verdict.NOT_GRADABLE, NOT_HELD, lost=False))
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let the learner's processes go on, if they are frozen."""
        if self._frozen:
            self._freeze(False)

    def _freeze(self, frozen: bool) -> None:
        self.asking = True  # nothing may interrupt here: neither side would know what the other has done
        try:
            self._control.send({"freeze": frozen})
            self._frozen = self._control.receive()[0] == {"frozen": True}
        finally:
            self.asking = False

    def _stop(self, stopped: Stopped) -> Stopped:
        if stopped.verdict != Verdict.NOT_GRADABLE:
            stopped = Stopped(Verdict.NOT_GRADABLE, OWN_FAULT, stopped.lost)
        return super()._stop(stopped)


def _baseline_timed(baseline: Remote, arguments: tuple[Any, ...]) -> tuple[Any, float]:
    session = baseline._learner
    if not isinstance(session, Given):
        raise TypeError("what is timed against must be an attribute of baseline")
    with session.alone():
        return _timed(baseline, arguments)


def _timed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - start


def _text(arguments: tuple[Any, ...]) -> str:
    """The same for equal arguments, and for no others."""
    tree, blobs = plain.encode(arguments, lambda _: 0)
    return json.dumps([tree, [blob.hex() for blob in blobs]])
