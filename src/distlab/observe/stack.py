"""Prometheus, Alertmanager and the exporter on one machine, in one folder, that end together.

    distlab observe up                                     # GPUs of the driver, simulated ones without one
    distlab observe up --source simulated --scenario overheating --page-url http://127.0.0.1:8080/hook

Everything listens on the loopback alone. The folder keeps the time series and the logs; a second stack in it is
refused. Debian's packages: prometheus, prometheus-alertmanager (the latter without a web page of its own: alerts are
seen in Prometheus).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from distlab.errors import SettingError, WorkError, printable
from distlab.files import open_regular
from distlab.machine import LOOPBACK, free_port
from distlab.observe.rules import BOOK_URL, Receivers, write_config
from distlab.observe.scrape import NoAnswerError, fetch, fetch_json

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when the thread that started it ends."""
STARTUP_S = 60.0
STOP_S = 10.0
POLL_S = 0.1
RETENTION = ("15d", "1GB")
"""What Prometheus keeps at most: objectives look back three days."""
PACKAGES = "apt-get install prometheus prometheus-alertmanager"
FOLDER = Path("telemetry")
"""Where `distlab observe up` keeps what it collects."""
STATE = "stack.json"
"""In the folder, while the stack runs: its addresses, the fields of Addresses."""

_PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}


@dataclass(frozen=True)
class Addresses:
    """Where the parts of a stack answer."""

    exporter: str
    prometheus: str
    alertmanager: str


class StackFailedError(WorkError):
    """A part of the stack did not start, or ended by itself."""


class Stack:
    """The three processes, from `with` to its end. Start it in the main thread: they end with the thread.

    SettingError where a port is taken or the folder cannot be had; WorkError where a program is missing or fails.
    """

    def __init__(
        self,
        folder: Path,
        export_options: Sequence[str] = (),
        *,
        exporter_port: int | None = None,
        prometheus_port: int | None = None,
        alertmanager_port: int | None = None,
        receivers: Receivers | None = None,
        book_url: str = BOOK_URL,
        interval_s: float = 5,
        time_scale: float = 1.0,
    ) -> None:
        """export_options: of `distlab observe export`. Ports: None is a free one. interval_s: of scrapes and rules."""
        self.folder = folder.absolute()
        self.export_options = tuple(export_options)
        self.ports = {
            "exporter": exporter_port,
            "prometheus": prometheus_port,
            "alertmanager": alertmanager_port,
        }
        self.receivers = receivers
        self.book_url = book_url
        self.interval_s = interval_s
        self.time_scale = time_scale
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Stack:
        with contextlib.ExitStack() as begun:
            programs = {name: _program(*names) for name, names in _PROGRAMS.items()}
            begun.enter_context(_held(self.folder))
            ports = self._ports()
            self.addresses = Addresses(*(f"http://{LOOPBACK}:{ports[name]}" for name in ports))
            write_config(
                self.folder / "config",
                exporters=[f"{LOOPBACK}:{ports['exporter']}"],
                alertmanager=f"{LOOPBACK}:{ports['alertmanager']}",
                receivers=self.receivers,
                book_url=self.book_url,
                interval_s=self.interval_s,
                time_scale=self.time_scale,
                # The next stack in this folder may get another port, and its GPUs are the same ones.
                instance=socket.gethostname(),
            )
            begun.callback(self._stop)
            commands = self._commands(programs, ports)
            for name in ("exporter", "alertmanager"):
                self._start(name, commands[name])
            # Prometheus comes last: it would begin with an alert about what does not answer yet.
            self._await("exporter", lambda: fetch(self.addresses.exporter + "/metrics"))
            self._await("alertmanager", lambda: fetch(self.addresses.alertmanager + "/-/ready"))
            self._start("prometheus", commands["prometheus"])
            self._await("prometheus", self._scraped)
            state = self.folder / STATE
            begun.callback(state.unlink, missing_ok=True)
            with _written(state) as file:
                file.write(json.dumps(asdict(self.addresses)).encode())
            self._exit = begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def wait(self) -> None:
        """Until a part ends, which none does by itself: StackFailedError."""
        while all(process.poll() is None for process in self.processes.values()):
            time.sleep(POLL_S)
        name = next(name for name, process in self.processes.items() if process.poll() is not None)
        raise StackFailedError(self._failure(name, "ended"))

    def _ports(self) -> dict[str, int]:
        """One for each part, in the order of Addresses; those that were asked for have to be free."""
        ports = {}
        for name, port in self.ports.items():
            if port is not None:
                _claim(name, port)
            ports[name] = port or free_port()
        if len(set(ports.values())) < len(ports):
            raise SettingError(
                f"The ports {', '.join(map(str, ports.values()))} are not all different; change one."
            )
        return ports

    def _commands(self, programs: dict[str, str], ports: dict[str, int]) -> dict[str, list[str]]:
        config = self.folder / "config"
        age, size = RETENTION
        exporter = [sys.executable, "-m", "distlab.cli", "observe", "export", *self.export_options]
        return {
            "exporter": [*exporter, "--port", str(ports["exporter"])],
            "alertmanager": [
                programs["alertmanager"],
                f"--config.file={config / 'alertmanager.yml'}",
                f"--storage.path={self.folder / 'alertmanager'}",
                f"--web.listen-address={LOOPBACK}:{ports['alertmanager']}",
                "--cluster.listen-address=",  # else it listens on all addresses for other Alertmanagers
                "--log.level=warn",
            ],
            "prometheus": [
                programs["prometheus"],
                f"--config.file={config / 'prometheus.yml'}",
                f"--storage.tsdb.path={self.folder / 'prometheus'}",
                f"--storage.tsdb.retention.time={age}",
                f"--storage.tsdb.retention.size={size}",
                f"--web.listen-address={LOOPBACK}:{ports['prometheus']}",
                f"--web.external-url={self.addresses.prometheus}",
                "--log.level=warn",
            ],
        }

    def _start(self, name: str, command: list[str]) -> None:
        with _written(self._log(name)) as log:
            self.processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who stop them in order
                preexec_fn=ends_with(os.getpid()),
            )

    def _await(self, name: str, look: Callable[[], object]) -> None:
        deadline = time.monotonic() + STARTUP_S + self.interval_s
        while not _answers(look):
            if self.processes[name].poll() is not None:
                raise StackFailedError(self._failure(name, "did not start"))
            if time.monotonic() > deadline:
                raise StackFailedError(self._failure(name, "did not get ready in time"))
            time.sleep(POLL_S)

    def _scraped(self) -> None:
        """Is the first scrape in? NoAnswerError where it is not."""
        found = fetch_json(self.addresses.prometheus + "/api/v1/query?query=up==1")
        if not found["data"]["result"]:
            raise NoAnswerError("no scrape yet")

    def _failure(self, name: str, what: str) -> str:
        log = self._log(name)
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "nothing")
        return f"The {name} {what}; its log, {log}, ends with: {printable(last[:1000])}"

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _stop(self) -> None:
        """End all, Prometheus first: it would raise alerts about the others."""
        for process in reversed(self.processes.values()):
            process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            if process.poll() is None:
                process.kill()
                process.wait()


def addresses_in(folder: Path) -> Addresses | None:
    """The addresses of the stack that runs in `folder`, or None. One that was killed leaves its addresses there."""
    try:
        found = Addresses(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if all(isinstance(url, str) for url in vars(found).values()) else None


def _written(path: Path) -> IO[bytes]:
    """A file of the folder, opened anew. SettingError where it is a link, which may lead anywhere, or not ours."""
    try:
        return open_regular(path, "wb")
    except OSError as error:
        raise SettingError(
            f"Cannot write {path}: {error.strerror}; remove it, or name another folder."
        ) from None


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Make the folder, and keep others out of it; the system lifts the lock with the process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock: IO[str] = open_regular(folder / "lock", "a+", encoding="utf-8", errors="replace")
    except OSError as error:
        raise SettingError(f"Cannot write into {folder}: {error.strerror}; name another folder.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = printable(lock.read(20).strip()) or "unknown"
            raise SettingError(
                f"Process {who} runs a stack in {folder}; stop it first, or name another folder."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _program(*names: str) -> str:
    for name in names:
        # Debian keeps daemons where a normal user's PATH may not lead.
        path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
        if path:
            return path
    sudo = "" if os.geteuid() == 0 else "sudo "
    raise WorkError(f"{names[-1].capitalize()} is not installed; on Debian and Ubuntu: {sudo}{PACKAGES}")


def _claim(name: str, port: int) -> None:
    if not 0 < port < 65536:
        raise SettingError(f"The {name}'s port is {port}; give one from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise SettingError(
                f"Port {port}, for the {name}, cannot be used ({error.strerror}); "
                f"choose another, such as {free_port()}."
            ) from None


def ends_with(parent: int) -> Callable[[], None] | None:
    """For a child before it becomes another program: end when the parent does, however it ends (Linux only)."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # looked up here: little is safe between fork and exec

    def end_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return end_with_parent


def _answers(look: Callable[[], object]) -> bool:
    try:
        look()
    except NoAnswerError:
        return False
    return True
