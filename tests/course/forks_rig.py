"""For tests of grading's processes: a process that forks learner's sessions and test processes, without sandboxes.

with started("session", work=tmp_path) as channel: ...
python tests/course/forks_rig.py FD       # the process itself
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from distlab.course.grade.wire import Channel


@functools.cache
def _server() -> socket.socket:
    """One for all tests of a run; it ends with this process, as its socket is closed then."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno())]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    ours.settimeout(120)
    atexit.register(process.wait)
    atexit.register(ours.close)  # what was registered last is called first
    return ours


@contextlib.contextmanager
def forked(role: str, *ends: socket.socket, work: Path = Path("/")) -> Iterator[int]:
    """Fork what serves `role` (`session`, `display`, `testing`) with these sockets, which are closed here; its pid."""
    server = _server()
    socket.send_fds(server, [json.dumps([role, str(work)]).encode()], [end.fileno() for end in ends])
    for end in ends:
        end.close()
    pid = int(server.recv(100))
    process = os.pidfd_open(pid)  # unlike the number, never another process's
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        os.close(process)


@contextlib.contextmanager
def session(work: Path, role: str = "session") -> Iterator[Channel]:
    """A learner's session in the folder `work`, and the channel to it."""
    ours, theirs = socket.socketpair()
    with Channel(ours) as channel, forked(role, theirs, work=work):
        yield channel


def main(fd: int) -> None:
    # Imported here: a test's own process must not hold the learner's side.
    import torch  # noqa: F401 - what each child would import by itself

    from distlab.course.grade import session, testing

    session.prepare()
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads before the fork"
    server = socket.socket(fileno=fd)
    children: set[int] = set()
    while True:
        request, fds, _, _ = socket.recv_fds(server, 10_000, 3)
        if not request:
            return
        role, work = json.loads(request)
        pid = os.fork()
        if pid == 0:
            server.close()
            ends = [Channel(socket.socket(fileno=fd)) for fd in fds]
            try:
                roles = {"session": session.serve, "display": session.serve_shown, "testing": testing.serve}
                roles[role](*ends, *([Path(work)] if role != "testing" else []))
            finally:
                os._exit(0)
        for fd in fds:
            os.close(fd)
        children.add(pid)
        server.sendall(str(pid).encode())
        children = {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}


if __name__ == "__main__":
    main(int(sys.argv[1]))
