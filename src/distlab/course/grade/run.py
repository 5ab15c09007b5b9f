"""Run the cells of one notebook in a fresh sandbox, and say how it ended.

The sandbox holds the learner's files and the cell that runs, nothing else: no network, no tests before their
turn, no gradebook. It ends with the run, and all that is in it. What it sends back is data, cleaned and
bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from nbformat.notebooknode import NotebookNode

from distlab.course import cgroup
from distlab.course.grade.outputs import clean_outputs, count_or_none
from distlab.course.homes import FIRST_UID
from distlab.course.sandbox import MIB, Sandbox, base_env, python_mounts

GRADER_UID = FIRST_UID - 2
"""Who learner code is while it is graded, where the site runs as root. No account has this number."""

STARTERS_ENV = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
"""What the programs that make the sandbox need of the environment (systemd-run finds its manager by it)."""

OK, TIMEOUT, MEMORY, DIED, OUTPUT = "ok", "timeout", "memory", "died", "output"


class SandboxFailed(Exception):  # noqa: N818 - a state of the machine
    """The sandbox did not start: a matter of this machine, not of the submission."""


@dataclass(frozen=True)
class Limits:
    """What one run may use. Times are wall-clock seconds; `processes` counts threads."""

    cell_s: float = 60.0
    wall_s: float = 300.0
    start_s: float = 120.0
    memory_bytes: int = 4096 * MIB
    tmp_bytes: int = 512 * MIB
    cpus: float = 2.0
    processes: int = 512
    output_bytes: int = 16 * MIB


@dataclass(frozen=True)
class CellResult:
    """What a cell that ran to its end left behind."""

    outputs: list[NotebookNode]
    execution_count: int | None


@dataclass(frozen=True)
class Run:
    """`cells` holds a result for each cell that finished, in order: all of them where the verdict is `ok`."""

    verdict: str
    message: str
    cells: list[CellResult] = field(default_factory=list)


def run_cells(sources: list[str], files: dict[str, str], limits: Limits) -> Run:
    """Run `sources` one after the other beside `files` (name to base64).

    Raises `SandboxFailed` where this machine cannot make the sandbox or its limits; all else is a verdict.
    """
    try:
        group = cgroup.create(
            f"grade-{uuid.uuid4().hex[:12]}",
            cgroup.Limits(limits.memory_bytes, limits.cpus, limits.processes),
        )
    except cgroup.LimitsUnavailable as error:
        raise SandboxFailed(f"no limits can be set for learner code: {error}") from error
    try:
        process = _sandbox(limits).popen(
            group.enter,
            # Inside, bubblewrap's own environment can be read; the service's holds its token of the Hub.
            env={name: os.environ[name] for name in STARTERS_ENV if name in os.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        with process:
            try:
                return _converse(process, group, sources, files, limits)
            finally:
                group.kill()
                process.kill()
    finally:
        group.remove()


def _sandbox(limits: Limits) -> Sandbox:
    uid = GRADER_UID if os.geteuid() == 0 else os.geteuid()
    # Labs declare a smaller scale for grading and take it where this says so.
    env = {**base_env("grader", "/tmp"), "DISTLAB_SCALE": "grading"}
    return Sandbox(
        argv=(sys.executable, "-P", "-m", "distlab.course.grade.driver"),
        user="grader",
        uid=uid,
        env=env,
        mounts=python_mounts(),
        hostname="grader",
        cwd="/tmp",
        tmp_bytes=limits.tmp_bytes,
    )


def _converse(
    process: subprocess.Popen[bytes],
    group: cgroup.Group,
    sources: list[str],
    files: dict[str, str],
    limits: Limits,
) -> Run:
    pipe = _Pipe(process, limits.output_bytes)
    deadline = time.monotonic() + limits.wall_s
    cells: list[CellResult] = []
    try:
        answer = pipe.receive(time.monotonic() + limits.start_s)
    except _Stopped as stopped:
        raise SandboxFailed(
            f"the grading sandbox did not start ({stopped.verdict}): {pipe.error()}"
        ) from stopped
    if answer.get("ready") is not True:
        raise SandboxFailed("the grading sandbox did not start: unexpected answer")
    try:
        pipe.send({"files": files}, deadline)
        for source in sources:
            cell_deadline = min(deadline, time.monotonic() + limits.cell_s)
            pipe.send({"source": source}, cell_deadline)
            answer = pipe.receive(cell_deadline)
            if "outputs" not in answer:
                raise _Stopped(DIED)
            cells.append(
                CellResult(clean_outputs(answer["outputs"]), count_or_none(answer.get("execution_count")))
            )
    except _Stopped as stopped:
        verdict = stopped.verdict
        if verdict == DIED and group.usage().memory_peak_bytes >= limits.memory_bytes * 0.99:
            verdict = MEMORY
        return Run(verdict, _message(verdict, limits), cells)
    return Run(OK, "", cells)


def _message(verdict: str, limits: Limits) -> str:
    return {
        TIMEOUT: f"The run was stopped here: a cell may take {limits.cell_s:g} s, all {limits.wall_s:g} s.",
        MEMORY: f"The run ended here: it needed more than {limits.memory_bytes // MIB} MiB of memory.",
        DIED: "The run ended here: the kernel died.",
        OUTPUT: f"The run was stopped here: it printed more than {limits.output_bytes // MIB} MiB.",
    }[verdict]


class _Stopped(Exception):  # noqa: N818 - how a run ended, not an error of ours
    def __init__(self, verdict: str) -> None:
        super().__init__(verdict)
        self.verdict = verdict


class _Pipe:
    """Lines of JSON to and from the driver, with deadlines, and a bound on all that it may send."""

    def __init__(self, process: subprocess.Popen[bytes], max_bytes: int) -> None:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        self._in, self._out, self._err = process.stdin, process.stdout, process.stderr
        self._left = max_bytes
        self._buffer = b""
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe.fileno(), False)

    def send(self, message: dict[str, Any], deadline: float) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            _wait(self._in.fileno(), selectors.EVENT_WRITE, deadline)
            try:
                data = data[os.write(self._in.fileno(), data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise _Stopped(DIED) from None

    def receive(self, deadline: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            _wait(self._out.fileno(), selectors.EVENT_READ, deadline)
            chunk = os.read(self._out.fileno(), 1 << 16)
            if not chunk:
                raise _Stopped(DIED)
            self._left -= len(chunk)
            if self._left < 0:
                raise _Stopped(OUTPUT)
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            raise _Stopped(DIED) from None
        if not isinstance(answer, dict):
            raise _Stopped(DIED)
        return answer

    def error(self) -> str:
        """The last line that a sandbox which did not start has to say."""
        with contextlib.suppress(OSError):
            lines = (os.read(self._err.fileno(), 1 << 16) or b"").decode(errors="replace").strip().split("\n")
            return lines[-1]
        return "it said nothing"


def _wait(fd: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(fd, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise _Stopped(TIMEOUT)
