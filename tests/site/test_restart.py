"""Start, stop and crash: nobody loses work, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distlab.course.site import Site
from distlab.course.up import running_hub
from tests.site.client import Learner, localhost_names
from tests.site.running import ROOT, distlab, fresh_site, running

pytestmark = pytest.mark.site
LAB = "mod-107-lab-3"


def processes_of(site: Site) -> list[str]:
    """Every process that was started for this site, by its environment or its command line."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(site.var) in word for word in words):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return found


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


def test_a_killed_hub_loses_no_kernel_and_down_leaves_nothing(tmp_path: Path) -> None:
    site = fresh_site(tmp_path)
    with localhost_names(), running(site):
        learner = enrol(site, "ada")
        learner.open_lab(LAB)
        kernel = learner.kernel()
        learner.execute(kernel, "answer = 6 * 7")

        hub = running_hub(site)
        assert hub is not None
        hub.send(signal.SIGKILL)
        assert hub.wait(10)
        again = distlab(site, "course", "up", "--detach")
        assert again.returncode == 0, again.stderr
        assert learner.execute(kernel, "print(answer)") == "42\n"

        # The exchange is there again, too: a second lab visit goes through it.
        assert learner.open_lab(LAB).ok
    assert processes_of(site) == []
    assert sockets_of(site) == []
    assert is_free(site.port)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    site = fresh_site(tmp_path)
    up = subprocess.Popen(
        [sys.executable, "-m", "distlab.cli", "course", "up"],
        cwd=ROOT,
        env={**os.environ, **site.env()},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert up.stderr is not None
    try:
        for line in up.stderr:
            if "Ctrl-C stops the site" in line:
                break
        with localhost_names():
            enrol(site, "grace").open_lab(LAB)
        os.killpg(up.pid, signal.SIGINT)
        assert up.wait(60) == 0
    finally:
        up.kill()
        distlab(site, "course", "down")
    assert processes_of(site) == []
    assert sockets_of(site) == []
    assert is_free(site.port)


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
