"""How far the ranks are, on standard error, read off their journals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from distlab.bench.journal import Doing, Journal

POLL_S = 0.5
LINE_EVERY_S = 5.0


class Watch:
    """While it is entered: a bar on a terminal, else a line every few seconds."""

    def __init__(self, journals: Sequence[Path], rows_each: int) -> None:
        self.journals = journals
        self.total = rows_each * len(journals)
        self.number = self.read = self.done = 0
        self.busy = False
        self.what = "starting"
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
            )
            with Progress(
                *columns, console=Console(stderr=True), transient=True, refresh_per_second=2
            ) as bar:
                task = bar.add_task("starting", total=self.total)
                while not self.over.wait(POLL_S):
                    done, what = self._state()
                    bar.update(task, completed=done, description=what)
            return
        shown = time.monotonic()
        while not self.over.wait(POLL_S):
            if time.monotonic() - shown >= LINE_EVERY_S:
                done, what = self._state()
                print(f"{done}/{self.total}: {what}", file=sys.stderr, flush=True)
                shown = time.monotonic()

    def _state(self) -> tuple[int, str]:
        """Rows measured so far, and what is measured now. Reads what is new alone: the ranks need the processor."""
        while True:
            items = Journal(self.journals[self.number]).items(self.read)
            self.read += len(items)
            for item in items:
                if isinstance(item, Doing):
                    self.done += self.busy
                    self.busy, self.what = True, item.what
            if self.number + 1 == len(self.journals) or not Journal(self.journals[self.number + 1]).items():
                break
            self.number += 1
            self.read = 0
        several = f" (launch {self.number + 1} of {len(self.journals)})" if len(self.journals) > 1 else ""
        return self.done, self.what + several
