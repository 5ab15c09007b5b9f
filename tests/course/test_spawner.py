"""The Hub's spawner: whom it refuses, and the whole way with a real Hub, proxy and kernel."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import websocket

from distlab.course import box, cgroup, up
from distlab.course.box import State
from distlab.course.homes import FIRST_UID, INSTRUCTOR_UID
from distlab.course.processes import ProcessId
from distlab.course.sandbox import Problem, availability
from distlab.course.site import INSTRUCTORS, Site
from distlab.course.spawner import SandboxSpawner, SpawnRefused
from distlab.course.up import prepare_folders
from distlab.machine import free_port

REPOSITORY = Path(__file__).parents[2]
NO_SANDBOX = Problem("the program bwrap is not installed", "sudo apt-get install -y bubblewrap")
NO_LIMITS = Problem(
    "no control group here can hold limits: cgroup v1 [memory] is missing", "run the site as root"
)


def spawner_of(site: Site, name: str, *groups: str) -> SandboxSpawner:
    user = SimpleNamespace(name=name, id=7, groups=[SimpleNamespace(name=group) for group in groups])
    spawner = SandboxSpawner(site=site)
    spawner.user = user
    return spawner


@pytest.fixture
def site(tmp_path):
    made = Site(root=REPOSITORY, state=tmp_path / "var")
    prepare_folders(made)
    return made


def test_where_learners_cannot_be_kept_apart_only_the_first_is_served(site, caplog):
    for _ in range(2):
        spawner_of(site, "alice")._admit_unprotected(NO_LIMITS)
    spawner_of(site, "teacher", INSTRUCTORS)._admit_unprotected(NO_LIMITS)
    with pytest.raises(SpawnRefused, match="serves one alone, and another came first") as refused:
        spawner_of(site, "bob")._admit_unprotected(NO_LIMITS)
    # JupyterHub shows these two, on a page and from its API.
    message = refused.value.jupyterhub_message
    assert (refused.value.status_code, refused.value.log_message % refused.value.args) == (503, message)
    assert "THE SERVER OF alice IS NOT FULLY PROTECTED" in caplog.text
    assert "Refused a second learner, bob" in caplog.text
    assert "run the site as root" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="as root alone")
def test_root_never_runs_a_server_without_a_sandbox(site, caplog):
    with pytest.raises(SpawnRefused, match="can make no sandbox"):
        spawner_of(site, "alice")._spec(NO_SANDBOX, None)
    assert not (site.homes / "alice").exists()
    assert "install -y bubblewrap" in caplog.text


@pytest.mark.parametrize(("machine_gib", "server_gib"), [(4, 2), (12, 3), (24, 4)])
def test_a_server_has_a_quarter_of_the_memory_between_two_bounds(
    site: Site, monkeypatch: pytest.MonkeyPatch, machine_gib: int, server_gib: int
) -> None:
    memory = SimpleNamespace(total=machine_gib * 2**30)
    monkeypatch.setattr("distlab.course.spawner.psutil.virtual_memory", lambda: memory)
    assert spawner_of(site, "alice").mem_limit == server_gib * 2**30


@pytest.mark.parametrize(
    ("sandbox", "limits", "served"),
    [
        (NO_SANDBOX, None, "nobody is served" if os.geteuid() == 0 else "one learner alone is served"),
        (None, NO_LIMITS, "one learner alone is served"),
    ],
    ids=["no sandbox", "no limits"],
)
def test_whoever_starts_the_site_reads_what_is_not_protected(
    site, capsys, monkeypatch, sandbox, limits, served
):
    monkeypatch.setattr("distlab.course.sandbox.sandbox_problem", lambda: sandbox)
    monkeypatch.setattr("distlab.course.sandbox.limits_problem", lambda: limits)
    up._say_where(site)  # the last that `make up` prints, with and without DETACH=1
    shown = capsys.readouterr().err.splitlines()
    problem = sandbox or limits
    assert f"The course is on {site.url}" in shown
    assert f"Not protected, so that {served}: {problem.what}" in shown
    assert f"What helps: {problem.fix}" in shown


@pytest.mark.parametrize("name", ["../alice", "Alice", "a.b", "alice-", ""])
def test_a_name_that_is_no_folder_name_is_refused(site, name):
    with pytest.raises(SpawnRefused, match="cannot be one's name"):
        asyncio.run(spawner_of(site, name).start())


CONFIG = """
import os, sys
from distlab.course.site import Site
site = Site.from_env()
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "distlab.course.spawner.SandboxSpawner"
c.JupyterHub.bind_url = site.url
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['HUB_PORT']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['PROXY_PORT']}"
c.ConfigurableHTTPProxy.command = [str(site.root / "node_modules/.bin/configurable-http-proxy")]
c.ConfigurableHTTPProxy.pid_file = str(site.run / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{site.hub / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(site.hub / "cookie_secret")
c.JupyterHub.load_groups = {"instructors": {"users": ["teacher"]}}
c.JupyterHub.services = [
    {
        "name": "gate",
        "command": [sys.executable, "-m", "distlab.course.gate"],
        "environment": {**site.env(), "PATH": os.environ["PATH"]},
    }
]
"""


def until(question, what: str):
    """Ask again until the answer is true; it is returned."""
    for _ in range(600):
        with contextlib.suppress(requests.ConnectionError):
            if answer := question():
                return answer
        threading.Event().wait(0.1)
    raise AssertionError(f"never happened: {what}")


class Hub:
    """A real Hub with its proxy, on ports of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.config = site.var / "config.py"
        self.config.write_text(CONFIG)
        self.env = {
            **os.environ,
            **site.env(),
            "HUB_PORT": str(free_port()),
            "PROXY_PORT": str(free_port()),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.start()

    def start(self) -> None:
        with (self.site.log / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub", "-f", str(self.config)],
                env=self.env,
                stdout=log,
                stderr=log,
                cwd=self.site.hub,
                start_new_session=True,
            )
        until(lambda: requests.get(f"{self.site.url}/hub/api", timeout=5).ok, "the Hub answers")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def login(self, name: str) -> User:
        return User(self.site, name)


class User:
    """A signed-in browser's requests, with an API token of the user's own."""

    def __init__(self, site: Site, name: str) -> None:
        self.site, self.name = site, name
        browser = requests.Session()
        browser.get(f"{site.url}/hub/login", timeout=30)
        form = {"username": name, "password": "x", "_xsrf": browser.cookies["_xsrf"]}
        page = browser.post(f"{site.url}/hub/login?next=/hub/token", data=form, timeout=60)
        assert page.ok, page.text
        xsrf = next(c.value for c in browser.cookies if c.name == "_xsrf" and c.path == "/hub/")
        made = browser.post(
            f"{site.url}/hub/api/users/{name}/tokens",
            headers={"X-XSRFToken": xsrf, "Referer": f"{site.url}/hub/token"},
            timeout=30,
        )
        assert made.ok, made.text
        self.headers = {"Authorization": f"token {made.json()['token']}"}

    def api(self, method: str, path: str) -> requests.Response:
        answer = requests.request(method, f"{self.site.url}{path}", headers=self.headers, timeout=60)
        assert answer.ok, answer.text
        return answer

    def spawn(self) -> None:
        if not self._model()["ready"]:
            self.api("POST", f"/hub/api/users/{self.name}/server")
        until(lambda: self._model()["ready"], "the server is ready")

    def _model(self) -> dict:
        servers = self.api("GET", f"/hub/api/users/{self.name}").json()["servers"]
        return servers.get("", {"ready": False})

    def new_kernel(self) -> str:
        return self.api("POST", f"/user/{self.name}/api/kernels").json()["id"]

    def execute(self, kernel: str, code: str) -> str:
        """What the code printed."""
        url = f"{self.site.url}/user/{self.name}/api/kernels/{kernel}/channels".replace("http", "ws", 1)
        channel = websocket.create_connection(url, header=self.headers, timeout=60)
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}}
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": "s"}
        request = {"header": {**header, "version": "5.3"}, "parent_header": {}, "metadata": {}}
        channel.send(json.dumps({**request, "content": content, "channel": "shell"}))
        printed = ""
        with contextlib.closing(channel):
            while True:
                message = json.loads(channel.recv())
                if message["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                if message["msg_type"] == "stream":
                    printed += message["content"]["text"]
                if message["msg_type"] == "error":
                    printed += message["content"]["ename"]
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    return printed


@pytest.fixture
def hub(tmp_path):
    for problem in availability():
        pytest.skip(f"no sandbox with limits can be made here: {problem.what}")
    if not (REPOSITORY / "node_modules/.bin/configurable-http-proxy").exists():
        pytest.skip("configurable-http-proxy is not installed: npm ci")
    site = Site(root=REPOSITORY, port=free_port(), state=tmp_path / "var", host="127.0.0.1")
    prepare_folders(site)
    running = Hub(site)
    yield running
    running.stop()
    box.stop_all(site)


@pytest.mark.site
def test_a_kernel_survives_the_hub_and_nothing_survives_the_server(hub):
    alice = hub.login("alice")
    alice.spawn()
    kernel = alice.new_kernel()
    assert alice.execute(kernel, "kept = 40 + 2\nprint(kept)") == "42\n"
    folder = hub.site.boxes / "alice"
    supervisor = box.supervisor(folder)

    hub.process.send_signal(signal.SIGKILL)
    hub.process.wait()
    hub.start()

    alice = hub.login("alice")
    alice.spawn()
    assert box.supervisor(folder) == supervisor
    assert alice.execute(kernel, "print(kept)") == "42\n"

    group = cgroup.load(State.read(folder).group)
    inside = [ProcessId.of(pid) for pid in group.processes()]
    assert len(inside) >= 5
    alice.api("DELETE", "/hub/api/users/alice/server")
    until(lambda: not folder.exists(), "the box is removed")
    assert all(process.wait(20) for process in (supervisor, *inside) if process)
    assert group.processes() == []
    log = hub.site.log / "alice.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert "jupyterhub | extension was successfully loaded" in log.read_text()


@pytest.mark.site
def test_a_server_that_ended_is_noticed_and_can_be_started_again(hub):
    alice = hub.login("alice")
    alice.spawn()
    supervisor = box.supervisor(hub.site.boxes / "alice")
    supervisor.send(signal.SIGKILL)
    assert supervisor.wait(20)
    # The next request makes the Hub look, and it removes what was left.
    until(lambda: not alice._model()["ready"], "the Hub notices")
    alice.spawn()
    assert alice.execute(alice.new_kernel(), "print('again')") == "again\n"
    assert box.supervisor(hub.site.boxes / "alice") != supervisor


@pytest.mark.site
def test_only_an_instructor_sees_the_course(hub):
    (hub.site.course / "gradebook.db").write_text("marks")
    look = """
import os
print(os.getuid(), os.getcwd(), os.path.exists("/srv/course/gradebook.db"), os.path.isdir("/run/grader"))
print(os.environ["JUPYTER_CONFIG_PATH"].rsplit("/", 1)[1], os.environ["DISTLAB_EXCHANGE_URL"])
print([name for name in os.environ if "CONFIGPROXY" in name or "CRYPT" in name])
"""
    printed = {}
    for name in ("teacher", "bob"):
        user = hub.login(name)
        user.spawn()
        printed[name] = user.execute(user.new_kernel(), look).splitlines()
    exchange = "http://127.0.0.1:8082"
    root = os.geteuid() == 0
    assert printed["teacher"] == [
        f"{INSTRUCTOR_UID if root else os.geteuid()} /home/teacher True True",
        f"instructor {exchange}",
        "[]",
    ]
    uid, rest = printed["bob"][0].split(" ", 1)
    assert (int(uid) > FIRST_UID) if root else (int(uid) == os.geteuid())
    assert rest == "/home/bob False False"
    assert printed["bob"][1:] == [f"learner {exchange}", "[]"]
