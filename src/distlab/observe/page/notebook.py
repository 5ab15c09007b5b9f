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

SITE_PAGE = "telemetry/"
"""Where a server of the course's site has the page."""


def show(prometheus_url: str | None, height: int) -> Any:
    """An IPython.display.IFrame with the page; see `distlab.observe.show_page`."""
    from IPython.display import IFrame

    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    if prefix and prometheus_url is None:
        return IFrame(f"{prefix}{SITE_PAGE}", "100%", height, title="Telemetry")
    return IFrame(f"http://{LOOPBACK}:{_started(prometheus_url)}/", "100%", height, title="Telemetry")


@cache
def _started(prometheus_url: str | None) -> int:
    """The port of a page that lives as long as this kernel."""
    port = free_port()
    given = ["--prometheus-url", prometheus_url] if prometheus_url else []
    command = [sys.executable, "-m", "distlab.cli", "observe", "page", "--port", str(port), *given]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    atexit.register(process.terminate)
    return port
