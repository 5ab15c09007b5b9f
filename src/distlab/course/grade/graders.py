"""Who grades for a batch: a Job on a folder, the site's grading service where it runs, else sandboxes made here.

with open_grader() as grader:
    result = grader(work)
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import socket as sockets
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from distlab.course.atomic import write_atomic
from distlab.course.grade.batch import Grader, GraderUnavailable
from distlab.course.grade.work import RESULT, WORK, Result, Work
from distlab.course.site import INSIDE_GRADER_SOCKETS, Site
from distlab.files import read_limited

if TYPE_CHECKING:  # it imports torch, which who grades elsewhere need not wait for
    from distlab.course.grade.children import Children

SOCKET_ENV = "DISTLAB_GRADER_SOCKET"

FOLDER_ENV = "DISTLAB_GRADER_FOLDER"
"""Names the folder where works are left for a Job on Kubernetes (`job.py`)."""

MAX_RESULT_BYTES = 64 * 2**20
"""Of a Job's result: four times what is kept of outputs (`Limits.output_bytes`); all else in it is small."""

POLL_S = 0.5
"""How often it is looked whether a Job has left a result."""


SILENCE_S = 60.0
"""After so long without a sign of life the service counts as gone: it gives one every few seconds (`runner.BEAT_S`)."""


@contextmanager
def open_grader() -> Iterator[Grader]:
    """The folder or the grading service that the environment names, or the site's service; else this machine."""
    if FOLDER_ENV in os.environ:
        yield functools.partial(grade_by_folder, Path(os.environ[FOLDER_ENV]))
        return
    socket = service_socket()
    if socket is not None:
        yield functools.partial(grade_by_service, socket)
        return
    from distlab.course.grade.children import Children

    with Children() as children:
        yield functools.partial(grade_here, children)


def workers_by_default() -> int:
    """One for each processor that this process may use; beside a service, which bounds them itself, one more.

    So a next submission is at its door when it has finished one.
    """
    return len(os.sched_getaffinity(0)) + (service_socket() is not None)


def service_socket() -> Path | None:
    """Where the grading service listens, or None."""
    if SOCKET_ENV in os.environ:
        return Path(os.environ[SOCKET_ENV])
    if INSIDE_GRADER_SOCKETS.is_dir():
        return INSIDE_GRADER_SOCKETS / "grader.sock"
    socket = Site.from_env().grader_sockets / "grader.sock"
    return socket if socket.is_socket() and _answers(socket) else None


def _answers(socket: Path) -> bool:
    """A service that was killed leaves its socket behind."""
    connection = UnixConnection(str(socket))
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


def grade_here(children: Children, work: Work) -> Result:
    """Grade in sandboxes of this machine. Raises `GraderUnavailable` where it can make none."""
    from distlab.course.grade.children import SandboxFailed
    from distlab.course.grade.grader import grade

    try:
        return grade(work, children)
    except SandboxFailed as error:
        raise GraderUnavailable(
            f"This machine can make no sandbox ({error}). What is queued stays; `distlab course grading resume` "
            "goes on."
        ) from None


def grade_by_folder(folder: Path, work: Work) -> Result:
    """Leave the work in the folder for a Job, and wait for its result, however long that takes.

    Raises `GraderUnavailable` where the folder is none. What a killed batch has left there, nobody waits for.
    """
    if not folder.is_dir():
        raise GraderUnavailable(
            f"{folder} is no folder: {FOLDER_ENV} names the one that the Job grades, on a volume of both."
        )
    name = uuid.uuid4().hex
    asked, answered = folder / f"{name}{WORK}", folder / f"{name}{RESULT}"
    try:
        write_atomic(asked, json.dumps(work.to_json()).encode())
        while not answered.exists():
            time.sleep(POLL_S)
        return Result.from_json(json.loads(read_limited(answered, MAX_RESULT_BYTES)))
    finally:
        asked.unlink(missing_ok=True)  # first: a work without its result would be graded again
        answered.unlink(missing_ok=True)


def grade_by_service(socket: Path, work: Work) -> Result:
    """Have the service grade. Raises `GraderUnavailable` where it says nothing, or can make no sandbox."""
    body = json.dumps(work.to_json(), ensure_ascii=False).encode("utf-8", "replace")
    connection = UnixConnection(str(socket), SILENCE_S)
    try:
        connection.request("POST", "/grade", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise GraderUnavailable(
            f"The grading service does not answer on {socket} ({error}): is the site up? What is queued stays; "
            "`distlab course grading resume` goes on."
        ) from None
    finally:
        connection.close()
    status = answer.get("status", response.status)
    if status == 503:
        raise GraderUnavailable(f"The grading service can grade nothing now: {answer.get('error')}")
    if status != 200:
        raise RuntimeError(f"the grading service answered {status}: {answer.get('error')}")
    return Result.from_json(answer)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. Reached through its folder: a socket's address holds about 100 bytes only."""

    def __init__(self, path: str, timeout_s: float | None = None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.path = Path(path)

    def connect(self) -> None:
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self.path.name}")
        finally:
            os.close(folder)
