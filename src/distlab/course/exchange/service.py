"""The exchange's HTTP service: a Hub-managed process on a Unix socket. What it answers: `handlers`.

    python -m distlab.course.exchange            # socket and folder of the site in the working directory
    python -m distlab.course.exchange --tcp 0.0.0.0:8082

The Hub's API, at which it asks whose a token is, comes from JUPYTERHUB_API_URL and JUPYTERHUB_API_TOKEN.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.log import enable_pretty_logging
from tornado.netutil import bind_unix_socket

from distlab.course.exchange.bundle import MANIFEST_BYTES, UploadLimits
from distlab.course.exchange.handlers import Exchange, make_app
from distlab.course.exchange.store import Store
from distlab.course.quiz.own import BANKS, Quizzes
from distlab.course.service import die_with_parent
from distlab.course.site import Site

log = logging.getLogger(__name__)

DRAINED_UPLOADS = 2
"""A refused upload of up to this many times the limit is read to its end and dropped, so that its sender gets
to read why; a longer one finds the connection closed."""


@dataclass(frozen=True)
class ServiceConfig:
    """Where the exchange listens and keeps its files."""

    folder: Path = field(default_factory=lambda: Site.from_env().exchange)
    """What it stores."""
    socket: Path = field(default_factory=lambda: Site.from_env().site_sockets / "exchange.sock")
    """Unix socket to listen on; a stale one is replaced."""
    tcp: str = ""
    """ADDRESS:PORT to listen on as well (Kubernetes); empty: none."""
    secret: Path = field(default_factory=lambda: Site.from_env().secrets / "course-secret")
    """File of the secret that learners' quizzes are drawn from; made when the first learner fetches a quiz."""
    limits: UploadLimits = field(default_factory=UploadLimits)


async def serve(config: ServiceConfig) -> None:
    """Answer until SIGTERM or SIGINT."""
    store = Store(config.folder.absolute(), config.limits)
    if stale := store.clear_stale():
        log.warning("Removed %d unfinished upload(s) of an earlier run", stale)
    server = HTTPServer(
        make_app(Exchange(store, Quizzes(store.root / BANKS, config.secret.absolute()))),
        max_body_size=DRAINED_UPLOADS * (config.limits.upload_bytes + MANIFEST_BYTES),
        body_timeout=config.limits.upload_s,
        idle_connection_timeout=config.limits.upload_s,
    )
    config.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A path of over 100 bytes does not fit into a socket's address: bound by a relative name. Any user of
    # a sandbox may connect, for the token decides; the folder is closed to everyone else.
    os.chdir(config.socket.parent)
    socket = Path(config.socket.name)
    server.add_socket(bind_unix_socket(str(socket), mode=0o666, backlog=512))
    ours = socket.stat().st_ino
    if config.tcp:
        address, _, port = config.tcp.rpartition(":")
        server.listen(int(port), address)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.info("Exchange in %s, listening on %s", store.root, config.socket)
    await stop.wait()
    server.stop()
    await server.close_all_connections()
    with contextlib.suppress(FileNotFoundError):
        if socket.stat().st_ino == ours:  # else a later service listens there
            socket.unlink()


def main(config: ServiceConfig) -> None:
    """Run the exchange until it is told to stop, or the Hub that started it ends."""
    if not config.tcp:  # in a container of its own it has no Hub for a parent
        die_with_parent()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0o077)
    logging.getLogger().setLevel(logging.INFO)
    enable_pretty_logging()
    asyncio.run(serve(config))
