"""From inside a learner's kernel at the real site: what of the site, the host and another learner it reaches."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import psutil
import pytest

from distlab.course import box, cgroup
from distlab.course.site import Site
from distlab.course.up import running_hub
from tests.course.test_sandbox import PROBE, SYSTEM_CALLS
from tests.site.client import Learner, localhost_names
from tests.site.running import ROOT

pytestmark = pytest.mark.site
LAB = "mod-107-lab-3"
INSIDE = "/run/distlab"

TRY = """
import json, os, subprocess, sys
def attempt(act, *arguments):
    try:
        act(*arguments)
    except OSError as error:
        return error.strerror
    return "ok"
def listening():
    rows = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
    return [int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A"]
inside, ours = listening(), [os.getpid()]
plan = json.loads(PLAN)
plan["tcp"] += [["127.0.0.1", port] for port in (8081, 8082)]
plan["signal"] += ours
probed = subprocess.run([sys.executable, "-c", PROBE, json.dumps(plan)], capture_output=True, text=True)
print(json.dumps({
    **json.loads(probed.stdout or json.dumps({"error": probed.stderr})),
    "inside": inside,
    "ours": ours,
    "namespaces": [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net", "mnt", "ipc")],
    "replace": [
        attempt(os.unlink, "/run/distlab/hub.sock"),
        attempt(os.rename, "/run/distlab/hub.sock", "/run/distlab/exchange.sock"),
        attempt(os.chmod, "/run/distlab", 0o777),
    ],
}))
"""
"""Run in the kernel with PLAN and PROBE before it: the probe, and what is at hand in there to compare with."""


@pytest.fixture(scope="module")
def learners(site: Site) -> tuple[Learner, Learner]:
    """Two learners with a server and a kernel each."""
    pair = Learner(site, "alice"), Learner(site, "bob")
    code = (site.secrets / "enrolment-code").read_text().strip()
    with localhost_names():
        for learner in pair:
            learner.sign_up(code)
            learner.log_in()
            learner.open_lab(LAB)
            learner.execute(learner.kernel(), f"open('answer', 'w').write('an answer of {learner.name}')")
    return pair


def test_a_learner_reaches_nothing_of_the_site_nor_of_another(
    site: Site, learners: tuple[Learner, Learner]
) -> None:
    hub = running_hub(site)
    assert hub is not None
    state = box.State.read(site.boxes / "bob")
    assert state is not None
    assert state.group is not None
    bobs = [state.supervisor.pid, *cgroup.load(state.group).processes()]
    assert len(bobs) >= 5
    paths = [*secrets_of(site), *(f"/proc/{pid}/environ" for pid in (hub.pid, *bobs))]
    sockets = [str(path) for path in site.run.rglob("*.sock")]
    assert {"hub.sock", "exchange.sock", "grader.sock", "server.sock"} <= {
        Path(path).name for path in sockets
    }
    ports = listening_ports()
    environment = psutil.Process(hub.pid).environ()
    named = {site.port, *(int(environment[f"DISTLAB_{name}_PORT"]) for name in ("HUB", "PROXY_API"))}
    (relay,) = (
        c.laddr.port
        for c in psutil.Process(state.supervisor.pid).net_connections("tcp")
        if c.status == "LISTEN"
    )
    assert {*named, relay} <= ports

    plan = {
        **SYSTEM_CALLS[platform.machine()],
        "read": ["/home/alice/answer", *paths, *sockets],
        "write": [f"{INSIDE}/probe", "/run/probe", "/home/bob/probe", "/srv/probe", f"{site.var}/probe"],
        "tcp": [[address, port] for address in addresses() for port in sorted(ports)],
        "unix": [f"{INSIDE}/hub.sock", f"{INSIDE}/exchange.sock", *sockets, *abstract_sockets()],
        "signal": [os.getpid(), hub.pid, *bobs],
    }
    seen = tried_by(learners[0], plan)

    # What it may do, so that a refusal below is one.
    assert seen["read"].pop("/home/alice/answer") == "ok"
    assert [seen["unix"].pop(f"{INSIDE}/{name}.sock") for name in ("hub", "exchange")] == ["ok", "ok"]
    assert [seen["tcp"].pop(f"['127.0.0.1', {port}]") for port in (8081, 8082)] == ["ok", "ok"]
    assert [seen["signal"].pop(str(pid)) for pid in seen["ours"]] == ["ok"]

    # Its own processes and its own ports may have the numbers of the host's.
    own_ports = {f"['127.0.0.1', {port}]" for port in seen["inside"]}
    own_pids, own_files = set(map(str, seen["pids"])), {f"/proc/{pid}/environ" for pid in seen["pids"]}
    refused = {
        "read": {path: result for path, result in seen["read"].items() if path not in own_files},
        "write": seen["write"],
        "tcp": {address: result for address, result in seen["tcp"].items() if address not in own_ports},
        "unix": seen["unix"],
        "signal": {pid: result for pid, result in seen["signal"].items() if pid not in own_pids},
    }
    reached = {
        kind: [what for what, result in tries.items() if result == "ok"] for kind, tries in refused.items()
    }
    assert reached == {kind: [] for kind in refused}
    assert {seen["read"][path] for path in secrets_of(site)} == {"FileNotFoundError"}
    assert set(seen["replace"]) == {"Read-only file system"}
    assert not [name for name in seen["environment"] if "CONFIGPROXY" in name or "CRYPT" in name]

    kinds = ("pid", "net", "mnt", "ipc")
    for pid in (os.getpid(), *bobs):
        assert not set(seen["namespaces"]) & {os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds}


def test_the_server_shows_telemetry_and_leads_to_no_port_of_its_sandbox(
    learners: tuple[Learner, Learner],
) -> None:
    alice, bob = learners
    with localhost_names():
        told = alice.http.get(f"{alice.server}/telemetry/api/boards").json()
        assert [board["id"] for board in told["boards"]] == ["fleet", "training", "cost", "gpu"]
        board = alice.http.get(f"{alice.server}/telemetry/api/board/fleet").json()
        assert "distlab observe up" in board["problem"]
        for way in (
            "proxy/8081",
            "proxy/localhost:8082",
            "proxy/absolute/127.0.0.1:8081",
            "proxy/10.0.0.1:80",
        ):
            assert alice.http.get(f"{alice.server}/{way}/hub/api/").status_code == 404, way
        # Another learner's page is another learner's.
        reply = bob.http.get(f"{alice.server}/telemetry/api/boards", allow_redirects=False)
        assert reply.status_code in (302, 403)
        seen = alice.execute(alice.kernel(), "import shutil; print(shutil.which('prometheus'))")
        assert seen.strip() == str(shutil.which("prometheus"))


def tried_by(learner: Learner, plan: dict[str, Any]) -> dict[str, Any]:
    """What came of the plan in a kernel of the learner's."""
    code = f"PLAN, PROBE = {json.dumps(plan)!r}, {PROBE!r}\n{TRY}"
    with localhost_names():
        seen: dict[str, Any] = json.loads(learner.execute(learner.kernel(), code, timeout_s=120))
    assert "error" not in seen, seen["error"]
    return seen


def secrets_of(site: Site) -> list[str]:
    """What lies on the host and is nobody's but the Hub's, the instructors' or bob's."""
    paths = [
        site.hub / "jupyterhub.sqlite",
        site.hub / "cookie_secret",
        *site.secrets.iterdir(),
        site.course / "gradebook.db",
        site.course / "source" / LAB / f"{LAB}.ipynb",
        site.homes / "bob" / "answer",
        site.exchange,
        site.log / "bob.log",
        ROOT / "solutions" / LAB / "lab.md",
        ROOT / "solutions",
        ROOT / "tests",
        Path.home() / ".bashrc",
    ]
    assert all(path.exists() for path in paths), [path for path in paths if not path.exists()]
    return [str(path) for path in (*paths, "/home/bob", "/run/grader", "/srv/course")]


def listening_ports() -> set[int]:
    """Every port of the host's that some program, of the site or not, accepts TCP connections on."""
    return {c.laddr.port for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN}


def addresses() -> list[str]:
    """The host's own IPv4 addresses."""
    return sorted(
        {
            address.address
            for interface in psutil.net_if_addrs().values()
            for address in interface
            if address.family.name == "AF_INET"
        }
    )


def abstract_sockets() -> list[str]:
    names = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines()[1:]}
    return sorted(name for name in names if name.startswith("@") and "\0" not in name and len(name) < 100)
