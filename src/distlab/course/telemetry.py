"""`<base_url>telemetry/`: the live page of telemetry in each server, started when it is first opened.

A Jupyter server extension. It takes from jupyter-server-proxy what starts a program and passes requests on, and leaves
its `/proxy/PORT/` out: that would lead browsers to whatever listens in the sandbox, the ways to the Hub's API and to
the exchange among it, and no setting of its own keeps ports of the loopback out.
"""

from __future__ import annotations

import sys
from typing import Any

from jupyter_server.utils import url_path_join
from jupyter_server_proxy.api import IconHandler, ServersInfoHandler  # type: ignore[import-untyped]
from jupyter_server_proxy.config import (  # type: ignore[import-untyped]
    ServerProxy,
    make_handlers,
    make_server_process,
)

from distlab.observe.page.notebook import SITE_PAGE
from distlab.observe.page.server import STATIC

NAME = SITE_PAGE.strip("/")

PAGE = {
    "command": [sys.executable, "-P", "-m", "distlab.cli", "observe", "page", "--socket", "{unix_socket}"],
    "unix_socket": True,
    "timeout": 60,
    "launcher_entry": {
        "title": "Telemetry",
        "path_info": SITE_PAGE,
        "category": "Notebook",  # JupyterLab shows icons of its first two categories alone
        "icon_path": str(STATIC / "icon.svg"),
    },
}


def _load_jupyter_server_extension(server: Any) -> None:
    """Put the page at its place, and an entry into JupyterLab's launcher."""
    base = server.web_app.settings["base_url"]
    page = make_server_process(NAME, PAGE, ServerProxy(parent=server))
    info = url_path_join(base, "server-proxy/servers-info")
    icon = url_path_join(base, "server-proxy/icon/(.*)")
    handlers = [
        *make_handlers(base, [page]),
        (info, ServersInfoHandler, {"server_processes": [page]}),
        (icon, IconHandler, {"icons": {NAME: page.launcher_entry.icon_path}}),
    ]
    server.web_app.add_handlers(".*", handlers)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "distlab.course.telemetry"}]
