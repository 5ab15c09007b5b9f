"""One learner's server under its supervisor: reachable, limited, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import signal
import socketserver
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from distlab.course import box, cgroup
from distlab.course.box import Box, Spec, State
from distlab.course.cgroup import Limits
from distlab.course.homes import FIRST_UID
from distlab.course.processes import ProcessId
from distlab.course.sandbox import MIB, Mount, availability, base_env, python_mounts

UID = os.geteuid() or FIRST_UID + 1

SERVER = """
import http.server, json, os, subprocess, sys, urllib.request

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        code = self.rfile.read(int(self.headers["Content-Length"])).decode()
        scope = {}
        exec(code, scope)
        body = json.dumps(scope.get("answer")).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

print("serving", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def _possible():
    for problem in availability():
        pytest.skip(f"no sandbox with limits can be made here: {problem.what}")


class Upstream(http.server.BaseHTTPRequestHandler):
    """Stands for the Hub and the exchange: says which socket was asked for what."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{Path(self.server.server_address).name} {self.path}".encode())

    def address_string(self):
        return "unix"

    def log_message(self, *arguments):
        pass


@pytest.fixture
def site_sockets():
    with tempfile.TemporaryDirectory(dir="/tmp") as name, contextlib.ExitStack() as stack:
        os.chmod(name, 0o711)
        for socket_name in ("hub.sock", "exchange.sock"):
            server = socketserver.ThreadingUnixStreamServer(f"{name}/{socket_name}", Upstream)
            os.chmod(f"{name}/{socket_name}", 0o666)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        yield name


@pytest.fixture
def folder(tmp_path):
    """Deeper than a socket's address can name."""
    parent = tmp_path / ("deep" * 20) / "boxes"
    parent.mkdir(parents=True)
    box_folder = parent / "alice"
    yield box_folder
    box.stop(box_folder, now=True)
    while launched:
        launched.pop().wait(30)


launched: list[subprocess.Popen[bytes]] = []
"""Supervisors that the test has started; they end with their box."""


@pytest.fixture
def spec(tmp_path, site_sockets):
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    return Spec(
        user="alice",
        uid=UID,
        argv=(sys.executable, "-c", SERVER, "8888"),
        env=base_env("alice", "/home/alice"),
        cwd="/home/alice",
        log=str(tmp_path / "alice.log"),
        site_sockets=site_sockets,
        mounts=(*python_mounts(), Mount(str(home), "/home/alice", writable=True)),
        limits=Limits(256 * MIB, 2.0, 64),
    )


class Running:
    """A launched box, with what it started."""

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.process = box.launch(folder, spec)
        launched.append(self.process)
        line = self.process.stdout.readline()
        self.process.stdout.close()
        self.ready = json.loads(line)
        self.port = self.ready.get("port")
        state = State.read(folder)
        self.group = cgroup.load(state.group) if state and state.group else None

    def run(self, code: str):
        """Run code in the server, which may still be starting; its `answer`."""
        for _ in range(200):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                url = f"http://127.0.0.1:{self.port}/"
                return json.load(urllib.request.urlopen(url, code.encode(), timeout=60))
            if self.process.poll() is not None:
                raise ConnectionError("the supervisor ended")
            threading.Event().wait(0.1)
        raise AssertionError("the server never answered")

    def everything(self) -> list[ProcessId]:
        pids = [self.process.pid, *self.group.processes()]
        found = [ProcessId.of(pid) for pid in pids]
        assert len(found) >= 5
        return [process for process in found if process]

    def nothing_left(self, processes: list[ProcessId]) -> None:
        assert not [process for process in processes if not process.wait(20)]
        paths = [self.group.memory, self.group.cpu, self.group.pids] if self.group.kind == "v1" else []
        assert not [path for path in paths if Path(path).exists()]
        with pytest.raises(OSError, match=r"refused"):
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5)


def test_the_host_reaches_the_server_and_the_server_reaches_hub_and_exchange(folder, spec):
    running = Running(folder, spec)
    code = """
import urllib.request
answer = [urllib.request.urlopen(f"http://127.0.0.1:{port}/x").read().decode() for port in (8081, 8082)]
"""
    assert running.run(code) == ["hub.sock /x", "exchange.sock /x"]
    assert len(str(folder / "server.sock")) > 108
    names = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert names == {
        "spec.json": "0o600",
        "state.json": "0o600",
        "server.sock": "0o700",
        "sockets": "0o711",
    }
    assert box.supervisor(folder) == ProcessId.of(running.process.pid)


def test_one_server_cannot_use_up_the_connections_to_the_hub(folder, spec):
    code = f"""
import select, socket
def ask():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("/run/distlab/hub.sock")
    connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
    return connection
held = [ask() for _ in range({box.CONNECTIONS})]
answered = sum(connection.recv(100).startswith(b"HTTP/1.0 200") for connection in held)
waiting = ask()
early = bool(select.select([waiting], [], [], 0.2)[0])
held.pop().close()
answer = [answered, early, waiting.recv(100).decode()[:12]]
"""
    assert Running(folder, spec).run(code) == [box.CONNECTIONS, False, "HTTP/1.0 200"]


def test_files_in_the_home_do_not_take_the_place_of_modules(folder, spec, tmp_path):
    for name in ("asyncio.py", "socket.py", "distlab.py"):
        (tmp_path / "home" / name).write_text("raise SystemExit('planted')")
    argv = (spec.argv[0], "-P", *spec.argv[1:])
    assert Running(folder, Spec(**{**spec.__dict__, "argv": argv})).run("answer = 1") == 1


@pytest.mark.parametrize("how", ["stop", "stop now", "SIGTERM", "SIGINT", "server ends"])
def test_nothing_is_left_however_it_ends(folder, spec, how):
    running = Running(folder, spec)
    # A daemon that leaves its session behind.
    running.run("import os\nif os.fork() == 0:\n  os.setsid()\n  os.execvp('sleep', ['sleep', '600'])")
    processes = running.everything()
    if how == "server ends":
        with contextlib.suppress(OSError):
            running.run("import os; os._exit(3)")
    elif how.startswith("SIG"):
        running.process.send_signal(signal.Signals[how])
    else:
        box.stop(folder, now=how == "stop now")
    running.process.wait(30)
    running.nothing_left(processes)
    assert not folder.exists()
    if how == "server ends":
        assert running.process.returncode == 3


def test_a_killed_supervisor_takes_the_sandbox_along(folder, spec):
    running = Running(folder, spec)
    running.run("answer = 1")
    processes = running.everything()
    running.process.kill()
    assert all(process.wait(20) for process in processes)
    assert box.supervisor(folder) is None
    box.stop(folder)
    running.nothing_left(processes)
    assert not folder.exists()


def test_the_server_outlives_whoever_launched_it(folder, spec):
    launcher = f"""
import json, sys, time
from pathlib import Path
from distlab.course import box
folder = Path({str(folder)!r})
process = box.launch(folder, box.Spec.from_dict(json.loads(sys.stdin.read())))
print(process.stdout.readline().decode(), flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", launcher]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    parent.stdin.write(json.dumps(spec.to_dict()))
    parent.stdin.close()
    port = json.loads(parent.stdout.readline())["port"]
    running = Running.__new__(Running)
    state = State.read(folder)
    running.port, running.group, running.process = port, cgroup.load(state.group), parent
    running.run("import builtins; builtins.kept = 42")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    running.process = type("Gone", (), {"poll": lambda self: None, "pid": state.supervisor.pid})()
    assert running.run("import builtins; answer = builtins.kept") == 42
    processes = running.everything()
    box.stop(folder)
    running.nothing_left(processes)


def test_a_memory_hog_in_the_server_ends_no_one_else(folder, spec):
    running = Running(folder, spec)
    hog = """
import subprocess, sys
answer = subprocess.run([sys.executable, "-c", "b = bytearray(2**29)"]).returncode
"""
    assert running.run(hog) == -9
    assert running.run("answer = 'alive'") == "alive"


def test_a_fork_bomb_is_bounded_and_ended(folder, spec):
    running = Running(folder, spec)
    bomb = """
import os, time
answer = 0
while answer < 500:
    try:
        if os.fork() == 0:
            time.sleep(600)
    except OSError:
        break
    answer += 1
"""
    assert running.run(bomb) < 64
    processes = running.everything()
    assert len(processes) <= 65
    box.stop(folder, now=True)
    running.nothing_left(processes)


def test_what_cannot_start_says_why(folder, spec, tmp_path):
    missing = Mount(str(tmp_path / "missing"), "/srv/missing")
    running = Running(folder, Spec(**{**spec.__dict__, "mounts": (*spec.mounts, missing)}))
    assert running.process.wait(30) != 0
    assert "missing" in Path(spec.log).read_text()
    assert not folder.exists()


def test_the_log_is_private_and_bounded(folder, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(box, "LOG_BYTES", 10_000)
    monkeypatch.setattr(box, "LOG_BYTES_PER_S", 10_000_000)
    monkeypatch.chdir(tmp_path)
    folder.mkdir()
    box._write(folder / "spec.json", spec.to_dict())
    flooded = Box(folder)
    flooded.process = subprocess.Popen(
        [sys.executable, "-c", "for i in range(20000): print('line', i)"], stdout=subprocess.PIPE
    )
    before = os.umask(0o077)  # as `main` sets it
    try:
        asyncio.run(flooded.copy_log())
    finally:
        os.umask(before)
    flooded.process.wait()
    flooded.process.stdout.close()
    logs = sorted(path.name for path in tmp_path.glob("alice.log*"))
    assert logs == ["alice.log", "alice.log.1"]
    for name in logs:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert (tmp_path / name).stat().st_size <= 10_000 + box.CHUNK_BYTES
    assert (tmp_path / "alice.log").read_text().endswith("line 19999\n")


def test_without_a_sandbox_the_server_still_finds_hub_and_exchange(folder, spec, tmp_path):
    """What a single learner gets where no sandbox can be made: free ports of the host's."""
    env = {
        **os.environ,
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:8888/user/alice/",
        "JUPYTERHUB_API_URL": "http://127.0.0.1:8081/hub/api",
        "DISTLAB_EXCHANGE_URL": "http://127.0.0.1:8082",
    }
    port = "int(os.environ['JUPYTERHUB_SERVICE_URL'].split(':')[2].split('/')[0])"
    argv = (
        sys.executable,
        "-c",
        SERVER.replace("import http", "import os, http").replace("int(sys.argv[1])", port),
    )
    fields = {**spec.__dict__, "argv": argv, "env": env, "cwd": str(tmp_path), "protected": False}
    running = Running(folder, Spec(**fields))
    code = """
import os, urllib.request
urls = (os.environ["JUPYTERHUB_API_URL"], os.environ["DISTLAB_EXCHANGE_URL"] + "/x")
answer = [urllib.request.urlopen(url).read().decode() for url in urls]
if os.fork() == 0:
    os.setsid()
    os.execvp("sleep", ["sleep", "600"])
"""
    assert running.run(code) == ["hub.sock /hub/api", "exchange.sock /x"]
    processes = [ProcessId.of(pid) for pid in (running.process.pid, *running.group.processes())]
    assert len(processes) >= 3
    box.stop(folder)
    running.nothing_left(processes)


def test_a_reused_process_id_is_never_signalled():
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        right = ProcessId.of(sleeper.pid)
        wrong = ProcessId(right.pid, right.started + 1, right.boot)
        wrong.send(signal.SIGKILL)
        assert (wrong.alive(), wrong.wait(0)) == (False, True)
        assert (right.alive(), right.wait(0)) == (True, False)
        right.send(signal.SIGKILL)
        assert right.wait(20)
        assert not right.alive()  # a zombie counts as ended
    finally:
        sleeper.kill()
        sleeper.wait()
    right.send(signal.SIGKILL)
