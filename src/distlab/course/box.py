"""The supervisor of one learner's server: `python -m distlab.course.box FOLDER`.

It runs outside the sandbox, in a session of its own, and outlives the Hub, so that kernels do. `FOLDER` (one
per user, 0700) holds its `spec.json`; it adds `state.json`, from which a later Hub finds it again, and the
server's listening socket. That socket is made here and handed to the sandbox open: nothing inside can put
another in its place. It is a Unix socket because a TCP one would carry the host's network into the sandbox
(a listening TCP socket can be turned into a connecting one; a listening Unix socket cannot).

Started, it prints one line of JSON: `{"port": N}` on which it relays to the server, or `{"error": "..."}`.
It ends when the server does, or on SIGTERM or SIGINT, and leaves nothing behind but the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import logging.handlers
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import psutil

from distlab.course import cgroup
from distlab.course.atomic import write_atomic
from distlab.course.processes import ProcessId
from distlab.course.relay import CHUNK_BYTES, tcp_to_unix, unix_to_unix
from distlab.course.sandbox import Mount, Sandbox
from distlab.course.site import (
    INSIDE_EXCHANGE_PORT,
    INSIDE_HUB_PORT,
    INSIDE_SERVER_PORT,
    INSIDE_SOCKETS,
    Site,
)
from distlab.machine import free_port

GRACE_S = 5.0
"""How long a server may take to shut its kernels down before it is killed."""

LAST_WORDS_S = 2.0

LOG_BYTES = 5 * 2**20
LOG_BYTES_PER_S = 2**20
"""A server that floods its log is slowed down to this, and keeps the last two times LOG_BYTES."""

SOCKET = "server.sock"
"""Relative: the folder's path may be longer than the 108 bytes that a socket's address can hold."""

UPWARD = "sockets"
"""The folder that the sandbox sees at INSIDE_SOCKETS; relative too. Its sockets are this server's own: with the
site's, one learner could use up all connections that the Hub's API and the exchange can have."""

CONNECTIONS = 64
"""Connections that one server may have to the Hub's API, and as many to the exchange; further ones wait."""

STREAMS: dict[str, Any] = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.STDOUT,
}

PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Spec:
    """What to run, and within what. `limits` is None where none can be held.

    `protected` False runs the server as the Hub's own user without a sandbox: the spawner decides that.
    """

    user: str
    uid: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log: str
    site_sockets: str
    mounts: tuple[Mount, ...] = ()
    limits: cgroup.Limits | None = None
    protected: bool = True

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Spec:
        limits = cgroup.Limits(**raw["limits"]) if raw["limits"] else None
        mounts = tuple(Mount(**mount) for mount in raw["mounts"])
        return cls(**{**raw, "argv": tuple(raw["argv"]), "mounts": mounts, "limits": limits})


@dataclass(frozen=True)
class State:
    """The supervisor, and the group it must not leave behind."""

    supervisor: ProcessId
    group: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> State | None:
        try:
            raw = json.loads((folder / "state.json").read_text())
        except FileNotFoundError:
            return None
        return cls(ProcessId(**raw["supervisor"]), raw["group"])


def launch(folder: Path, spec: Spec) -> subprocess.Popen[bytes]:
    """Start the supervisor of `folder` (made anew); its standard output brings the line of JSON."""
    stop(folder)
    folder.mkdir(mode=0o700)
    _write(folder / "spec.json", spec.to_dict())
    inherited = ("DBUS_SESSION_BUS_ADDRESS", "HOME", "LANG", "PATH", "XDG_RUNTIME_DIR")
    log = os.open(spec.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "distlab.course.box", str(folder)],
            env={name: os.environ[name] for name in inherited if name in os.environ},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


def supervisor(folder: Path) -> ProcessId | None:
    """The running supervisor of `folder`, if there is one."""
    state = State.read(folder)
    return state.supervisor if state and state.supervisor.alive() else None


def stop(folder: Path, *, now: bool = False) -> None:
    """End the supervisor of `folder` if it runs, with all that it started, and remove what it left."""
    state = State.read(folder)
    if state:
        if not now:
            state.supervisor.send(signal.SIGTERM)
            state.supervisor.wait(GRACE_S + 2 * cgroup.KILL_TIMEOUT_S)
        state.supervisor.send(signal.SIGKILL)
        state.supervisor.wait(cgroup.KILL_TIMEOUT_S)
        if state.group:
            group = cgroup.load(state.group)
            group.kill()
            group.remove()
    shutil.rmtree(folder, ignore_errors=True)


def stop_all(site: Site) -> bool:
    """Stop every box of the site, when it is shut down for good; whether there was one."""
    folders = sorted(site.boxes.iterdir()) if site.boxes.exists() else []
    for folder in folders:
        stop(folder)
    return bool(folders)


def _write(path: Path, content: dict[str, Any]) -> None:
    write_atomic(path, json.dumps(content).encode())


class Box:
    """One run of a spec: start, wait, clean up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = Spec.from_dict(json.loads((folder / "spec.json").read_text()))
        self.group: cgroup.Group | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.stop_fd = -1
        self.relays: list[asyncio.Task[NoReturn]] = []

    async def start(self) -> int:
        """Start the server; returns the host's port that leads to it."""
        if self.spec.limits:
            self.group = cgroup.create(f"{self.spec.user}-{os.getpid()}", self.spec.limits)
        me = ProcessId.of(os.getpid())
        assert me is not None
        state = State(me, self.group.to_dict() if self.group else None)
        _write(self.folder / "state.json", dataclasses.asdict(state))
        return await (self._start_sandbox() if self.spec.protected else self._start_unprotected())

    async def _start_sandbox(self) -> int:
        listener = _listen(SOCKET)
        self._offer_site_sockets()
        stop_read, self.stop_fd = os.pipe()
        fds = (listener.fileno(), stop_read)
        start = (sys.executable, "-P", "-m", "distlab.course.inside", *map(str, fds))
        sandbox = Sandbox(
            argv=(*start, *self.spec.argv),
            user=self.spec.user,
            uid=self.spec.uid,
            env=self.spec.env,
            mounts=(*self.spec.mounts, Mount(str(self.folder / UPWARD), str(INSIDE_SOCKETS))),
            cwd=self.spec.cwd,
            inherited_fds=fds,
        )
        self.process = sandbox.popen(self._enter, **STREAMS)
        listener.close()
        os.close(stop_read)
        return await tcp_to_unix(0, SOCKET)

    def _offer_site_sockets(self) -> None:
        """Sockets of this server's own that lead to the site's, a bounded number of connections at a time."""
        os.mkdir(UPWARD)
        os.chmod(UPWARD, 0o711)  # its user passes, and cannot list
        sockets = os.open(self.spec.site_sockets, os.O_PATH)
        for name in ("hub.sock", "exchange.sock"):
            listener = _listen(f"{UPWARD}/{name}")
            os.chmod(f"{UPWARD}/{name}", 0o666)
            relaying = unix_to_unix(listener, f"/proc/self/fd/{sockets}/{name}", CONNECTIONS)
            self.relays.append(asyncio.create_task(relaying))

    async def _start_unprotected(self) -> int:
        """Without a sandbox there is no private loopback: use free ports of the host's in place of its."""
        sockets = os.open(self.spec.site_sockets, os.O_PATH)
        ports = {INSIDE_SERVER_PORT: free_port()}
        for inside, name in ((INSIDE_HUB_PORT, "hub.sock"), (INSIDE_EXCHANGE_PORT, "exchange.sock")):
            ports[inside] = await tcp_to_unix(0, f"/proc/self/fd/{sockets}/{name}")
        env = dict(self.spec.env)
        for inside, outside in ports.items():
            for name, value in env.items():
                env[name] = value.replace(f"http://127.0.0.1:{inside}", f"http://127.0.0.1:{outside}")
        # What the server leaves behind becomes this process's child, and is killed with it.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        command = self._enter(self.spec.argv)
        self.process = subprocess.Popen(
            command, env=env, cwd=self.spec.cwd, start_new_session=True, **STREAMS
        )
        return ports[INSIDE_SERVER_PORT]

    def _enter(self, argv: Sequence[str]) -> list[str]:
        return self.group.enter(argv) if self.group else list(argv)

    async def run(self) -> int:
        """From start to clean-up; the exit status is the server's."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, ended.set)
        try:
            port = await self.start()
            assert self.process is not None
            _report({"port": port})
            handle = os.pidfd_open(self.process.pid)
            loop.add_reader(handle, ended.set)
            log = asyncio.create_task(self.copy_log())
            await ended.wait()
            loop.remove_reader(handle)
            await self._stop_kindly()
            self.process.kill()
            # Its last words; the pipe ends once all that could write to it is dead.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(log, LAST_WORDS_S)
        finally:
            self._clean_up()
        return self.process.returncode

    async def _stop_kindly(self) -> None:
        """Ask the server to stop its kernels and itself, for GRACE_S at most."""
        assert self.process is not None
        if self.spec.protected:
            os.close(self.stop_fd)
        else:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, GRACE_S)

    def _clean_up(self) -> None:
        if self.process:
            # The sandbox dies with bubblewrap; without one, what is left is among this process's children.
            self.process.kill()
            self.process.wait()
        while children := psutil.Process().children(recursive=True):
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(children)
        if self.group:
            self.group.kill()
            self.group.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    async def copy_log(self) -> None:
        """Copy what the server prints into its log, bounded in size and speed."""
        assert self.process is not None
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, self.process.stdout)
        handler = logging.handlers.RotatingFileHandler(self.spec.log, maxBytes=LOG_BYTES, backupCount=1)
        handler.terminator = ""
        with contextlib.closing(handler):
            while chunk := await reader.read(CHUNK_BYTES):
                handler.emit(logging.makeLogRecord({"msg": chunk.decode(errors="replace")}))
                await asyncio.sleep(len(chunk) / LOG_BYTES_PER_S)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(128)
    return listener


def _report(line: dict[str, Any]) -> None:
    """The one line for whoever launched this; it may be gone by now."""
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(line), flush=True)
    os.dup2(2, 1)


def main() -> int:
    folder = Path(sys.argv[1])
    os.umask(0o077)
    os.chdir(folder)
    try:
        return asyncio.run(Box(folder).run())
    except (OSError, cgroup.LimitsUnavailable) as error:
        _report({"error": f"the server could not be started: {error}"})
        return 1


if __name__ == "__main__":
    sys.exit(main())
