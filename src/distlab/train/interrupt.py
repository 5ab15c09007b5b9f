"""Ctrl-C that ends a run in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While it is entered, the first SIGINT only sets `asked`; a second one ends the process.

    SIGTERM is left alone: it is how a launcher ends the ranks that are left after one has failed, and those
    must not wait for each other.
    """

    def __init__(self, enabled: bool) -> None:
        self.asked = False
        self.enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupt:
        if self.enabled:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.enabled:
            signal.signal(signal.SIGINT, self.before)
