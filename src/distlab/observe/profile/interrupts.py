"""Ctrl-C while a rank is recorded: KeyboardInterrupt at a moment at which what was recorded can still be written."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

PATIENCE_S = 10.0
"""A rank that Ctrl-C would have ended, and that does not come back to Python for so long after it, hangs: in a
collective, say. It is ended."""


class Interrupts:
    """From `catch` to `release`, SIGINT raises KeyboardInterrupt, but not amid what is within `later`.

    Only where it would have ended the process or raised KeyboardInterrupt: who handles it otherwise, goes on to.
    A second SIGINT does what it would have done without this.
    """

    def __init__(self) -> None:
        self.busy = self.came = False
        self.before: Any = None
        self.write: int | None = None
        self.heard = threading.Event()

    def catch(self) -> None:
        """Begin; nothing happens in a thread other than the main one."""
        usual = (signal.SIG_DFL, signal.default_int_handler)
        if threading.current_thread() is not threading.main_thread() or (
            signal.getsignal(signal.SIGINT) not in usual
        ):
            return
        self.before = signal.signal(signal.SIGINT, self._handle)
        if self.before != signal.SIG_DFL:  # such as in a notebook's kernel: it would have waited, too
            return
        # The handler runs once the main thread is back in Python; the file learns of the signal at once.
        read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.wakeup = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read,), daemon=True).start()

    def release(self) -> None:
        """Put back what was there before; again and again does no harm."""
        if self.before is None:
            return
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self.before)
        self.before = None
        self.heard.set()
        if self.write is not None:
            signal.set_wakeup_fd(self.wakeup)
            os.close(self.write)
            self.write = None

    @contextlib.contextmanager
    def later(self, raises: bool = True) -> Iterator[None]:
        """Hold Ctrl-C back until the end of this, and raise KeyboardInterrupt then, unless told not to."""
        self.busy = True
        try:
            yield
        finally:
            self.busy = False
        if self.came and raises:
            self.came = False
            self.release()
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.heard.set()
        if self.busy:
            self.came = True
            return
        self.release()
        raise KeyboardInterrupt

    def _watch(self, read: int) -> None:
        with open(read, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] == signal.SIGINT:
                    if not self.heard.wait(PATIENCE_S):
                        os.kill(os.getpid(), signal.SIGKILL)
                    return
