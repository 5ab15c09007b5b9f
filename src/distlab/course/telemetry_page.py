"""`/hub/telemetry/`: the live page of telemetry for the machine that the site runs on, for instructors.

In the Hub's configuration, `c.JupyterHub.extra_handlers = telemetry_handlers(site)`. What collects (exporter,
Prometheus, Alertmanager; `python -m distlab.course.telemetry_page`) starts when the first instructor looks, keeps its
time series in `var/telemetry`, and ends with the Hub. Where there is no driver, simulated GPUs stand in, and the page
says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jupyterhub.handlers.base import BaseHandler  # type: ignore[import-untyped]
from tornado.httputil import url_concat
from tornado.web import HTTPError, RedirectHandler

from distlab.course.service import die_with_parent
from distlab.course.site import INSTRUCTORS, Site
from distlab.errors import SettingError, WorkError, printable
from distlab.observe.page.prometheus import Prometheus
from distlab.observe.page.server import handlers
from distlab.observe.stack import STATE, Stack, addresses_in

RETRY_S = 30.0
"""How long a start that failed is left alone."""
STARTING = "Telemetry of this machine is starting; this page shows it in a moment."


class MachinePrometheus(Prometheus):
    """The one that watches this machine; asking it starts it."""

    def __init__(self, site: Site) -> None:
        self.folder, self.log = site.var / "telemetry", site.log / "telemetry.log"
        self.book_url = f"{site.url}/hub/book"
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0

    def address(self) -> str:
        """Where it answers. WorkError while it does not, with the reason."""
        if self.process is None or (
            self.process.poll() is not None and time.monotonic() - self.started_at > RETRY_S
        ):
            self._start()
        elif self.process.poll() is not None:
            raise WorkError(f"Telemetry of this machine is not collected. {_last_line(self.log)}")
        found = addresses_in(self.folder)
        if found is None:
            raise WorkError(STARTING)
        return found.prometheus

    def _start(self) -> None:
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / STATE).unlink(missing_ok=True)  # of one that was killed
        self.started_at = time.monotonic()
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "distlab.course.telemetry_page", str(self.folder), self.book_url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        finally:
            os.close(log)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return printable(lines[-1][:500]) if lines else "Its log is empty."


class ForInstructors(BaseHandler):  # type: ignore[misc]  # jupyterhub has no types
    """Goes before each handler of the page."""

    async def prepare(self) -> None:
        """Let instructors pass; send whoever is not signed in to do that."""
        await super().prepare()
        user = self.current_user
        if user is None and "/api/" in self.request.path:
            raise HTTPError(401)
        if user is None:
            self.redirect(url_concat(self.settings["login_url"], {"next": self.request.uri}))
        elif all(group.name != INSTRUCTORS for group in user.groups):
            raise HTTPError(403, "This page is for instructors.")


def telemetry_handlers(site: Site) -> list[tuple[Any, ...]]:
    """The Hub's `extra_handlers` for the page."""
    machine = MachinePrometheus(site)
    page = handlers(
        machine,
        prefix="/telemetry",
        book_url=machine.book_url,
        hosts=None,
        frames="'none'",
        mixin=ForInstructors,
    )
    return [(r"/telemetry", RedirectHandler, {"url": "/hub/telemetry/", "permanent": False}), *page]


def main(folder: str, book_url: str) -> int:
    """Collect until the Hub ends."""
    die_with_parent()
    try:
        with Stack(Path(folder), ["--source", "auto"], book_url=book_url) as stack:
            stack.wait()
    except (SettingError, WorkError) as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(*sys.argv[1:]))
