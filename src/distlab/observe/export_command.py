"""distlab observe export                                       # then http://127.0.0.1:9400/metrics
distlab observe export --follow runs/fsdp_2gpu --budget fsdp_2gpu=5
distlab observe export --source recorded --loop --port 9401
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import socketserver
import sys
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from distlab.errors import SettingError
from distlab.machine import LOOPBACK
from distlab.observe.cost import read_budgets
from distlab.observe.exporter import Exporter
from distlab.observe.exposition import CONTENT_TYPE
from distlab.observe.open import SourceArgs
from distlab.observe.ports import EXPORTER_PORT
from distlab.observe.runs import Runs
from distlab.observe.sample import Source
from distlab.predict.hardware.prices import read_prices

IDLE_S = 60
"""After which a connection that asks nothing is closed."""

_HOME = (
    b"<!doctype html><meta charset=utf-8><title>distlab exporter</title>"
    b'<p>GPUs, training runs and their cost for Prometheus: <a href="/metrics">/metrics</a>.</p>\n'
)

_REFUSAL = (
    b"On the loopback, this exporter answers as localhost or 127.0.0.1 alone; ask under one of these, or let it serve "
    b"another address with --bind.\n"
)


def export(
    source: SourceArgs,
    port: int = EXPORTER_PORT,
    bind: str = LOOPBACK,
    runs: Path | None = None,
    prices: Path | None = None,
    provider: str | None = None,
    budget: tuple[str, ...] = (),
    every: float = 1.0,
) -> int:
    """Serve what GPUs do, what runs make and what they cost to Prometheus, until Ctrl-C.

    Args:
        source: where GPUs are read.
        port: where to serve; 0 takes one that is free.
        bind: address to serve at. Any other than the loopback shows names of runs and jobs to whoever reaches it.
        runs: folder whose runs are followed; it need not exist yet. That of --follow, else runs/. Machines with GPUs
            may share one: each shows the runs whose first rank it has.
        prices: a table of prices in place of distlab's, in the same form.
        provider: whose prices are taken; the first of the table's rows that fits, without one.
        budget: what each run may cost: 50, or NAME=50 for one of them.
        every: seconds between two readings.
    """
    if not 0.1 <= every <= 60:
        raise SettingError(f"--every is {every:g}; choose 0.1 to 60 seconds.")
    table, budgets = read_prices(prices).of(provider), read_budgets(budget)
    opened = source.open()
    follow = None if source.follow is None else Path(source.follow)
    runs = runs or (follow.parent if follow else Path("runs"))
    exporter = Exporter(
        _first(opened, source.open), opened.tier, Runs(runs), table, budgets, period_s=every, follow=follow
    )
    with listen(bind, port, exporter.page) as server, exporter:
        host, taken = server.server_address[:2]
        print(
            f"Serving {opened.tier} GPUs and {runs} at http://{_shown(str(host))}:{taken}/metrics; Ctrl-C ends it.",
            flush=True,
        )
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.5)
    return 0


def _first(opened: Source, opener: Callable[[], Source]) -> Callable[[], Source]:
    """The source that is open already, and a new one each time after that."""
    left = [opened]
    return lambda: left.pop() if left else opener()


def listen(bind: str, port: int, page: Callable[[], bytes]) -> ThreadingHTTPServer:
    """A server that answers /metrics with `page`. SettingError where the address cannot be had.

    On the loopback it answers under the loopback's own names alone: another may be that of somebody's page, which had
    it resolved to this machine so that a browser here reads the metrics for it.
    """
    try:
        address = ipaddress.ip_address(bind)
    except ValueError:
        raise SettingError(f"--bind is {bind!r}; expected an address such as 127.0.0.1 or 0.0.0.0.") from None
    if not 0 <= port < 2**16:
        raise SettingError(f"--port is {port}; choose 1 to 65535, or 0 for one that is free.")

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        daemon_threads = True

        def server_bind(self) -> None:
            """Without the look at DNS that the base class takes."""
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Whoever asked has gone, which is no news; anything else is."""
            if not isinstance(sys.exception(), ConnectionError | TimeoutError):
                super().handle_error(request, client_address)

    class Handler(_Handler):
        metrics = staticmethod(page)
        own_names_alone = address.is_loopback

    try:
        return Server((str(address), port), Handler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is taken: end what listens there (another exporter?), or choose another with --port"
        elif error.errno == errno.EACCES:
            why = "is not for this user: choose one above 1023 with --port"
        elif error.errno == errno.EADDRNOTAVAIL:
            why = "is not of this machine: choose an address that is with --bind"
        else:
            why = f"cannot be had: {error.strerror}"
        raise SettingError(f"Port {port} at {bind} {why}.") from None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    # Head and body in one packet: the other side's delayed acknowledgement would cost 40 ms.
    wbufsize = -1
    disable_nagle_algorithm = True
    metrics: Callable[[], bytes]
    own_names_alone: bool

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if self.own_names_alone and not all(map(_is_loopback, self.headers.get_all("Host", ()))):
            self._answer(403, "text/plain; charset=utf-8", _REFUSAL)
        elif path == "/metrics":
            self._answer(200, CONTENT_TYPE, type(self).metrics())
        elif path == "/":
            self._answer(200, "text/html; charset=utf-8", _HOME)
        else:
            self._answer(404, "text/plain; charset=utf-8", b"There is /metrics.\n")

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news."""


def _is_loopback(host: str) -> bool:
    """Is the Host of a request, with a port or without, a name of the loopback?"""
    name = re.sub(r":\d*$", "", host.strip()) if host.count(":") == 1 or "]" in host else host.strip()
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
