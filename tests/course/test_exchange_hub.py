"""The exchange as a service that a real JupyterHub starts, with tokens that a real JupyterHub gave out."""

from __future__ import annotations

import contextlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from distlab.course.exchange.bundle import find_files
from distlab.course.exchange.client import Client, ClientError
from distlab.course.processes import ProcessId
from tests.course.exchange_rig import LAB, LEARN, REACH, TEACH, Forwarder, lab_folder, serving

ADMIN = "0123456789abcdef0123456789abcdef"
CONFIG = """
import sys
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    '''The Hub alone, asked at its own port.'''
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

c = get_config()
c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.JupyterHub.custom_scopes = {{scope: {{"description": scope}} for scope in ("{learn}", "{teach}")}}
c.JupyterHub.load_groups = {{"instructors": {{"users": ["teacher"]}}}}
c.Authenticator.allowed_users = {{"alice", "teacher"}}
c.JupyterHub.load_roles = [
    {{"name": "user", "scopes": ["self", "{reach}", "{learn}"]}},
    {{"name": "teach", "scopes": ["{teach}"], "groups": ["instructors"]}},
    {{"name": "tokens", "scopes": ["tokens", "list:users"], "services": ["test"]}},
]
c.JupyterHub.services = [
    {{"name": "test", "api_token": "{admin}"}},
    {{
        "name": "exchange",
        "command": [sys.executable, "-m", "distlab.course.exchange"],
        "environment": {{"DISTLAB_ROOT": "{folder}", "PATH": "{path}"}},
    }},
]
"""


class Hub:
    def __init__(self, url: str, process: subprocess.Popen[str], exchange: str) -> None:
        self.url, self.process, self.exchange = url, process, exchange
        self.http = requests.Session()
        self.http.headers["Authorization"] = f"token {ADMIN}"
        self.http.mount("http://", HTTPAdapter(max_retries=Retry(connect=10, backoff_factor=0.1)))

    def token(self, user: str, *scopes: str) -> str:
        answer = self.http.post(f"{self.url}/users/{user}/tokens", json={"scopes": scopes}, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def client(self, user: str, *scopes: str) -> Client:
        return Client(self.exchange, self.token(user, *scopes))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as unused:
        port = unused.server_address[1]
    config = tmp_path / "config.py"
    bin_folder = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    places = {"port": port, "folder": tmp_path, "path": bin_folder, "admin": ADMIN}
    config.write_text(CONFIG.format(**places, learn=LEARN, teach=TEACH, reach=REACH))
    ports = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forwarder)
    ports.target = tmp_path / "var/run/site/exchange.sock"  # type: ignore[attr-defined]
    ports.daemon_threads = True
    with subprocess.Popen(
        [sys.executable, "-m", "jupyterhub", "-f", str(config)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PATH": bin_folder},
    ) as process:
        assert process.stderr is not None
        drain = threading.Thread(target=process.stderr.read)
        try:
            waiting = {"JupyterHub is now running", "Exchange in "}
            seen = []
            while waiting and (line := process.stderr.readline()):
                seen.append(line)
                waiting -= {text for text in waiting if text in line}
            assert not waiting, "".join(seen)
            drain.start()
            with serving(ports):
                yield Hub(
                    f"http://127.0.0.1:{port}/hub/api",
                    process,
                    f"http://127.0.0.1:{ports.server_address[1]}",
                )
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(30)
            if drain.ident:
                drain.join()


@pytest.mark.site
def test_tokens_and_scopes_of_a_real_hub(hub: Hub, tmp_path: Path) -> None:
    files, _ = find_files(lab_folder(tmp_path / "made"))
    teacher, alice = hub.client("teacher", REACH, LEARN, TEACH), hub.client("alice", REACH, LEARN)
    with pytest.raises(ClientError, match="alice may not do this; it needs the scope custom:exchange:teach"):
        alice.release(LAB, files, replace=False)
    teacher.release(LAB, files, replace=False)
    receipt = alice.submit(LAB, files, None)
    assert receipt["user"] == "alice"
    assert [kept["user"] for kept in teacher.submissions()] == ["alice"]
    assert teacher.submissions(user="teacher") == []

    # A token may carry less than its owner has; a user cannot ask for more than they have.
    with pytest.raises(ClientError, match="may see only their own submissions"):
        hub.client("teacher", REACH, LEARN).submissions(user="alice")
    with pytest.raises(ClientError, match="Your account may not use the exchange"):
        hub.client("alice", LEARN).assignments()
    with pytest.raises(ClientError, match="does not know your server's token"):
        Client(hub.exchange, "0" * 32).assignments()
    answer = hub.http.post(f"{hub.url}/users/alice/tokens", json={"scopes": [TEACH]}, timeout=30)
    assert answer.status_code == 400
    with pytest.raises(ClientError, match="Your account may not use the exchange"):
        Client(hub.exchange, ADMIN).assignments()  # a service is no user

    # The exchange ends with the Hub, however that ends.
    (service,) = [
        pid
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc")))
        if is_child(pid, hub.process.pid) and b"distlab.course.exchange" in command_of(pid)
    ]
    exchange = ProcessId.of(service)
    assert exchange is not None
    hub.process.kill()
    assert exchange.wait(30)


def is_child(pid: int, parent: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent
    return False


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
