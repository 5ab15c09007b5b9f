"""Ranks that stay: one process group for many calls, where `launch` makes one for each.

    with Ranks(2, threads_per_rank=1) as ranks:
        ranks(fn, *args)          # [what rank 0 returned, what rank 1 returned], as of `launch`
        ranks(other)

A start of ranks takes half a second or more. Where a call is shorter than that, or is timed, its ranks should be there
already. Between calls they wait on a socket and use no processor. The first call starts them; they are gone when the
block ends, when this process does, and after a call that failed or was interrupted: nobody knows where its ranks
stood, so the next call starts new ones.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (registers its own before `_close_all` is, below)
import contextlib
import linecache
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import torch.distributed as dist

from distlab.errors import LaunchError, SettingError
from distlab.train.launch import cell_lines, launch

T = TypeVar("T")

LENGTH = struct.Struct("Q")
STEP_S = 0.2
"""How long a wait for a rank that starts lasts at a time: between two, a start that failed is noticed."""


class Ranks:
    """Call functions on ranks that stay. The arguments are those of `launch`."""

    def __init__(
        self,
        world_size: int = 2,
        *,
        backend: str | None = None,
        threads_per_rank: int | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if world_size < 1:
            raise ValueError(f"world_size is {world_size}; it must be 1 or more.")
        self.world_size = world_size
        self._options: dict[str, Any] = {
            "backend": backend,
            "threads_per_rank": threads_per_rank,
            "timeout_s": timeout_s,
        }
        self._links: list[socket.socket] = []
        """To each rank, by rank; empty where none runs."""
        self._pids: list[int] = []
        self._thread: threading.Thread | None = None
        self._ending: BaseException | None = None
        """How the ranks came to their end, where it was not in order."""

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, fn: Callable[..., T], *args: Any) -> list[T]:
        """`fn(*args)` on every rank, inside the process group; what it returned, by rank.

        Raises LaunchError with the rank's own traceback where one raised or died, and a rank's SettingError.
        """
        request = pickle.dumps((cloudpickle.dumps((fn, args)), cell_lines()))
        try:
            if not self._links:
                self._start()
            with contextlib.suppress(ConnectionError):  # a rank has died: the answer says how
                for link in self._links:
                    _send(link, request)
            answers = dict(self._answers())
        except BaseException:
            self._kill()
            raise
        return [answers[rank] for rank in range(self.world_size)]

    def close(self) -> None:
        """End the ranks and wait for them; a later call starts new ones."""
        _open.discard(self)
        for link in self._links:
            link.close()  # a rank that waits for a request ends by that
        self._links, self._pids = [], []
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _kill(self) -> None:
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.close()

    def _start(self) -> None:
        folder = tempfile.mkdtemp(prefix="distlab-ranks-")
        links: dict[int, socket.socket] = {}
        try:
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(f"{folder}/door")
                door.listen(self.world_size)
                door.settimeout(STEP_S)
                self._ending = None
                self._thread = threading.Thread(target=self._run, args=(door.getsockname(),), daemon=True)
                self._thread.start()
                _open.add(self)
                while len(links) < self.world_size:
                    with contextlib.suppress(TimeoutError):
                        link = door.accept()[0]
                        try:
                            link.setblocking(True)
                            rank, pid = pickle.loads(_receive(link))
                        except (EOFError, ConnectionError):  # it died at once: `launch` tells how
                            link.close()
                            continue
                        links[rank] = link
                        self._pids.append(pid)
                    if not self._thread.is_alive():
                        raise self._ending or LaunchError("The ranks ended before they were asked.", 0)
        finally:
            self._links = [links[rank] for rank in sorted(links)]
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, address: str) -> None:
        try:
            launch(_serve, self.world_size, address, **self._options)
        except BaseException as error:  # raised again where the ranks are asked
            self._ending = error

    def _answers(self) -> Iterator[tuple[int, Any]]:
        """(rank, what it returned), in the order in which they come: one that raised is heard while others wait."""
        with selectors.DefaultSelector() as waiting:
            for rank, link in enumerate(self._links):
                waiting.register(link, selectors.EVENT_READ, rank)
            while waiting.get_map():
                for key, _ in waiting.select():
                    rank = key.data
                    try:
                        value, failure, setting = pickle.loads(_receive(self._links[rank]))
                    except (EOFError, ConnectionError):
                        raise self._death(rank) from None
                    if setting is not None:
                        raise SettingError(setting)
                    if failure is not None:
                        raise LaunchError(f"Rank {rank} of {self.world_size} failed: {failure}", rank)
                    waiting.unregister(key.fileobj)
                    yield rank, value

    def _death(self, rank: int) -> BaseException:
        """What `launch` says of a rank that died: it ends the others."""
        if self._thread is not None:
            self._thread.join()
        return self._ending or LaunchError(
            f"Rank {rank} of {self.world_size} ended before it returned.", rank
        )


_open: set[Ranks] = set()
"""Whose ranks run."""


def _close_all() -> None:
    for ranks in list(_open):
        ranks.close()


# `atexit` would come too late: before it, Python waits for the threads of pools, such as those that pass on what ranks
# print, and they end with the ranks. What was registered last is called first: before what pools registered.
vars(threading)["_register_atexit"](_close_all)


def _serve(address: str) -> None:
    """On each rank: answer requests until the asking side is gone."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(address)
        _send(link, pickle.dumps((dist.get_rank(), os.getpid())))
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                call, lines = pickle.loads(_receive(link))
                for name, text in lines.items():
                    linecache.cache[name] = (sum(map(len, text)), None, text, name)
                _send(link, _answer(call))


def _answer(call: bytes) -> bytes:
    """(value, failure, the sentence of a SettingError), pickled."""
    try:
        fn, args = pickle.loads(call)
        return pickle.dumps((fn(*args), None, None))
    except SettingError as error:
        return pickle.dumps((None, None, str(error)))
    except Exception as error:
        summary = "".join(traceback.format_exception_only(error)).strip()
        inner = error.__traceback__.tb_next if error.__traceback__ else None  # without this function's frame
        frames = "".join(traceback.format_exception(type(error), error, inner)).rstrip()
        return pickle.dumps((None, f"{summary}\n\n{frames}", None))


def _send(link: socket.socket, content: bytes) -> None:
    link.sendall(LENGTH.pack(len(content)) + content)


def _receive(link: socket.socket) -> bytes:
    """One message; EOFError where the other side is gone."""
    (length,) = LENGTH.unpack(_exactly(link, LENGTH.size))
    return _exactly(link, length)


def _exactly(link: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = link.recv(min(length - len(content), 1 << 20))
        if not part:
            raise EOFError
        content += part
    return bytes(content)
