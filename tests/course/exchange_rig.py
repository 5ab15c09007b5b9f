"""A running exchange for the tests: the real service as a process, and a stand-in for the Hub's API."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from distlab.course.exchange.client import Client

LAB = "mod-107-lab-3"
LEARN, TEACH, REACH = "custom:exchange:learn", "custom:exchange:teach", "access:services!service=exchange"
SCOPES = {
    "alice": [LEARN, REACH],
    "bob": [LEARN, REACH],
    "teacher": [LEARN, TEACH, REACH],
    "stranger": [LEARN, TEACH],  # without access to the service
    "guest": [REACH],
    **{f"learner-{number}": [LEARN, REACH] for number in range(20)},
}
NOTEBOOK = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}


def token(user: str) -> str:
    return f"secret-token-of-{user}"


class HubApi(BaseHTTPRequestHandler):
    """`GET /hub/api/user`, as the Hub answers it."""

    def do_GET(self) -> None:
        known = {f"token {token(user)}": user for user in SCOPES}
        user = known.get(self.headers.get("Authorization", ""))
        if self.path != "/hub/api/user" or user is None:
            self.send_error(403)
            return
        body = json.dumps({"name": user, "kind": "user", "scopes": SCOPES[user]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


class Forwarder(socketserver.BaseRequestHandler):
    """What socat does in a sandbox: a loopback port that leads to the socket."""

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(str(self.server.target))  # type: ignore[attr-defined]
            back = threading.Thread(target=self.pump, args=(far, self.request))
            back.start()
            self.pump(self.request, far)
            back.join()

    @staticmethod
    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Rig:
    """The service and the ways to it. `url` is a loopback port, as inside a sandbox."""

    def __init__(self, folder: Path, hub_url: str, *options: str, wrap: tuple[str, ...] = ()) -> None:
        self.store, self.socket = folder / "exchange", folder / "run" / "exchange.sock"
        self.log = folder / "exchange.log"
        self.hub_url, self.options, self.wrap = hub_url, options, wrap
        self.url = ""
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "distlab.course.exchange", "--folder", str(self.store)]
        self.process = subprocess.Popen(
            [*self.wrap, *command, "--socket", str(self.socket), *self.options],
            env={
                **os.environ,
                "JUPYTERHUB_API_URL": self.hub_url,
                "JUPYTERHUB_API_TOKEN": "secret-token-of-the-service",
                "JUPYTERHUB_SERVICE_NAME": "exchange",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "listening on" in line:
                break
        else:
            raise AssertionError("the exchange did not start:\n" + "".join(lines))
        self._reader = threading.Thread(target=self._keep_log, args=(self.process.stderr, lines))
        self._reader.start()

    def _keep_log(self, stream: Iterator[str], lines: list[str]) -> None:
        with self.log.open("a") as log:
            log.writelines(lines)
            for line in stream:
                log.write(line)
                log.flush()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        self._reader.join()

    def reset(self) -> None:
        """As at the beginning: running, and with nothing stored."""
        assert self.process is not None
        if self.process.poll() is not None:
            self.start()
        for folder in ("outbound", "releases", "inbound", "feedback"):
            for path in (self.store / folder).iterdir():
                path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)

    def client(self, user: str) -> Client:
        return Client(self.url, token(user))

    def connection(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def ask(self, user: str, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """One request past the client's own checks; the status and the message."""
        connection = self.connection()
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"token {token(user)}"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["message"]
        return answer.status, text

    def tree(self) -> set[str]:
        """Every path below the store, but for the lock that guards the stages."""
        found: set[str] = set()
        for folder, folders, files in os.walk(self.store):  # which bears that a folder goes meanwhile
            found |= {str(Path(folder, name).relative_to(self.store)) for name in (*folders, *files)}
        return found - {"stage/lock"}


@contextlib.contextmanager
def running(folder: Path, *options: str, wrap: tuple[str, ...] = ()) -> Iterator[Rig]:
    """A service that is up, with the Hub's stand-in beside it and a loopback port before it."""
    hub = ThreadingHTTPServer(("127.0.0.1", 0), HubApi)
    rig = Rig(folder, f"http://127.0.0.1:{hub.server_port}/hub/api", *options, wrap=wrap)
    ports = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Forwarder)
    ports.target = rig.socket  # type: ignore[attr-defined]
    ports.daemon_threads = True
    rig.url = f"http://127.0.0.1:{ports.server_address[1]}"
    with serving(hub), serving(ports):
        rig.start()
        try:
            yield rig
        finally:
            assert rig.process is not None
            if rig.process.poll() is None:
                rig.stop()


def lab_folder(parent: Path, **files: str) -> Path:
    """A released lab's folder: the notebook, and what else is asked for."""
    folder = parent / LAB
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / f"{LAB}.ipynb").write_text(json.dumps(NOTEBOOK))
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
