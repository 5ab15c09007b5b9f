"""Start and stop the site: `distlab course up`, `distlab course down`.

The Hub runs as a child in a session of its own. Ctrl-C asks it to stop its learners' servers, services and
proxy, and a last sweep ends whatever a crash had left. A Hub that is killed outright leaves the learners'
servers running, and the next `up` takes them over again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console

from distlab.course.atomic import write_atomic
from distlab.course.processes import ProcessId
from distlab.course.site import Site
from distlab.machine import free_port

console = Console(stderr=True, highlight=False)

STARTUP_S = 60
"""How long the Hub may take to answer before `up` gives it up."""

STOP_S = 60
"""How long it may take to stop its learners' servers and itself before it is killed."""


class SiteError(Exception):
    """What keeps the site from starting, in one sentence, with the next step."""


def up(detach: bool = False) -> int:
    """Start the site on `http://localhost:$PORT` and stay until Ctrl-C.

    Args:
        detach: return once the site answers; `distlab course down` stops it.
    """
    site = Site.from_env()
    try:
        return _detached(site) if detach else _foreground(site)
    except SiteError as error:
        console.print(f"[red]distlab course up:[/] {error}")
        return 1


def down() -> int:
    """Stop the site and everything that belongs to it."""
    site = Site.from_env()
    state = _state(site)
    if state is not None:
        state.hub.send(signal.SIGTERM)
        for process in (state.hub, state.up):  # `up` sweeps too, and must not find a newer site there
            if not process.wait(STOP_S):
                process.send(signal.SIGKILL)
    swept = sweep(site)
    console.print("The site is stopped." if state or swept else "The site is not running.")
    return 0


@dataclass(frozen=True)
class State:
    """What runs: the Hub, the `up` that waits for it, and the address."""

    hub: ProcessId
    up: ProcessId
    url: str


def _state(site: Site) -> State | None:
    """The state that the last `up` left; its processes may be gone."""
    try:
        raw = json.loads((site.run / "hub.json").read_text())
    except FileNotFoundError:
        return None
    return State(ProcessId(**raw["hub"]), ProcessId(**raw["up"]), raw["url"])


def running_hub(site: Site) -> ProcessId | None:
    """The Hub of this installation, if it runs."""
    state = _state(site)
    return state.hub if state and state.hub.alive() else None


def _detached(site: Site) -> int:
    prepare_folders(site)
    if _say_if_running(site):
        return 0
    log = site.log / "site.log"
    with log.open("ab") as out:
        begin = out.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "distlab.cli", "course", "up"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={**os.environ, **site.env()},
        )
    if not console.is_terminal:
        console.print(f"Starting the site; its progress is in {_short(site, log)}")
    with console.status(f"Starting the site (progress in {_short(site, log)})"):
        while child.poll() is None:
            if running_hub(site) is not None and answers(site):
                _say_where(site)
                return 0
            time.sleep(0.1)
    raise SiteError(f"it stopped while starting; {_short(site, log)} ends with:\n{_tail(log, begin)}")


def _foreground(site: Site) -> int:
    prepare_folders(site)
    with _only_one(site):
        if _say_if_running(site):
            return 0
        prepare(site)
        hub = _start_hub(site)
    _say_where(site)
    console.print("Ctrl-C stops the site.")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        hub.terminate()
        signal.alarm(STOP_S)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    signal.signal(signal.SIGALRM, lambda *_: hub.kill())
    status = hub.wait()
    signal.alarm(0)
    (site.run / "hub.json").unlink(missing_ok=True)
    if status == -signal.SIGKILL and not stopping:
        raise SiteError("the Hub was killed; learners' servers keep running, and `make up` takes them over.")
    sweep(site)
    console.print("The site is stopped.")
    return 0 if stopping or status == 0 or -status == signal.SIGTERM else 1


def prepare_folders(site: Site) -> None:
    """Make `var/` and its folders, with their modes whatever the umask is."""
    private = (site.hub, site.secrets, site.run, site.log, site.boxes, site.course, site.exchange)
    # The users of sandboxes pass through these, and list none of them.
    passable = (site.var, site.site_sockets, site.grader_sockets, site.homes)
    for mode, folders in ((0o711, passable[:1]), (0o700, private), (0o711, passable[1:])):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)


def prepare(site: Site) -> None:
    """Bring everything that the Hub serves up to date: book, labs, the instructor's account."""
    from distlab.course.accounts.store import ensure_instructor
    from distlab.course.book import BookError, build_book
    from distlab.course.release import ReleaseError, release_all

    stop_proxy(site)
    _claim_port(site)
    try:
        build_book(site)
        release_all(site)
    except (BookError, ReleaseError) as error:
        raise SiteError(str(error)) from error
    ensure_instructor(site)


def _start_hub(site: Site) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **site.env(),
        "DISTLAB_HUB_PORT": str(free_port()),
        "DISTLAB_PROXY_API_PORT": str(free_port()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # A broken configuration file stops the process instead of being logged and ignored.
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
    }
    log = site.log / "hub.log"
    with log.open("ab") as out:
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(Path(__file__).with_name("jupyterhub_config.py"))],
            cwd=site.hub,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=environment,
        )
    hub_id, up_id = ProcessId.of(hub.pid), ProcessId.of(os.getpid())
    if hub_id and up_id:
        state = dataclasses.asdict(State(hub_id, up_id, site.url))
        write_atomic(site.run / "hub.json", json.dumps(state).encode())
    deadline = time.monotonic() + STARTUP_S
    try:
        with console.status("Starting the Hub"):
            while not answers(site):
                if hub.poll() is not None or time.monotonic() > deadline:
                    where = _short(site, log)
                    raise SiteError(f"the Hub did not start; the last lines of {where}:\n{_tail(log)}")
                time.sleep(0.1)
    except BaseException:
        hub.terminate()
        hub.wait()
        sweep(site)
        raise
    return hub


def answers(site: Site) -> bool:
    """Whether the Hub answers at the site's address."""
    address = "127.0.0.1" if site.bind == "0.0.0.0" else site.bind
    try:
        with urllib.request.urlopen(f"http://{address}:{site.port}/hub/api/", timeout=2) as reply:
            return bool(json.load(reply).get("version"))
    except (OSError, ValueError):
        return False


def _claim_port(site: Site) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((site.bind, site.port))
        except OSError as error:
            raise SiteError(
                f"port {site.port} of {site.bind} cannot be used ({error.strerror}): "
                f"choose another, for example `make up PORT={site.port + 1}`."
            ) from error


def stop_proxy(site: Site) -> bool:
    """Stop a proxy that a killed Hub left behind; whether there was one."""
    pid_file = site.run / "proxy.pid"
    stopped = False
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        proxy = psutil.Process(int(pid_file.read_text()))
        if any("configurable-http-proxy" in part for part in proxy.cmdline()):
            proxy.terminate()
            try:
                proxy.wait(timeout=5)
            except psutil.TimeoutExpired:
                proxy.kill()
            stopped = True
    pid_file.unlink(missing_ok=True)
    return stopped


def sweep(site: Site) -> bool:
    """End what is left of the site after its Hub is gone; whether there was anything."""
    from distlab.course.box import stop_all

    left = [stop_proxy(site), stop_all(site)]
    (site.run / "hub.json").unlink(missing_ok=True)
    for sockets in (site.site_sockets, site.grader_sockets):
        for path in sockets.glob("*.sock"):
            path.unlink(missing_ok=True)
    return any(left)


@contextlib.contextmanager
def _only_one(site: Site) -> Iterator[None]:
    """Hold off a second `up` while one prepares; the lock goes with the process, however it ends."""
    with (site.run / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SiteError("another `make up` is preparing this site; wait for it to finish.") from error
        yield


def _say_if_running(site: Site) -> bool:
    state = _state(site)
    if state is None or not state.hub.alive():
        return False
    console.print(
        f"The site already runs on [bold]{state.url}[/] (process {state.hub.pid}); `make down` stops it."
    )
    return True


def _say_where(site: Site) -> None:
    console.print(f"\nThe course is on [bold]{site.url}[/]")
    password = site.secrets / "instructor-password"
    if password.exists():  # until the instructor chose another
        console.print(f"Instructor: user [bold]instructor[/], password in {_short(site, password)}")
    console.print(f"Learners sign up with the code in {_short(site, site.secrets / 'enrolment-code')}\n")


def _short(site: Site, path: Path) -> Path:
    return path.relative_to(site.root) if path.is_relative_to(site.root) else path


def _tail(log: Path, begin: int = 0, lines: int = 15) -> str:
    """The last lines of a log, from byte `begin` on."""
    text = log.read_bytes()[begin:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
