"""The page of telemetry within a notebook.

from distlab.observe import show_page
show_page()                                   # the last line of a cell
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from functools import cache
from typing import Any

from distlab.machine import LOOPBACK, free_port
from distlab.observe.page.server import PROMETHEUS

SITE_PAGE = "telemetry/"
"""Where a server of the course's site has the page."""


def show(prometheus_url: str, height: int) -> Any:
    """An IPython.display.IFrame with the page; see `distlab.observe.show_page`."""
    from IPython.display import IFrame

    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if prefix and prometheus_url == PROMETHEUS:
        return IFrame(f"{prefix}{SITE_PAGE}", "100%", height, title="Telemetry")
    return IFrame(f"http://{LOOPBACK}:{_started(prometheus_url)}/", "100%", height, title="Telemetry")


@cache
def _started(prometheus_url: str) -> int:
    """The port of a page that lives as long as this kernel."""
    port = free_port()
    command = [sys.executable, "-m", "distlab.cli", "observe", "page", "--prometheus-url", prometheus_url]
    process = subprocess.Popen([*command, "--port", str(port)], stdin=subprocess.DEVNULL)
    atexit.register(process.terminate)
    return port
