"""Carry bytes between a listening socket and another address, one pair of streams per connection."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Awaitable, Callable
from typing import NoReturn

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
CHUNK_BYTES = 65536
RESTART_S = 20.0
RETRY_S = 0.2
"""A Hub that restarts is away for seconds: whoever asks it meanwhile waits so long instead of failing."""


async def relay(connect: Connect, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one connection's bytes both ways until both sides are done."""
    try:
        far_reader, far_writer = await connect()
    except OSError:
        writer.close()
        return

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while chunk := await source.read(CHUNK_BYTES):
                sink.write(chunk)
                await sink.drain()
            sink.write_eof()
        except OSError:
            # One side is gone: closing both ends the other direction too.
            writer.close()
            far_writer.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
    writer.close()
    far_writer.close()


async def open_unix(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to `path`, which a service that restarts may be about to make anew, or whose queue may be full."""
    for attempts_left in reversed(range(round(RESTART_S / RETRY_S))):
        connection = socket.socket(socket.AF_UNIX)
        connection.setblocking(False)
        try:
            # asyncio's own takes a full queue (EAGAIN) for a connection under way; a Unix socket has none such.
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            connection.close()
            if not attempts_left:
                raise
            await asyncio.sleep(RETRY_S)
        except OSError:
            connection.close()
            raise
        else:
            break
    return await asyncio.open_unix_connection(sock=connection)


async def tcp_to_unix(port: int, path: str) -> int:
    """Relay from `port` of the loopback (0: a free one) to the Unix socket `path`; returns the port."""
    connect = functools.partial(open_unix, path)
    server = await asyncio.start_server(functools.partial(relay, connect), "127.0.0.1", port)
    bound: int = server.sockets[0].getsockname()[1]
    return bound


async def unix_to_tcp(listener: socket.socket, port: int) -> None:
    """Relay from a listening Unix socket to `port` of the loopback."""
    connect = functools.partial(asyncio.open_connection, "127.0.0.1", port)
    await asyncio.start_unix_server(functools.partial(relay, connect), sock=listener)


async def unix_to_unix(listener: socket.socket, path: str, most: int) -> NoReturn:
    """Relay from a listening Unix socket to the Unix socket `path`, for ever, `most` connections at a time.

    Whoever is one too many waits in the listener's own queue, and costs nobody else anything.
    """
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    free = asyncio.Semaphore(most)
    carried: set[asyncio.Task[None]] = set()

    async def carry(connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection)
            await relay(functools.partial(open_unix, path), reader, writer)
        finally:
            free.release()

    while True:
        await free.acquire()
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError:  # no descriptor is left just now
            free.release()
            await asyncio.sleep(RETRY_S)
            continue
        carried.add(task := asyncio.create_task(carry(connection)))
        task.add_done_callback(carried.discard)
