"""A learner without a browser: signs up, logs in, opens a lab and runs code, over HTTP and websockets."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import requests
import websocket

from distlab.course.site import Site

_getaddrinfo = socket.getaddrinfo


@contextlib.contextmanager
def localhost_names() -> Iterator[None]:
    """Resolve `*.localhost` to the loopback, as browsers do and Debian's resolver does not."""

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return _getaddrinfo("127.0.0.1" if str(name).endswith("localhost") else host, *args, **kwargs)

    socket.getaddrinfo = resolve
    try:
        yield
    finally:
        socket.getaddrinfo = _getaddrinfo


class Learner:
    """One person's session with the site."""

    def __init__(self, site: Site, name: str, password: str = "a long enough passphrase") -> None:
        self.site, self.name, self.password = site, name, password
        self.http = requests.Session()
        self.server = f"http://{name}.{site.host}:{site.port}/user/{name}"

    def sign_up(self, code: str = "") -> requests.Response:
        return self._post_form(
            "/hub/signup",
            username=self.name,
            password=self.password,
            password_again=self.password,
            code=code,
        )

    def log_in(self, next_path: str = "") -> requests.Response:
        query = f"?next={next_path}" if next_path else ""
        return self._post_form(f"/hub/login{query}", username=self.name, password=self.password)

    def open_lab(self, lab: str, timeout_s: float = 120) -> requests.Response:
        """Follow *Open the lab* until the learner's own server answers; returns its page."""
        return self.open(f"distlab/open?lab={lab}", timeout_s)

    def open(self, page: str, timeout_s: float = 120) -> requests.Response:
        """A page of one's own server, which is started if it does not run."""
        deadline = time.monotonic() + timeout_s
        reply = self.http.get(f"{self.site.url}/hub/user-redirect/{page}")
        while urlsplit(reply.url).hostname == self.site.host:
            refused = not reply.ok or "/hub/login" in reply.url
            assert not refused, f"{reply.status_code} at {reply.url}: {_text(reply)}"
            assert time.monotonic() < deadline, f"{self.name}'s server did not start: {_text(reply)}"
            self._await_spawn(deadline)
            reply = self.http.get(f"{self.site.url}/hub/user-redirect/{page}")
        return reply

    def _await_spawn(self, deadline: float) -> None:
        """Read the Hub's own progress events until the server is ready."""
        with self.http.get(
            f"{self.site.url}/hub/api/users/{self.name}/server/progress",
            headers={"Referer": f"{self.site.url}/hub/spawn-pending/{self.name}"},
            stream=True,
            timeout=max(1.0, deadline - time.monotonic()),
        ) as events:
            for line in events.iter_lines():
                if line.startswith(b"data:"):
                    event = json.loads(line[5:])
                    assert not event.get("failed"), event
                    if event.get("ready"):
                        return

    def kernel(self) -> str:
        """Start a Python kernel; returns its id."""
        reply = self.http.post(f"{self.server}/api/kernels", json={"name": "python3"}, headers=self._xsrf())
        reply.raise_for_status()
        return str(reply.json()["id"])

    def execute(self, kernel: str, code: str, timeout_s: float = 60) -> str:
        """Run `code` and return what it printed; raises RuntimeError with its error."""
        host = urlsplit(self.server).netloc
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self._server_cookies())
        ws = websocket.create_connection(
            f"ws://{host}/user/{self.name}/api/kernels/{kernel}/channels",
            cookie=cookies,
            origin=f"http://{host}",
            timeout=timeout_s,
        )
        message_id = uuid.uuid4().hex
        header = {
            "msg_id": message_id,
            "msg_type": "execute_request",
            "username": "",
            "session": "s",
            "version": "5.3",
        }
        request = {
            "header": header,
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False, "store_history": False, "allow_stdin": False},
            "channel": "shell",
            "buffers": [],
        }
        ws.send(json.dumps(request))
        out = ""
        try:
            while True:
                message = json.loads(ws.recv())
                if message["parent_header"].get("msg_id") != message_id:
                    continue
                kind, body = message["msg_type"], message["content"]
                if kind == "stream":
                    out += body["text"]
                elif kind == "error":
                    raise RuntimeError("\n".join(body["traceback"]))
                elif kind == "status" and body["execution_state"] == "idle":
                    return out
        finally:
            ws.close()

    def _server_cookies(self) -> list[Any]:
        host = urlsplit(self.server).hostname or ""
        return [cookie for cookie in self.http.cookies if cookie.domain in (host, f"{host}.local")]

    def _xsrf(self) -> dict[str, str]:
        self.http.get(f"{self.server}/lab")
        tokens = [cookie.value for cookie in self._server_cookies() if cookie.name == "_xsrf"]
        return {"X-XSRFToken": tokens[-1]}

    def _post_form(self, path: str, **fields: str) -> requests.Response:
        page = self.http.get(f"{self.site.url}{path}")
        token = re.search(r'name="_xsrf"\s+value="([^"]+)"', page.text)
        assert token, f"no form at {page.url}: {_text(page)}"
        return self.http.post(f"{self.site.url}{path}", data={"_xsrf": token[1], **fields})


def _text(reply: requests.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"(?s)<(script|style).*?</\1>|<[^>]+>", " ", reply.text))[:400]
