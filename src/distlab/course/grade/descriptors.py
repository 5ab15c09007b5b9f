"""What goes to descriptors 1 and 2 past Python, by programs that a cell starts and by C code, as a cell's output.

    caught = Caught()        # from here on both descriptors are pipes, which a thread reads
    caught.begin(200_000)    # a cell begins: so many bytes of it are kept
    caught.take()            # [("stdout", "text"), ...] of what was written up to now

What is over goes where the descriptors went before, to whoever counts it there. In a process that this one forks
nothing is taken: what it writes comes to its parent's pipes.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import threading
from collections import deque

PIPE_BYTES = 1 << 16
"""What a pipe holds: one read takes all that was written before it."""


class Caught:
    """The two descriptors of this process."""

    def __init__(self) -> None:
        self.past: dict[str, int] = {}
        """Where each stream's descriptor went before, by its name."""
        self._names: dict[int, str] = {}
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._room = 0
        self._lock = threading.Lock()
        self._pid = os.getpid()
        for fd, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            self.past[name] = os.dup(fd)
            os.dup2(writing, fd)
            os.close(writing)
            self._names[reading] = name
            self._decoders[name] = codecs.getincrementaldecoder("utf-8")("replace")
        threading.Thread(target=self._keep_reading, daemon=True).start()

    def begin(self, room: int) -> None:
        """Keep up to `room` bytes from here on, and nothing from before."""
        self._read()
        self._waiting.clear()
        self._room = room

    def take(self) -> list[tuple[str, str]]:
        """What was written since the last call, in order as far as each stream's own goes."""
        if os.getpid() != self._pid:
            return []
        self._read()
        taken = []
        with contextlib.suppress(IndexError):
            while True:
                name, data = self._waiting.popleft()
                taken.append((name, self._decoders[name].decode(data)))
        return taken

    def _keep_reading(self) -> None:
        """So that who writes more than a pipe holds does not wait for the cell's end."""
        while self._names:
            poll = select.poll()
            for fd in tuple(self._names):
                poll.register(fd, select.POLLIN)
            poll.poll()
            self._read()

    def _read(self) -> None:
        with self._lock:
            for fd, name in tuple(self._names.items()):
                with contextlib.suppress(BlockingIOError):
                    data = os.read(fd, PIPE_BYTES)
                    if not data:  # nobody has the other end: a cell has closed the descriptor for good
                        del self._names[fd]
                    kept = data[: self._room]
                    self._room -= len(kept)
                    if kept:
                        self._waiting.append((name, kept))
                    write_all(self.past[name], data[len(kept) :])


def write_all(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
