"""Who grades for a batch: the site's grading service where it runs, else sandboxes made here.

with open_grader() as grader:
    result = grader(work)
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import socket as sockets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distlab.course.grade.batch import Grader, GraderUnavailable
from distlab.course.grade.work import Result, Work
from distlab.course.site import INSIDE_GRADER_SOCKETS, Site

SOCKET_ENV = "DISTLAB_GRADER_SOCKET"


@contextmanager
def open_grader() -> Iterator[Grader]:
    """The grading service that the environment names or that the site runs; without one, this machine."""
    socket = service_socket()
    if socket is not None:
        yield functools.partial(grade_by_service, socket)
        return
    from distlab.course.grade.children import Children
    from distlab.course.grade.grader import grade

    with Children() as children:
        yield functools.partial(grade, children=children)


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


def grade_by_service(socket: Path, work: Work) -> Result:
    """Have the service grade. Raises `GraderUnavailable` where it does not answer, or can make no sandbox."""
    body = json.dumps(work.to_json(), ensure_ascii=False).encode("utf-8", "replace")
    connection = UnixConnection(str(socket))
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
    if response.status == 503:
        raise GraderUnavailable(f"The grading service can grade nothing now: {answer.get('error')}")
    if response.status != 200:
        raise RuntimeError(f"the grading service answered {response.status}: {answer.get('error')}")
    return Result.from_json(answer)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. Reached through its folder: a socket's address holds about 100 bytes only."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self.path = Path(path)

    def connect(self) -> None:
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
            self.sock.connect(f"/proc/self/fd/{folder}/{self.path.name}")
        finally:
            os.close(folder)
