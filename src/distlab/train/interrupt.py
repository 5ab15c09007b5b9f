"""Ctrl-C that ends a run in order."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM only sets `asked`; a second one acts as ever."""

    def __init__(self, enabled: bool) -> None:
        self.asked = False
        self.enabled = enabled and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Interrupt:
        if self.enabled:
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.enabled:
            for number, handler in self.before.items():
                signal.signal(number, handler)
