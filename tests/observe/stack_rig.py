"""What the tests of the stack share: a receiver of alerts, and waiting for a condition."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from distlab.machine import LOOPBACK

T = TypeVar("T")

SCALE = 1 / 120
"""Of rules and routes: the 15 minutes for which an XID is new are then 7.5 s."""
INTERVAL_S = 0.5
EXPORT = ["--source", "simulated", "--scenario", "xid-79", "--gpus", "2", "--speed", "14", "--every", "0.2"]
"""GPU 1 is lost 3 s after the start, and back 8 s later."""


def until(look: Callable[[], T], what: str, within_s: float = 60) -> T:
    """The first answer that is something; fails where there is none in time."""
    deadline = time.monotonic() + within_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come within {within_s} s"
        time.sleep(0.05)
    return found


@dataclass
class Hook:
    """A webhook on the loopback that keeps what Alertmanager posts."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)

    def alerts(self, name: str, status: str) -> list[dict[str, Any]]:
        """All that came of an alert, as firing or as resolved."""
        every = [alert for post in self.posts for alert in post["alerts"]]
        return [one for one in every if one["labels"]["alertname"] == name and one["status"] == status]


@contextmanager
def hook() -> Iterator[Hook]:
    """Listens until the end."""
    kept = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.posts.append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    kept.url = f"http://{LOOPBACK}:{server.server_address[1]}/alerts"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
