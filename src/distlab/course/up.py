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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape

from distlab.course.atomic import write_atomic
from distlab.course.processes import ProcessId
from distlab.course.site import Site
from distlab.machine import free_port

console = Console(stderr=True, highlight=False)

STARTUP_S = 60
"""How long the Hub may take to answer before `up` gives it up."""

STOP_S = 60
"""How long it may take to stop its learners' servers and itself before it is killed."""

STRAY_S = 5
"""The same for its proxy and its services, if it has left them behind."""

OF_A_HUB = "DISTLAB_HUB_PORT"
"""In the environment of the Hub, of its proxy and of its services, and of nothing else."""


class SiteError(Exception):
    """What keeps the site from starting, in one sentence, with the next step."""


def up(detach: bool = False) -> int:
    """Start the site on `http://localhost:$PORT` and stay until Ctrl-C.

    Args:
        detach: return once the site answers; `distlab course down` stops it.
    """
    site = Site.from_env()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what runs by now is ended as by Ctrl-C
    try:
        return _detached(site) if detach else _foreground(site)
    except SiteError as error:
        console.print(f"[red]distlab course up:[/] {escape(str(error))}", soft_wrap=True)
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


class Stop:
    """The wish to stop, by Ctrl-C or SIGTERM: noted, and passed on to the one process that `up` watches.

    An exception instead could come after that process's start and before the note of it, and leave it alone.
    """

    def __init__(self, patience_s: int = 0) -> None:
        """`patience_s`: how long the process may take before it is killed; 0: as long as it wants."""
        self.asked = False
        self.patience_s = patience_s
        self._watched: subprocess.Popen[bytes] | None = None
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, lambda *_: self.ask())
        signal.signal(signal.SIGALRM, lambda *_: self._kill())

    def watch(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        self._watched = process
        if self.asked:
            self._pass_on(process)
        return process

    def ask(self) -> None:
        """Only the first wish is passed on: the Hub would begin its clean-up a second time."""
        if not self.asked:
            self.asked = True
            if self._watched:
                self._pass_on(self._watched)

    def _pass_on(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        signal.alarm(self.patience_s)

    def _kill(self) -> None:
        if self._watched:
            self._watched.kill()

    def end(self) -> None:
        """Ask, and wait until the process is gone."""
        self.ask()
        if self._watched:
            self._watched.wait()
        signal.alarm(0)


def _detached(site: Site) -> int:
    prepare_folders(site)
    if _say_if_running(site):
        return 0
    log = site.log / "site.log"
    stop = Stop()
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
    stop.watch(child)
    if not console.is_terminal:
        console.print(f"Starting the site; its progress is in {_short(site, log)}")
    with console.status(f"Starting the site (progress in {_short(site, log)})"):
        while child.poll() is None:
            if not stop.asked and running_hub(site) is not None and answers(site):
                _say_where(site)
                return 0
            time.sleep(0.1)
    if stop.asked:
        console.print("The site is stopped.")
        return 130
    raise SiteError(f"it stopped while starting; {_short(site, log)} ends with:\n{_tail(log, begin)}")


def _foreground(site: Site) -> int:
    prepare_folders(site)
    with contextlib.ExitStack() as preparing:
        preparing.enter_context(_only_one(site))
        if _say_if_running(site):
            return 0
        prepare(site)
        return _serve(site, started=preparing.close)


def _serve(site: Site, started: Callable[[], None]) -> int:
    """Run the Hub until it ends; `started` is called once it answers."""
    stop = Stop(STOP_S)
    try:
        hub = stop.watch(_start_hub(site))
        _await_hub(site, hub, stop)
        started()
        if not stop.asked:
            _say_where(site)
            console.print("Ctrl-C stops the site." if console.is_terminal else "`make down` stops the site.")
        status = hub.wait()
    except BaseException:
        stop.end()
        sweep(site)
        raise
    signal.alarm(0)
    (site.run / "hub.json").unlink(missing_ok=True)
    if status == -signal.SIGKILL and not stop.asked:
        raise SiteError("the Hub was killed; learners' servers keep running, and `make up` takes them over.")
    sweep(site)
    console.print("The site is stopped.")
    return 0 if stop.asked or status == 0 or -status == signal.SIGTERM else 1


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
    from distlab.course.proved import prove
    from distlab.course.release import ReleaseError, release_all

    _end_strays(site)
    _claim_port(site)
    try:
        build_book(site)
        released = release_all(site, lambda lab: prove(site, lab, console), kept=_say_kept)
    except (BookError, ReleaseError) as error:
        raise SiteError(str(error)) from error
    if released:
        console.print(f"Released: {', '.join(released)}.")
    ensure_instructor(site)


def _say_kept(lab: str, error: Exception) -> None:
    console.print(
        f"[yellow]{lab} is not released again; learners keep the version that they have:[/] "
        f"{escape(str(error))}",
        soft_wrap=True,
    )


def _start_hub(site: Site) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **site.env(),
        OF_A_HUB: str(free_port()),
        "DISTLAB_PROXY_API_PORT": str(free_port()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        # A broken configuration file stops the process instead of being logged and ignored.
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
    }
    with _hub_log(site).open("ab") as out:
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(Path(__file__).with_name("jupyterhub_config.py"))],
            cwd=site.hub,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=environment,
        )
    return hub


def _hub_log(site: Site) -> Path:
    return site.log / "hub.log"


def _await_hub(site: Site, hub: subprocess.Popen[bytes], stop: Stop) -> None:
    """Note the Hub for `down`, and return when it answers or is to stop."""
    hub_id, up_id = ProcessId.of(hub.pid), ProcessId.of(os.getpid())
    if hub_id and up_id:
        state = dataclasses.asdict(State(hub_id, up_id, site.url))
        write_atomic(site.run / "hub.json", json.dumps(state).encode())
    deadline = time.monotonic() + STARTUP_S
    if not console.is_terminal:
        console.print("Starting the Hub.")
    with console.status("Starting the Hub"):
        while not (stop.asked or answers(site)):
            failed = hub.poll() is not None or time.monotonic() > deadline
            if failed and not stop.asked:
                log = _hub_log(site)
                where = _short(site, log)
                raise SiteError(f"the Hub did not start; the last lines of {where}:\n{_tail(log)}")
            time.sleep(0.1)


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


def sweep(site: Site) -> bool:
    """End what is left of the site after its Hub is gone; whether there was anything."""
    from distlab.course.box import stop_all

    left = [_end_strays(site), stop_all(site)]
    (site.run / "hub.json").unlink(missing_ok=True)
    for sockets in (site.site_sockets, site.grader_sockets):
        for path in sockets.glob("*.sock"):
            path.unlink(missing_ok=True)
    return any(left)


def _end_strays(site: Site) -> bool:
    """End the proxy and the services that a Hub left behind; whether there were any.

    A Hub that is stopped while it starts ends at once and takes nothing with it, not even a note of its proxy.
    """
    strays = [process for process in psutil.process_iter() if _is_of_a_hub(process, site)]
    for process in strays:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(strays, timeout=STRAY_S)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive)
    (site.run / "proxy.pid").unlink(missing_ok=True)
    return bool(strays)


def _is_of_a_hub(process: psutil.Process, site: Site) -> bool:
    try:
        environment = process.environ()
    except psutil.Error:  # another user's, or gone
        return False
    return OF_A_HUB in environment and environment.get("DISTLAB_VAR") == str(site.var)


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
    """Print the address, the way in, and what is not protected. Unwrapped: paths and commands are copied."""
    lines = [f"\nThe course is on [bold]{site.url}[/]"]
    password = site.secrets / "instructor-password"
    if password.exists():  # until the instructor chose another
        lines.append(f"Instructor: user [bold]instructor[/], password in {_short(site, password)}")
    lines.append(f"Learners sign up with the code in {_short(site, site.secrets / 'enrolment-code')}\n")
    for line in (*lines, *_unprotected()):
        console.print(line, soft_wrap=True)


def _unprotected() -> Iterator[str]:
    """What keeps learners from being kept apart on this machine, whom it serves therefore, and what helps."""
    from distlab.course.sandbox import limits_problem, sandbox_problem

    no_sandbox, no_limits = sandbox_problem(), limits_problem()
    served = "nobody is served" if no_sandbox and os.geteuid() == 0 else "one learner alone is served"
    for problem in filter(None, (no_sandbox, no_limits)):
        yield f"[yellow]Not protected, so that {served}:[/] {escape(problem.what)}"
        yield f"What helps: {escape(problem.fix)}\n"


def _short(site: Site, path: Path) -> Path:
    return path.relative_to(site.root) if path.is_relative_to(site.root) else path


def _tail(log: Path, begin: int = 0, lines: int = 15) -> str:
    """The last lines of a log, from byte `begin` on."""
    text = log.read_bytes()[begin:].decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
