"""What the site's own services share: a Unix socket to listen on, and an end together with the Hub's."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from pathlib import Path

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent ends."""


def die_with_parent() -> None:
    """Get SIGTERM when the Hub ends, however it ends, so that a restarted Hub finds no second service."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # it ended before the call
        raise SystemExit(1)


def serve(app: Application, socket: Path, max_body_bytes: int, mode: int = 0o666) -> None:
    """Answer on `socket` until SIGTERM or SIGINT.

    The folder that the socket lies in decides who can reach it; a socket left by a killed service is
    replaced. A path of over 100 bytes does not fit into a socket's address: it is bound by a relative name.
    """
    die_with_parent()
    asyncio.run(_serve(app, socket, max_body_bytes, mode))


async def _serve(app: Application, socket: Path, max_body_bytes: int, mode: int) -> None:
    os.chdir(socket.parent)
    server = HTTPServer(app, max_body_size=max_body_bytes)
    server.add_socket(bind_unix_socket(socket.name, mode=mode))
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    await stopped.wait()
    server.stop()
    await server.close_all_connections()
