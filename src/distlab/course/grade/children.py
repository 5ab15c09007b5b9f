"""Sandboxes by the dozen: each child is forked from a warm server, walled in, limited, and gone without a trace.

    with Children() as children:
        ours, theirs = socket.socketpair()
        with children.start("session", limits, fds=[theirs]) as child:
            channel = Channel(ours)
            channel.send({"op": "run", "source": "print(1)"})
            answer = channel.receive(deadline)
        child.ending()  # Ending(status=None, signal=9, ...): leaving `with` killed it

`start` returns when the child runs its role's function on its channels. It returned, raised or was killed:
`ending(timeout_s)` says which, and whether a limit was the reason. One `Children` serves any number of threads.

As root, a child has its own uid, control group, pid, mount, network, ipc and uts namespaces, /proc, /tmp,
/dev/shm and loopback; the server that it is forked from (`warm.py`) holds nothing that a learner may not see.
A normal user cannot give children uids: there each is started cold, about four seconds, in a bubblewrap
sandbox of its own.

Children have one kernel, and the system's and the environment's files, in common with all other sandboxes of the
machine. Two of them that run at the same time can tell each other what they like: by a lock on a file, which takes
no right to write to it, or by a futex in a page of one. Hence none whose output is shown runs while another sees
hidden arguments (`turns.py`). What could be read later is taken away: the filter hides who opens or has read a
file, and the kernel's log; folders keep no time of access; uids are drawn, not counted.

This stays open, as it does without a kernel for each sandbox:

- a learner's own server on the same machine, and another process that grades there, run at any time: a futex
  reaches them. Where that matters, grade on a machine that has no learners' servers, in one process;
- how long things take tells what else the processors and their caches do now, and which parts of files were read
  before; the kernel's counters (/proc/stat, inode numbers) tell how much was started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from distlab.course import cgroup
from distlab.course.grade import warm
from distlab.course.grade.child import Child, Ending, SandboxFailed, kill_all
from distlab.course.grade.work import Limits
from distlab.course.sandbox import Mount, Sandbox, base_env, python_mounts

__all__ = ["Child", "Children", "Ending", "SandboxFailed", "kill_all"]

ROLES = {
    "display": "distlab.course.grade.session:serve_shown",
    "session": "distlab.course.grade.session:serve",
    "launching display": "distlab.course.grade.session:serve_shown_launching",
    "launching session": "distlab.course.grade.session:serve_launching",
    "testing": "distlab.course.grade.testing:serve",
}
PREPARE = "distlab.course.grade.session:prepare"

CAPABILITIES = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP")
"""What the fork server needs to build walls; children have none of it."""

STARTERS_ENV = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
"""What the programs that make a sandbox need of the environment (systemd-run finds its manager by it)."""

CPU_WEIGHT = 100
"""As much as any: a busy machine shall not make a submission late. Whoever grades bounds their number."""


@dataclass
class _Server:
    """A program of `warm.py` in its sandbox, ready for requests."""

    process: subprocess.Popen[bytes]
    requests: socket.socket
    errors: int

    def ask(self, child: Child, fds: Sequence[socket.socket]) -> None:
        """Have `child` made; OSError where the server is gone."""
        asked = {"role": child.role, "limits": dataclasses.asdict(child.limits), "cores": child.cores}
        given = [child.their_control.fileno(), child.their_output, *(fd.fileno() for fd in fds)]
        socket.send_fds(self.requests, [json.dumps(asked).encode()], given)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.requests.close()
        self.process.kill()
        self.process.wait()
        os.close(self.errors)

    def last_line(self) -> str:
        """Of what it had to say."""
        lines = os.pread(self.errors, 1 << 16, 0).decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"


class Children:
    """Where children come from. `roles` maps each role to the function that its children run on their channels.

    `mounts` and `env` are added to what every child sees; `warm=False` starts each child cold. The server starts
    in the background when this is entered; where that fails, the first `start` says so.
    """

    def __init__(
        self,
        roles: Mapping[str, str] = ROLES,
        prepare: str = PREPARE,
        mounts: tuple[Mount, ...] = (),
        env: Mapping[str, str] | None = None,
        warm: bool | None = None,
    ) -> None:
        self._setup = json.dumps({"roles": dict(roles), "prepare": prepare})
        self._mounts, self._env = mounts, dict(env or {})
        self.warm = os.geteuid() == 0 if warm is None else warm
        self._server: _Server | None = None
        self._starting: Future[_Server] | None = None
        self._lock = threading.Lock()
        # A sandbox dies with the thread that started it; this one lives as long as this object.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="children")
        self._living: set[Child] = set()
        self._users: Counter[int] = Counter()  # of each core
        self._names = itertools.count()

    def __enter__(self) -> Self:
        cgroup.sweep(_groups(), lambda rest: Path(f"/proc/{rest.partition('-')[0]}").exists())
        if self.warm:
            self._starting = self._starter.submit(self._new_server, time.monotonic() + Limits().start_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill_all(list(self._living))
        with self._lock, contextlib.suppress(SandboxFailed, OSError):
            if server := self._server or (self._starting and self._starting.result()):
                server.stop()
        self._starter.shutdown()

    def get_ready(self) -> None:
        """Wait until children start warm, for somebody who measures them. Raises `SandboxFailed`, as `start` does."""
        if self.warm:
            with self._lock:
                self._warm_server(time.monotonic() + Limits().start_s)

    def start(self, role: str, limits: Limits, *, fds: Sequence[socket.socket] = ()) -> Child:
        """A new child that runs `role` on `fds`, connected stream sockets, in their order; it owns them then.

        Raises `SandboxFailed` where this machine cannot make it, or not within `limits.start_s` seconds.
        """
        (child,) = self.start_together(limits, [(role, fds)])
        return child

    def start_together(
        self, limits: Limits, wanted: Sequence[tuple[str, Sequence[socket.socket]]]
    ) -> list[Child]:
        """Several children, each a role and its `fds`, in about the time of one: all of them, or `SandboxFailed`.

        They take turns: all have the same cores.
        """
        deadline = time.monotonic() + limits.start_s
        cores = self._take_cores(limits, len(wanted))
        with ThreadPoolExecutor(len(wanted)) as pool:
            starting = [pool.submit(self._start, role, limits, fds, cores, deadline) for role, fds in wanted]
        failed = [error for each in starting if (error := each.exception())]
        children = [each.result() for each in starting if not each.exception()]
        if failed:
            kill_all(children)
            raise failed[0]
        return children

    def _start(
        self,
        role: str,
        limits: Limits,
        fds: Sequence[socket.socket],
        cores: Sequence[int],
        deadline: float,
    ) -> Child:
        assert len(fds) <= warm.MAX_CHANNELS
        try:
            try:
                return self._try(role, limits, fds, cores, deadline)
            except ConnectionError:  # the server ended meanwhile: with a new one, once more
                return self._try(role, limits, fds, cores, deadline)
        except BaseException as error:
            self._give_cores_back(cores)
            if isinstance(error, OSError | cgroup.LimitsUnavailable):
                raise SandboxFailed.at_start(f"{role} sandbox", error) from error
            raise
        finally:
            for fd in fds:
                fd.close()

    def _try(
        self,
        role: str,
        limits: Limits,
        fds: Sequence[socket.socket],
        cores: Sequence[int],
        deadline: float,
    ) -> Child:
        wanted = cgroup.Limits(limits.memory_bytes, limits.cpus, limits.processes, CPU_WEIGHT)
        group = cgroup.create(f"{_groups()}{os.getpid()}-{id(self):x}-{next(self._names)}", wanted)
        child = Child(role, limits, group, cores)
        try:
            try:
                if self.warm:
                    with self._lock:
                        self._warm_server(deadline).ask(child, fds)
                else:
                    self._start_cold(child, fds, deadline)
            finally:
                child.their_control.close()
                os.close(child.their_output)
            child.begin(deadline)
        except BaseException:
            child.abandon()
            raise
        self._living.add(child)
        threading.Thread(target=self._watch, args=(child,), daemon=True).start()
        return child

    def _watch(self, child: Child) -> None:
        try:
            child.watch()
        finally:
            self._living.discard(child)
            self._give_cores_back(child.cores)

    def _take_cores(self, limits: Limits, children: int) -> list[int]:
        """As many of the machine's cores as the quota comes to, those that the fewest children have."""
        own = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(own)  # another process that does this begins at another
        with self._lock:
            ranked = sorted(own[first:] + own[:first], key=self._users.__getitem__)
            cores = ranked[: max(1, math.ceil(limits.cpus))]
            for _ in range(children):
                self._users.update(cores)
        return cores

    def _give_cores_back(self, cores: Sequence[int]) -> None:
        """One child's."""
        with self._lock:
            self._users.subtract(cores)

    def _warm_server(self, deadline: float) -> _Server:
        if self._server and not self._server.alive:
            self._server.stop()
            self._server = None
        if self._server is None:
            starting, self._starting = self._starting, None
            self._server = (starting or self._starter.submit(self._new_server, deadline)).result()
        return self._server

    def _new_server(self, deadline: float) -> _Server:
        sandbox = self._sandbox("root", 0, capabilities=CAPABILITIES)
        return self._program(sandbox, list, deadline)

    def _start_cold(self, child: Child, fds: Sequence[socket.socket], deadline: float) -> None:
        """A program of its own for one child; bubblewrap makes the walls."""
        # All cold children of this process share the number, which is no process id's.
        uid = warm.NOBODYS_UID + 2**22 + os.getpid() if os.geteuid() == 0 else os.geteuid()
        tmp_bytes = child.limits.tmp_bytes
        sandbox = self._sandbox("grader", uid, tmp_bytes=tmp_bytes, shm_bytes=tmp_bytes)
        server = self._starter.submit(
            self._program, sandbox, child.group.enter, deadline, "--walled"
        ).result()
        child.uid, child.process = uid, server.process
        with server.requests:
            server.ask(child, fds)
        os.close(server.errors)

    def _sandbox(self, user: str, uid: int, **fields: Any) -> Sandbox:
        # Labs declare a smaller scale for grading and take it where this says so.
        env = base_env("grader", "/tmp") | {"DISTLAB_SCALE": "grading", "PYTHONHASHSEED": "0"}
        # OpenBLAS counts cores when it is loaded, which is before anybody knows a child's.
        env |= {"OPENBLAS_NUM_THREADS": str(math.ceil(Limits().cpus)), **self._env}
        mounts = (*python_mounts(), *self._mounts)
        return Sandbox((), user, uid, env=env, mounts=mounts, hostname="grader", **fields)

    def _program(
        self, sandbox: Sandbox, enter: Callable[[Sequence[str]], list[str]], deadline: float, *options: str
    ) -> _Server:
        """Start `warm.py` in `sandbox`, and wait until it is ready."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd, errors = theirs.fileno(), os.memfd_create("errors")
        argv = (sys.executable, "-P", "-m", warm.__name__, str(fd), self._setup, *options)
        with theirs:
            process = dataclasses.replace(sandbox, argv=argv, inherited_fds=(fd,)).popen(
                enter,
                # bubblewrap keeps its environment; the service's holds its token of the Hub.
                env={name: os.environ[name] for name in STARTERS_ENV if name in os.environ},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
            )
        server = _Server(process, ours, errors)
        try:
            ours.settimeout(max(0.001, deadline - time.monotonic()))
            if ours.recv(16) != b"ready":
                raise SandboxFailed.at_start("fork server", server.last_line())
        except BaseException:
            server.stop()
            raise
        return server


def _groups() -> str:
    """How the names of control groups begin whose makers this process can look up: its own pid namespace's."""
    return f"grade-{os.stat('/proc/self/ns/pid').st_ino}-"
