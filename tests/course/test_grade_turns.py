"""Shown and unseen passes: each kind at once with itself, never with the other."""

from __future__ import annotations

import base64
import functools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from distlab.course.grade import grader
from distlab.course.grade.children import Child, Children, SandboxFailed
from distlab.course.grade.grader import grade
from distlab.course.grade.turns import Turns
from distlab.course.grade.work import Cell, Kind, Verdict, Work
from distlab.course.sandbox import availability

THREADS = 4
CELLS = (Cell("def double(x):\n    return 2 * x"), Cell("assert double(2) == 4", "t", Kind.HIDDEN, 1.0))
WORK = Work("lab", CELLS, ("double",))

needs_sandboxes = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")


@pytest.mark.parametrize("kind", ["shown", "unseen"])
def test_passes_of_one_kind_run_at_once(kind: str) -> None:
    turns, together = Turns(), threading.Barrier(THREADS, timeout=60)

    def work() -> None:
        with getattr(turns, kind)():
            together.wait()  # breaks unless all are inside

    with ThreadPoolExecutor(THREADS) as pool:
        for each in [pool.submit(work) for _ in range(THREADS)]:
            each.result()


def test_passes_of_two_kinds_never_do() -> None:
    turns, inside, seen = Turns(), [], []

    def work(turn: Callable[[], AbstractContextManager[None]], kind: str) -> None:
        with turn():
            inside.append(kind)
            seen.append(set(inside))
            inside.remove(kind)

    def one_after_the_other() -> None:
        for _ in range(300):
            work(turns.shown, "shown")
            work(turns.unseen, "unseen")

    with ThreadPoolExecutor(THREADS) as pool:
        for each in [pool.submit(one_after_the_other) for _ in range(THREADS)]:
            each.result()
    assert len(seen) == THREADS * 600
    assert all(len(kinds) == 1 for kinds in seen)


def test_a_turn_ends_with_an_error() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns.shown():
        raise KeyError
    with turns.unseen():
        pass


def test_a_timed_submission_is_graded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for what runs, and what comes later waits for it."""
    turns, began, end, order = Turns(), threading.Event(), threading.Event(), []

    @contextmanager
    def sandboxes(work: Work, _children: Children) -> Iterator[None]:
        order.append(f"{work.lab} begins")
        if work.lab == "first":
            began.set()
            assert end.wait(60)
        order.append(f"{work.lab} ends")
        raise SandboxFailed
        yield

    monkeypatch.setattr(grader, "TURNS", turns)
    monkeypatch.setattr(grader, "_sandboxes", sandboxes)
    with ThreadPoolExecutor(3) as pool:
        grading = [pool.submit(grade, Work("first", CELLS), None)]
        assert began.wait(60)
        grading.append(pool.submit(grade, Work("timed", CELLS, timed=True), None))
        while not turns._timed:
            time.sleep(0)
        grading.append(pool.submit(grade, Work("later", CELLS), None))
        assert order == ["first begins"]
        end.set()
        assert [type(each.exception()) for each in grading] == [SandboxFailed] * 3
    assert order == [f"{lab} {what}" for lab in ("first", "timed", "later") for what in ("begins", "ends")]


@needs_sandboxes
def test_submissions_are_graded_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once: both display passes together, then both test passes."""
    both, states = threading.Barrier(2, timeout=60), []

    def in_turn(run: Callable[..., Any], *arguments: Any) -> Any:
        both.wait()
        states.append(+turns._running)
        both.wait()
        return run(*arguments)

    for name in ("_display", "_test"):
        monkeypatch.setattr(grader, name, functools.partial(in_turn, getattr(grader, name)))
    turns = Turns()
    monkeypatch.setattr(grader, "TURNS", turns)
    with Children() as children, ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: grade(WORK, children), range(2)))
    assert [result.verdict for result in results] == [Verdict.PASSED] * 2
    assert states == [{"shown": 2}, {"shown": 2}, {"unseen": 2}, {"unseen": 2}]


@needs_sandboxes
def test_nothing_of_a_test_pass_outlives_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Child] = []
    running: list[bool] = []

    class Watched(Turns):
        @contextmanager
        def unseen(self) -> Iterator[None]:
            with super().unseen():
                yield
                running.extend(child.running for child in started[:2])

    class Remembering(Children):
        def start_together(self, *arguments: Any) -> list[Child]:
            started.extend(super().start_together(*arguments))
            assert [child.role for child in started[:2]] == ["testing", "session"]
            return started

    monkeypatch.setattr(grader, "TURNS", Watched())
    with Remembering() as children:
        assert grade(WORK, children).verdict == Verdict.PASSED
    assert running == [False, False]


TELLS = """
import fcntl, time
def double(x):
    with open("/usr/bin/env") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(2)
    return 2 * x
"""
LISTENS = """
import fcntl, time
end, heard = time.monotonic() + 2, 0
with open("/usr/bin/env") as file:
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
        except BlockingIOError:
            heard += 1
print("heard:", heard)
"""
"""A lock on a file that all sandboxes have: held while a hidden test waits, looked for where outputs are shown."""


@needs_sandboxes
def test_what_a_hidden_test_gave_is_not_heard_in_another_submission() -> None:
    tells = Work("lab", (Cell(TELLS), CELLS[1]), ("double",))
    listens = Work("lab", (Cell(LISTENS),))
    with Children() as children, ThreadPoolExecutor(2) as pool:
        told, heard = pool.map(lambda work: grade(work, children), (tells, listens))
    assert told.verdict == Verdict.PASSED
    assert heard.shown[0].outputs[0]["text"] == "heard: 0\n"


@pytest.mark.parametrize(
    ("work", "launches"),
    [
        (Work("lab", (Cell("import torch\ntorch.ones(2)"),)), False),
        (Work("lab", (Cell("x = 1"), Cell("from distlab.train.launch import launch"))), True),
        (Work("lab", (), files={"more.py": base64.b64encode(b"launch(f, 2)").decode()}), True),
        (Work("lab", (), files={"data.csv": base64.b64encode(b"1,2").decode()}), False),
        (Work("lab", (), baseline=("launch(f, 2)",)), True),
        (Work("lab", (Cell("from distlab.train import warm"),)), True),
    ],
)
def test_ranks_are_made_ready_for_where_code_starts_some(work: Work, launches: bool) -> None:
    assert grader._launches(work) is launches
