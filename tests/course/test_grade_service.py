"""The grading service and who asks it: signs of life, what is said after them, and a service that says nothing."""

from __future__ import annotations

import asyncio
import functools
import http.client
import json
import os
import socket as sockets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from distlab.course.grade import graders, runner
from distlab.course.grade.batch import GraderUnavailable
from distlab.course.grade.children import SandboxFailed
from distlab.course.grade.graders import UnixConnection, grade_by_service
from distlab.course.grade.queue import Queue, State
from distlab.course.grade.work import Cell, Kind, Limits, Result, Work
from tests.course.batch_rig import grade_all, submit, word_grader

WORK = Work(
    "lab", (Cell("def double(x):\n    return 2 * x", "double"), Cell("", "test_double", Kind.HIDDEN, 1.0))
)
PATIENCE_S = 60


@contextmanager
def service(folder: Path, grade: Callable[[Work], Result], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The socket of a service, in a thread of this process, that grades by `grade`."""
    monkeypatch.setattr(runner, "grade", lambda work, _children: grade(work))
    socket, ready, stop = folder / "s", threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        server = HTTPServer(runner.make_app(Limits(), None, concurrency=1))
        server.add_socket(bind_unix_socket(str(socket)))
        ready.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield socket
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the service, a hasty one, has given a sign of life."""
    given, flush = threading.Event(), runner.GradeHandler.flush

    def told(handler: runner.GradeHandler, **end: bool) -> asyncio.Future[None]:
        given.set()
        return flush(handler, **end)

    monkeypatch.setattr(runner.GradeHandler, "flush", told)
    monkeypatch.setattr(runner, "BEAT_S", 0.01)
    return given


def test_a_long_grading_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BEAT_S", 0.01)
    heard = threading.Event()

    def grade(work: Work) -> Result:
        assert heard.wait(PATIENCE_S)
        return word_grader(work)

    with service(tmp_path, grade, monkeypatch) as socket:
        connection = UnixConnection(str(socket), PATIENCE_S)
        connection.request("POST", "/grade", json.dumps(WORK.to_json()))
        response: http.client.HTTPResponse = connection.getresponse()
        assert response.read(1) == b" "
        heard.set()
        assert Result.from_json(json.loads(response.read())).points == 1
        connection.close()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("error", "raised"), [(SandboxFailed("no groups"), GraderUnavailable), (ValueError("odd"), RuntimeError)]
)
def test_what_is_wrong_is_known_before_and_after_a_sign_of_life(
    late: bool,
    error: Exception,
    raised: type[Exception],
    beats: threading.Event,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def grade(work: Work) -> Result:
        assert not late or beats.wait(PATIENCE_S)
        raise error

    if not late:
        monkeypatch.setattr(runner, "BEAT_S", PATIENCE_S)
    with service(tmp_path, grade, monkeypatch) as socket, pytest.raises(raised, match=str(error)) as found:
        grade_by_service(socket, WORK)
    assert type(found.value) is raised


def test_a_result_after_signs_of_life_is_a_result(
    beats: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grade(work: Work) -> Result:
        assert beats.wait(PATIENCE_S)
        return word_grader(work)

    with service(tmp_path, grade, monkeypatch) as socket:
        assert grade_by_service(socket, WORK).points == 1


def test_what_nobody_waits_for_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graded, release, noticed = [], threading.Event(), threading.Event()
    flush = runner.GradeHandler.flush

    def grade(work: Work) -> Result:
        graded.append(work.lab)
        assert release.wait(PATIENCE_S)
        return word_grader(work)

    def notice(handler: runner.GradeHandler, **end: bool) -> asyncio.Future[None]:
        written = flush(handler, **end)
        written.add_done_callback(lambda done: noticed.set() if done.exception() else None)
        return written

    def ask(socket: Path, lab: str) -> tuple[UnixConnection, http.client.HTTPResponse]:
        connection = UnixConnection(str(socket), PATIENCE_S)
        connection.request("POST", "/grade", json.dumps(replace(WORK, lab=lab).to_json()))
        response = connection.getresponse()
        assert response.read(1) == b" "
        return connection, response

    monkeypatch.setattr(runner, "BEAT_S", 0.01)
    monkeypatch.setattr(runner.GradeHandler, "flush", notice)
    with service(tmp_path, grade, monkeypatch) as socket:
        first, _ = ask(socket, "first")
        given_up, response = ask(socket, "given up")
        response.close()
        given_up.close()
        assert noticed.wait(PATIENCE_S)
        last, response = ask(socket, "last")
        release.set()
        assert Result.from_json(json.loads(response.read())).lab == "last"
        first.close()
        last.close()
    assert graded == ["first", "last"]


def test_a_service_that_says_nothing_keeps_no_lease(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the request and hangs: the submission waits again, and nothing is held against it."""
    monkeypatch.setattr(graders, "SILENCE_S", 0.05)
    for student in ("ann", "ben", "cat"):
        submit(course, student)
    with sockets.socket(sockets.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "s"))
        hung.listen()
        with pytest.raises(GraderUnavailable, match="does not answer"):
            grade_all(course, grader=functools.partial(grade_by_service, tmp_path / "s"))
    with Queue(course) as queue:
        assert {(job.state, job.faults) for job in queue.jobs()} == {(State.QUEUED, 0)}
    assert len(grade_all(course)) == 3


def test_a_service_is_kept_busy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(graders, "service_socket", lambda: None)
    assert graders.workers_by_default() == cores
    monkeypatch.setattr(graders, "service_socket", lambda: tmp_path)
    assert graders.workers_by_default() == cores + 1
