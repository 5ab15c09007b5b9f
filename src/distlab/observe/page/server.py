"""`distlab observe page`: the panels, live, in a browser; Prometheus is asked through this server.

    distlab observe page                              # http://127.0.0.1:9480, of the Prometheus on this machine

It answers on the loopback or on a Unix socket alone. It asks Prometheus the panels' own queries, by the panel's name:
no PromQL of the browser's, and nothing of Prometheus' that changes anything, passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.web import Application, HTTPError, RequestHandler

from distlab.errors import SettingError, WorkError
from distlab.machine import LOOPBACK
from distlab.observe.page.answers import RANGES_S, board_now
from distlab.observe.page.prometheus import Prometheus
from distlab.observe.panels import DASHBOARDS
from distlab.observe.panels.fleet import ALERTS
from distlab.observe.panels.panel import Dashboard, Panel
from distlab.observe.ports import PROMETHEUS_URL
from distlab.observe.rules import BOOK_URL
from distlab.observe.stack import FOLDER, addresses_in

PORT = 9480
REFRESH_S = 5
STATIC = Path(__file__).with_name("static")
FILES = {
    "": ("index.html", "text/html"),
    "page.js": ("page.js", "text/javascript"),
    "chart.js": ("chart.js", "text/javascript"),
    "bodies.js": ("bodies.js", "text/javascript"),
    "format.js": ("format.js", "text/javascript"),
    "page.css": ("page.css", "text/css"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
LOOPBACK_NAMES = ("localhost", LOOPBACK, "[::1]")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors {frames}"
)
ANY_LOOPBACK = "'self' http://localhost:* http://127.0.0.1:*"
"""Who may show the page in a frame: a notebook on this machine, whose server has another port."""


class Telemetry(RequestHandler):
    """What all answers have in common. `hosts` None: whoever put the server behind something checks names."""

    def initialize(
        self, prometheus: Prometheus, book_url: str, hosts: tuple[str, ...] | None, frames: str
    ) -> None:
        self.prometheus, self.book_url, self.hosts = prometheus, book_url, hosts
        self.set_header("Content-Security-Policy", POLICY.format(frames=frames))

    def set_default_headers(self) -> None:
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header("Cache-Control", "no-cache")

    def prepare(self) -> Any:
        """Refuse a name that somebody else's page had resolved to this machine."""
        name = (
            self.request.host.rsplit(":", 1)[0] if not self.request.host.endswith("]") else self.request.host
        )
        if self.hosts is not None and name not in self.hosts:
            raise HTTPError(403, reason=f"This page answers as {self.hosts[0]} alone")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish({"problem": self._reason})


class Files(Telemetry):
    """The page itself."""

    def get(self, name: str) -> None:
        if name not in FILES:
            raise HTTPError(404)
        file, kind = FILES[name]
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.finish((STATIC / file).read_bytes())


class Boards(Telemetry):
    """What there is to show."""

    def get(self) -> None:
        boards = [_told(board, self.book_url) for board in DASHBOARDS]
        self.finish({"boards": boards, "ranges_s": RANGES_S, "refresh_s": REFRESH_S})


class BoardNow(Telemetry):
    """One dashboard's panels with their data."""

    async def get(self, name: str) -> None:
        board = next((board for board in DASHBOARDS if board.id == name), None)
        if board is None:
            raise HTTPError(404, reason="There is no such dashboard")
        arguments = {key: self.get_query_argument(key) for key in self.request.query_arguments}
        range_s = arguments.pop("range", str(RANGES_S[1]))
        try:
            if not range_s.isdecimal() or len(range_s) > 9:
                raise SettingError(f"The range {range_s[:20]!r} is no number of seconds.")
            answer = await board_now(self.prometheus, board, int(range_s), arguments)
            for series in answer.get("panels", {}).get(ALERTS.id, {}).get("series", []):
                # Our rules name a runbook by its place in the book.
                if series.get("runbook", "").startswith("/"):
                    series["runbook"] = self.book_url + series["runbook"]
            self.finish(answer)
        except SettingError as error:
            self.set_status(400)
            self.finish({"problem": str(error)})


def _told(board: Dashboard, book_url: str) -> dict[str, Any]:
    return {
        "id": board.id,
        "title": board.title,
        "description": board.description,
        "variables": [{"name": v.name, "title": v.title} for v in board.variables],
        "panels": [_panel_told(panel, book_url) for panel in board.panels],
    }


def _panel_told(panel: Panel, book_url: str) -> dict[str, Any]:
    return {
        "id": panel.id,
        "title": panel.title,
        "description": panel.description,
        "kind": panel.kind,
        "wide": panel.wide,
        "unit": panel.unit,
        "queries": [
            {"expr": q.expr, "legend": q.legend, "unit": q.unit or panel.unit} for q in panel.queries
        ],
        "thresholds": [{"value": t.value, "state": t.state, "do": t.do} for t in panel.thresholds],
        "bad": panel.bad,
        "minimum": panel.minimum,
        "maximum": panel.maximum,
        "keys": panel.keys,
        "leads_to": panel.leads_to,
        "runbook": f"{book_url}{panel.runbook_path}" if panel.runbook is not None else None,
        "empty": panel.empty,
    }


def handlers(
    prometheus: Prometheus,
    *,
    prefix: str = "",
    book_url: str = BOOK_URL,
    hosts: Iterable[str] | None = LOOPBACK_NAMES,
    frames: str = ANY_LOOPBACK,
    mixin: type | None = None,
) -> list[tuple[Any, ...]]:
    """Tornado's handlers for the page below `prefix`; `mixin` goes before each, to say who may see it."""
    allowed = tuple(hosts) if hosts is not None else None
    arguments = {
        "prometheus": prometheus,
        "book_url": book_url,
        "hosts": allowed,
        "frames": frames,
    }

    def guarded(handler: type) -> type:
        return type(handler.__name__, (mixin, handler), {}) if mixin else handler

    return [
        (rf"{prefix}/api/boards", guarded(Boards), arguments),
        (rf"{prefix}/api/board/([a-z]{{1,20}})", guarded(BoardNow), arguments),
        (rf"{prefix}/([a-z.]{{0,20}})", guarded(Files), arguments),
    ]


def page(
    prometheus_url: str | None = None,
    folder: Path = FOLDER,
    port: int = PORT,
    socket: Path | None = None,
    book_url: str | None = None,
) -> int:
    """Show the panels on a live page until Ctrl-C.

    Args:
        prometheus_url: Where Prometheus answers; without it, that of the stack in the folder, else port 9090 here.
        folder: Of `distlab observe up`.
        port: Of the loopback.
        socket: A Unix socket to answer on in place of a port.
        book_url: The course's book, which holds the runbooks.
    """
    stack = addresses_in(folder)
    prometheus_url = prometheus_url or (stack.prometheus if stack else PROMETHEUS_URL)
    if not prometheus_url.startswith(("http://", "https://")):
        raise SettingError(
            f"--prometheus-url is {prometheus_url!r}; it must begin with http://, as {PROMETHEUS_URL}."
        )
    if not 0 <= port < 2**16:
        raise SettingError(f"--port is {port}; it must be from 1 to 65535, or 0 for a free one.")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(prometheus_url, port, socket, book_url or _book_url()))
    return 0


def _book_url() -> str:
    """The book of the site that this server belongs to, if it does."""
    if "JUPYTERHUB_HOST" not in os.environ:
        return BOOK_URL
    return f"{os.environ['JUPYTERHUB_HOST']}{os.environ.get('JUPYTERHUB_BASE_URL', '/')}hub/book"


async def _serve(prometheus_url: str, port: int, socket: Path | None, book_url: str) -> None:
    where, prometheus = str(socket), Prometheus(prometheus_url)
    try:
        if socket:
            app = Application(handlers(prometheus, book_url=book_url, hosts=None, frames="'self'"))
            listening = [bind_unix_socket(str(socket), mode=0o600)]
        else:
            app = Application(handlers(prometheus, book_url=book_url))
            listening = bind_sockets(port, LOOPBACK)
            where = f"http://{LOOPBACK}:{listening[0].getsockname()[1]}"
    except OSError as error:
        name = f"The socket {socket}" if socket else f"Port {port} of {LOOPBACK}"
        raise WorkError(f"{name} cannot be used ({error.strerror}); choose another with --port.") from None
    server = HTTPServer(app)
    server.add_sockets(listening)
    print(f"Telemetry on {where} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    await stopped.wait()
    server.stop()
    await server.close_all_connections()
