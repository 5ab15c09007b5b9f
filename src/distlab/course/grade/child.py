"""One sandbox that runs: its limits, what it prints, how it ended, and that nothing of it is left.

`children.py` makes them; `warm.py` is what runs in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from distlab.course import cgroup
from distlab.course.grade import warm
from distlab.course.grade.work import Limits
from distlab.errors import WorkError

TAIL_BYTES = 4096
REPORT_S = 2.0
"""How long the init of a child that was killed may take to say how it ended."""
KILL_TIMEOUT_S = 30.0
_CREDENTIALS = struct.Struct("iII")


class SandboxFailed(WorkError):  # noqa: N818 - a state of the machine
    """A sandbox did not start: a matter of this machine, not of the submission."""

    @classmethod
    def at_start(cls, what: str, why: object) -> SandboxFailed:
        """`what` of ours did not start, for that reason."""
        return cls(f"the {what} did not start: {why}; try again, and where it stays so, see `distlab doctor`")


@dataclass(frozen=True)
class Ending:
    """How a child ended. One of `status` (its exit status) and `signal` (what killed it) is None.

    `memory`: a process of it was killed at the limit on memory. `output`: it printed more than it may.
    `processes`: some could not start at the limit on processes. `lost`: what it was forked from ended, which
    is the machine's fault. `tail` is the end of what it printed to its standard streams: the learner's text.
    """

    status: int | None
    signal: int | None
    memory: bool
    output: bool
    processes: bool
    lost: bool
    memory_peak_bytes: int
    tail: bytes

    @property
    def violation(self) -> bool:
        """It made a system call that only an escape would make."""
        return self.signal == signal.SIGSYS

    @property
    def processor(self) -> bool:
        """It used more processor time than it may."""
        return self.signal == signal.SIGXCPU


class Child:
    """One running sandbox; `pid` is its init's on this machine, `uid` who its processes are."""

    def __init__(self, role: str, limits: Limits, group: cgroup.Group, cores: Sequence[int]) -> None:
        self.role, self.limits, self.cores = role, limits, cores
        self.pid = self.uid = 0
        self.group = group
        self._init_fd = (
            self._main_fd
        ) = -1  # pidfds of its init, and of the process that runs the role's function
        self._fds_lock = threading.Lock()
        self._control, self.their_control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._output, self.their_output = os.pipe()
        os.set_blocking(self._output, False)
        self.process: subprocess.Popen[bytes] | None = None  # started cold
        self._status: int | None = None
        self._usage: cgroup.Usage | None = None
        self._killed = self._frozen = False
        self._printed_bytes = 0
        self._tail = b""
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def begin_to_kill(self) -> None:
        """End it; what it started goes on for as long as its init takes to notice."""
        if self._frozen:
            self.freeze(False)  # what is frozen does not die, and says nothing
        # Its channel can close before its end is known: its init is left to say how it ended, and gets to say
        # so at once, as now it does end.
        self._signal("_main_fd")

    def freeze(self, frozen: bool) -> bool:
        """Stop all its processes where they are, or let them go on; whether they did. What has ended does either."""
        self._frozen = frozen
        try:
            self.group.freeze(frozen)
        except OSError:
            if frozen:  # half of them may be
                with contextlib.suppress(OSError):
                    self.group.freeze(False)
            self._frozen = False
            return self._ended.wait(REPORT_S)
        return True

    def kill(self) -> Ending:
        """End it and everything that it started; returns when nothing of it is left. May be called twice."""
        self.begin_to_kill()
        if not self._ended.wait(REPORT_S):
            self._killed = True
            self._send_kill()
        return self.ending(KILL_TIMEOUT_S)

    def ending(self, timeout_s: float | None = None) -> Ending:
        """Wait until it ended and nothing of it is left; raises TimeoutError after `timeout_s` seconds."""
        if not self._ended.wait(timeout_s):
            raise TimeoutError(f"the {self.role} sandbox still runs after {timeout_s:g} s")
        usage, status = self._usage, self._status
        ended_by = (
            signal.SIGKILL if status is None else os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        )
        memory = bool(usage and usage.memory_kills)
        output = self._printed_bytes > self.limits.output_bytes
        return Ending(
            status=os.WEXITSTATUS(status) if status is not None and ended_by is None else None,
            signal=ended_by,
            memory=memory,
            output=output,
            processes=bool(usage and usage.processes_refused),
            # Started cold, its init is the learner's own user's, who may end it.
            lost=status is None and not (self._killed or memory or output or self.process),
            memory_peak_bytes=usage.memory_peak_bytes if usage else 0,
            tail=self._tail,
        )

    @property
    def running(self) -> bool:
        """Whether anything of it is left."""
        return not self._ended.is_set()

    def begin(self, deadline: float) -> None:
        """Meet its init, move it into the control group, and see it start."""
        self._control.settimeout(max(0.001, deadline - time.monotonic()))
        self.pid = self._expect("hello")
        # It waits for the answer, so that the number is still its own.
        self._init_fd = os.pidfd_open(self.pid)
        if self.process is None:
            self.group.add(self.pid)
            self.uid = warm.NOBODYS_UID + 1 + secrets.randbelow(warm.UIDS)
        self._control.send(json.dumps({"uid": self.uid}).encode())
        self._main_fd = os.pidfd_open(self._expect("started"))
        self._control.send(b'{"go": 1}')
        self._control.setblocking(False)

    def _expect(self, word: str) -> int:
        """The process that says `word`."""
        data, ancillary, _, _ = self._control.recvmsg(
            warm.MAX_MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
        )
        if not data:
            raise ConnectionResetError("it ended before it began")
        if word not in (told := json.loads(data)):
            raise SandboxFailed.at_start(f"{self.role} sandbox", told.get("failed", told))
        pid: int = _CREDENTIALS.unpack(ancillary[0][2])[0]
        return pid

    def watch(self) -> None:
        """Until all of it is gone: count what it prints, hear how it ended, and end what is left then."""
        poll = select.poll()
        for fd in (self._output, self._control.fileno(), self._init_fd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self._output in ready and not self._drain():
                poll.unregister(self._output)
            if self._control.fileno() in ready and not self._hear():
                poll.unregister(self._control)
            if self._init_fd in ready:
                break
        self._hear()
        self._drain()
        self._close()

    def _drain(self) -> bool:
        """Count what it printed; False at the end, and where it printed too much."""
        while True:
            try:
                data = os.read(self._output, 1 << 16)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._printed_bytes += len(data)
            self._tail = (self._tail + data)[-TAIL_BYTES:]
            if self._printed_bytes > self.limits.output_bytes:
                self._send_kill()
                return False

    def _hear(self) -> bool:
        """How it ended, from its init; False where that is gone."""
        try:
            answer = self._control.recv(warm.MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not answer:
            return False
        self._status = json.loads(answer).get("status")
        self._read_usage()  # a systemd scope forgets when its last process ends
        self._send_kill()
        return True

    def _read_usage(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._usage = self._usage or self.group.usage()

    def _send_kill(self) -> None:
        """The end of process 1 is the end of its whole namespace: nothing can be started any more."""
        self._signal("_init_fd")
        if self.process is not None:
            self.process.kill()

    def _signal(self, name: str) -> None:
        """SIGKILL to the process that the descriptor stands for, if it is still open."""
        with self._fds_lock, contextlib.suppress(OSError):
            signal.pidfd_send_signal(getattr(self, name), signal.SIGKILL)

    def abandon(self) -> None:
        """End what did not begin."""
        self._send_kill()
        self._close()

    def _close(self) -> None:
        try:
            self._read_usage()
            if self.process is not None:
                self.process.kill()
                self.process.wait()
            self.group.remove()
        finally:
            self._control.close()
            os.close(self._output)
            with self._fds_lock:  # the numbers are others' from here on
                for fd in {self._init_fd, self._main_fd} - {-1}:
                    os.close(fd)
                self._init_fd = self._main_fd = -1
            self._ended.set()


def kill_all(children: Iterable[Child]) -> None:
    """`kill` each, in about the time of one."""
    children = list(children)
    for child in children:
        child.begin_to_kill()
    for child in children:
        child.kill()
