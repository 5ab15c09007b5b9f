"""The first program in a learner's sandbox: `python -m distlab.course.inside LISTENER STOP COMMAND...`.

It relays between the sandbox and the host, then runs the server; it and all that it starts end with the
sandbox. `LISTENER` is the descriptor of the listening Unix socket whose other side is the supervisor's,
`STOP` that of a pipe whose closing asks the server to end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys

from distlab.course.relay import tcp_to_unix, unix_to_tcp
from distlab.course.site import INSIDE_EXCHANGE_PORT, INSIDE_HUB_PORT, INSIDE_SERVER_PORT, INSIDE_SOCKETS


async def run(listener_fd: int, stop_fd: int, command: list[str]) -> int:
    """Relay until the command ends; its exit status."""
    await unix_to_tcp(socket.socket(fileno=listener_fd), INSIDE_SERVER_PORT)
    await tcp_to_unix(INSIDE_HUB_PORT, f"{INSIDE_SOCKETS}/hub.sock")
    await tcp_to_unix(INSIDE_EXCHANGE_PORT, f"{INSIDE_SOCKETS}/exchange.sock")
    server = subprocess.Popen(command)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(os.pidfd_open(server.pid), ended.set)

    def stop() -> None:
        loop.remove_reader(stop_fd)
        server.send_signal(signal.SIGTERM)

    loop.add_reader(stop_fd, stop)
    await ended.wait()
    return server.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
