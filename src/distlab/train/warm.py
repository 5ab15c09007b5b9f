"""Start ranks without importing torch anew in each: a server of this process that has, forks them.

    python -m distlab.train.warm FD      # the server; `start` runs it

An import of torch takes seconds, a fork milliseconds. The server is this process's own: made when its first rank
starts, gone when this process is, however it ends, or when it was not asked for a while. A rank from it is what
`python -m distlab.train.rank` would be: a session, an environment, a folder and output of its own, no memory of
the ranks before it. The server never touches a GPU, which a fork would not survive.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import api
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

from distlab.errors import LaunchError
from distlab.train import rank

IMPORTS = ("numpy", "torch", "torch.distributed", "distlab.observe.profile.flight", "distlab.train.loop")
"""What the ranks of a training run need."""
IDLE_S = 300
"""Seconds without a request and without a rank after which the server ends."""
START_S = 120
READ_WHEN_LOADED = (
    "GLIBC_TUNABLES", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_",
    "TORCH_CPP_", "TORCH_LOGS", "TORCH_SHOW_CPP_STACKTRACES",
)  # fmt: skip
"""Variables that libraries read when they are loaded: where one has changed, a new server is made."""
STEP_S = 0.1
"""How long a wait lasts at a time: between two, Python handles a Ctrl-C that another thread took."""
NUMBER = struct.Struct("i")


class Entrypoint(str):
    """What tells the elastic agent's processes that are started here from all others."""

    __slots__ = ()


class Rank:
    """A rank's process, as far as the agent uses `subprocess.Popen`."""

    def __init__(self, pid: int, ending: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ending = ending

    def poll(self) -> int | None:
        """Its exit code, negative for a signal's number; None while it runs."""
        return self._read(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired after `timeout` seconds."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (code := self._read(STEP_S)) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a rank", timeout or 0)
        return code

    def _read(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._ending], [], [], timeout)[0]:
            status = self._ending.recv(NUMBER.size)
            # Without the server its ranks are killed, too.
            self.returncode = NUMBER.unpack(status)[0] if status else -signal.SIGKILL
            self._ending.close()
        return self.returncode


class _Handler(SubprocessHandler):
    """The agent's own handling of a process that comes from the server."""

    def _popen(self, args: tuple[str, ...], env: dict[str, str]) -> Rank:  # type: ignore[override]
        assert self._stdout is not None
        assert self._stderr is not None
        # The rank has its own then, and the agent closes only a running rank's.
        with self._stdout, self._stderr:
            return start(Path(args[-1]), env, self._stdout.fileno(), self._stderr.fileno())

    def close(self, death_sig: signal.Signals | None = None) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended between the agent's look and this
            super().close(death_sig)


def _handler(entrypoint: str, *args: object, **kwargs: object) -> SubprocessHandler:
    kind = _Handler if isinstance(entrypoint, Entrypoint) else SubprocessHandler
    return kind(entrypoint, *args, **kwargs)  # type: ignore[arg-type]


vars(api)["get_subprocess_handler"] = _handler  # the place that torch keeps for handlers of another kind


def start(folder: Path, env: dict[str, str], stdout: int, stderr: int) -> Rank:
    """Run `rank.main(folder)` in a new process. Raises LaunchError where no server can be made."""
    request = {"folder": str(folder), "env": env, "cwd": os.getcwd(), "affinity": _affinity()}
    content = os.memfd_create("request")
    ours, theirs = socket.socketpair()
    try:
        with open(content, "wb", closefd=False) as file:
            file.write(json.dumps(request).encode("utf-8", "surrogateescape"))
        with theirs:
            _send([content, stdout, stderr, theirs.fileno()])
        pid = ours.recv(NUMBER.size)
        if not pid:
            raise LaunchError(
                "The server that starts ranks ended before it had started one; launch again.", 0
            )
    except BaseException:
        ours.close()
        raise
    finally:
        os.close(content)
    return Rank(NUMBER.unpack(pid)[0], ours)


def _affinity() -> list[int]:
    return sorted(os.sched_getaffinity(0))


class _Forked:
    """The server as a child that was forked, as far as this module uses `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = False

    def poll(self) -> int | None:
        """None while it runs."""
        if not self._ended:
            self._ended = os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        return 0 if self._ended else None

    def wait(self) -> int:
        if not self._ended:
            os.waitpid(self.pid, 0)
            self._ended = True
        return 0


@dataclass
class _Server:
    process: subprocess.Popen[bytes] | _Forked
    requests: socket.socket
    owner: int
    """The process that made it: one that was forked from that makes its own."""
    variables: dict[str, str]

    def serves(self) -> bool:
        return self.owner == os.getpid() and self.variables == _variables() and self.process.poll() is None

    def end(self) -> None:
        self.requests.close()  # it ends by that
        if self.owner == os.getpid():
            self.process.wait()


_lock = threading.Lock()
_server: _Server | None = None


def _send(fds: Sequence[int]) -> None:
    global _server
    with _lock:
        for attempt in (1, 2):
            if _server is None or not _server.serves():
                if _server is not None:
                    _server.end()
                _server = _new_server()
            try:
                socket.send_fds(_server.requests, [b"start"], fds)
                return
            except OSError as error:
                # It had just ended because nobody had asked.
                if attempt == 2 or error.errno not in (errno.EPIPE, errno.ECONNRESET):
                    raise
                _server.process.wait()


def _variables() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.startswith(READ_WHEN_LOADED)}
    kept.pop("OMP_NUM_THREADS", None)  # each rank sets its own
    return kept


def _new_server() -> _Server:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    errors = os.memfd_create("errors")
    with theirs:
        process = subprocess.Popen(
            # -P: a file beside the notebook must not take the place of a module.
            [sys.executable, "-P", "-m", "distlab.train.warm", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            pass_fds=[theirs.fileno()],
            env=env,
            start_new_session=True,  # Ctrl-C is for the ranks
        )
    try:
        if not _ready(ours):
            said = os.pread(errors, 1 << 16, 0).decode(errors="replace").strip().split("\n")[-1]
            raise LaunchError(f"The server that starts ranks did not start: {said or 'it said nothing'}", 0)
    except BaseException:
        ours.close()
        process.kill()
        process.wait()
        raise
    finally:
        os.close(errors)
    return _Server(process, ours, os.getpid(), _variables())


def prefork() -> None:
    """Make the server by a fork of this process, which has torch, one thread, and nothing done yet."""
    global _server
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            kept = theirs.detach()
            os.closerange(3, kept)  # (an empty range does no harm above 0)
            os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            os.setsid()
            serve(socket.socket(fileno=kept))
        finally:
            os._exit(1)  # never back into what the caller would do
    theirs.close()
    _server = _Server(_Forked(pid), ours, os.getpid(), _variables())


def prefork_if_alone() -> None:
    """`prefork` for a command's process; not where there are threads, which a fork would lose (OpenMP's, say)."""
    if (pid := os.fork()) == 0:  # OpenBLAS starts threads when it is imported, and ends them before a fork
        os._exit(0)
    os.waitpid(pid, 0)
    if len(os.listdir("/proc/self/task")) == 1:
        prefork()


def end() -> None:
    """End the server, if there is one: nothing of a command is left when it has ended."""
    global _server
    with _lock:
        if _server is not None:
            _server.end()
            _server = None


def _ready(requests: socket.socket) -> bool:
    """Wait for the server's first word."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if select.select([requests], [], [], STEP_S)[0]:
            return bool(requests.recv(1))
    return False


def serve(requests: socket.socket) -> None:
    """Fork a rank for each request, and tell how it ended, until the asking process is gone."""
    asking = os.pidfd_open(os.getppid())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it waits for ranks, which inherit this
    for name in IMPORTS:
        importlib.import_module(name)
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.chdir("/")
    running: dict[int, socket.socket] = {}
    requests.send(b"r")
    while True:
        idle_s = None if running else IDLE_S
        ready = select.select([requests.fileno(), asking, wake], [], [], idle_s)[0]
        if not ready or asking in ready:
            os._exit(0)  # ranks that still run die with their parent
        if wake in ready:
            os.read(wake, 1 << 12)
            _tell_endings(running)
        if requests.fileno() in ready:
            try:
                message, fds, _, _ = socket.recv_fds(requests, 16, 4)
            except ConnectionResetError:  # the asking process has ended without having read a word
                os._exit(0)
            if not message:
                os._exit(0)
            _fork(fds, running)


def _tell_endings(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as told, contextlib.suppress(OSError):
            told.send(NUMBER.pack(os.waitstatus_to_exitcode(status)))


def _fork(fds: list[int], running: dict[int, socket.socket]) -> None:
    told = socket.socket(fileno=fds[3])
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_rank(fds, parent)
    for fd in fds[:3]:
        os.close(fd)
    running[pid] = told
    with contextlib.suppress(OSError):
        told.send(NUMBER.pack(pid))


def _be_rank(fds: list[int], parent: int) -> NoReturn:
    import numpy as np

    content, stdout, stderr, _ = fds
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with open(content, "rb") as file:
            file.seek(0)
            request = json.loads(file.read().decode("utf-8", "surrogateescape"))
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.sched_setaffinity(0, request["affinity"])
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        np.random.seed()
        code = rank.main(Path(request["folder"]), parent)
        sys.stdout.flush()
    except BaseException:  # what the job itself raised is in its failure; this is of the surroundings
        traceback.print_exc()
    finally:
        os._exit(code)  # torch's teardown takes a third of a second, and nothing is left to close


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
