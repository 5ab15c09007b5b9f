"""Start, stop and crash: nobody loses work, nothing is left behind, and nothing listens to the network."""

from __future__ import annotations

import ipaddress
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from distlab.course.site import Site
from distlab.course.up import running_hub
from tests.site.client import Learner, localhost_names
from tests.site.running import ROOT, distlab, fresh_site, make

pytestmark = pytest.mark.site
LAB = "mod-107-lab-3"
UP = [sys.executable, "-m", "distlab.cli", "course", "up"]
START_S = 300
"""For a first start, which releases every lab, on a machine that has other work."""


def processes_of(site: Site) -> list[psutil.Process]:
    """Every process that was started for this site, by its environment or its command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):  # which a failed assertion shows
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(site.var) in word for word in words):
            found.append(process)
    return found


def listeners_of(site: Site) -> set[tuple[str, int]]:
    """The TCP addresses of the host that the site's processes listen on."""
    return {
        tuple(connection.laddr)
        for process in processes_of(site)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def sockets_of(site: Site) -> list[Path]:
    return [path for path in site.run.rglob("*") if path.is_socket()]


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def enrol(site: Site, name: str) -> Learner:
    learner = Learner(site, name)
    learner.sign_up((site.secrets / "enrolment-code").read_text().strip())
    learner.log_in()
    return learner


def assert_nothing_is_left(site: Site) -> None:
    assert [process.info for process in processes_of(site)] == []
    assert sockets_of(site) == []
    assert is_free(site.port)


def test_a_killed_hub_loses_no_kernel_and_down_leaves_nothing(tmp_path: Path) -> None:
    """With the commands of the README, and in its order: up, up again, a crash, up, down."""
    site = fresh_site(tmp_path)
    try:
        up = make(site, "up", "DETACH=1")
        assert up.returncode == 0, up.stderr
        assert f"The course is on {site.url}" in up.stderr
        password = site.secrets / "instructor-password"
        assert f"password in {password}" in up.stderr
        assert password.stat().st_mode & 0o777 == 0o600
        hub, built = running_hub(site), (site.book / "html").resolve()
        assert hub is not None

        again = make(site, "up", "DETACH=1")
        assert again.returncode == 0, again.stderr
        assert f"already runs on {site.url}" in again.stderr
        assert running_hub(site) == hub

        with localhost_names():
            learner = enrol(site, "ada")
            learner.open_lab(LAB)
            kernel = learner.kernel()
            learner.execute(kernel, "answer = 6 * 7")

            hub.send(signal.SIGKILL)
            assert hub.wait(10)
            after_the_crash = make(site, "up", "DETACH=1")
            assert after_the_crash.returncode == 0, after_the_crash.stderr
            assert (site.book / "html").resolve() == built, "built again with nothing changed"
            assert learner.execute(kernel, "print(answer)") == "42\n"

            # The exchange is there again, too: a second lab visit goes through it.
            assert learner.open_lab(LAB).ok
        assert_all_listen_on_the_loopback(site, learners=1)
    finally:
        down = make(site, "down")
    assert down.returncode == 0
    assert "The site is stopped." in down.stderr
    assert_nothing_is_left(site)


def assert_all_listen_on_the_loopback(site: Site, learners: int) -> None:
    """The proxy on two ports, the Hub on one, and a relay for each learner's server."""
    hub = running_hub(site)
    assert hub is not None
    environment = psutil.Process(hub.pid).environ()
    known = {site.port, *(int(environment[f"DISTLAB_{name}_PORT"]) for name in ("HUB", "PROXY_API"))}
    listeners = listeners_of(site)
    assert known < {port for _, port in listeners}
    assert len(listeners) == len(known) + learners, listeners
    assert all(ipaddress.ip_address(address).is_loopback for address, _ in listeners), listeners


@pytest.mark.timeout(1500)  # four starts
def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """Once the site runs with a learner in it, and before that: while its Hub, or all of it, still starts."""
    site = fresh_site(tmp_path)
    with OnTerminal(site) as up:
        up.until_it_shows("Ctrl-C stops the site")
        with localhost_names():
            enrol(site, "grace").open_lab(LAB)
        assert up.stop(signal.SIGINT) == 0
    assert_nothing_is_left(site)

    with OnTerminal(site) as up:
        up.until_it_shows("Starting the Hub")
        assert up.stop(signal.SIGINT) == 0
    assert_nothing_is_left(site)

    with OnTerminal(site) as up:
        until((site.run / "proxy.pid").exists)
        assert up.stop(signal.SIGTERM) == 0
    assert_nothing_is_left(site)

    with OnTerminal(site, "--detach") as up:
        up.until_it_shows("Starting the site")
        assert up.stop(signal.SIGINT) == 130
    assert_nothing_is_left(site)


class OnTerminal:
    """`distlab course up` on a terminal of its own, where it shows its progress."""

    def __init__(self, site: Site, *options: str) -> None:
        self.site = site
        self.shown, self.news = b"", threading.Condition()
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [*UP, *options],
            cwd=ROOT,
            env={**os.environ, **site.env(), "TERM": "xterm"},
            stdin=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        """Take what it shows, so that it never waits for a reader."""
        chunk = b"at first"
        while chunk:
            try:
                chunk = os.read(self.terminal, 4096)
            except OSError:  # the other end is closed
                chunk = b""
            with self.news:
                self.shown += chunk
                self.news.notify()

    def until_it_shows(self, text: str) -> None:
        with self.news:
            assert self.news.wait_for(lambda: text.encode() in self.shown, START_S), self.shown[-1000:]

    def stop(self, signum: signal.Signals) -> int:
        """Signal as a terminal does, its whole foreground group; the exit status."""
        os.killpg(self.process.pid, signum)
        return self.process.wait(90)

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:  # the test has failed
            self.process.kill()
            self.process.wait()
            distlab(self.site, "course", "down")
        self.reader.join(10)
        os.close(self.terminal)


def until(question: Callable[[], bool]) -> None:
    """Ask again until it is so."""
    while not question():
        threading.Event().wait(0.05)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    site = fresh_site(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        up = distlab(site, "course", "up")
    assert up.returncode == 1
    assert f"port {site.port} of 127.0.0.1 cannot be used" in up.stderr
    assert f"make up PORT={site.port + 1}" in up.stderr
    assert processes_of(site) == []


def test_up_says_that_the_site_already_runs(site: Site) -> None:
    up = distlab(site, "course", "up")
    assert up.returncode == 0
    assert f"already runs on {site.url}" in up.stderr
