"""A launcher in a process of its own whose output is watched: each line keeps the moment when it came."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psutil

from distlab.faults.drills.report import DrillError

T = TypeVar("T")

PATIENCE_S = 600
"""A drill whose run neither ends nor shows what is waited for has failed after so long."""
POLL_S = 0.01

LAST_WORDS_S = 5
"""Time for reading what a launcher that has ended still said; a process it left may hold its output open."""


class Launcher:
    """A started command; `kill` it, with all that it started, when the drill is over."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self.lines.append((time.time(), line))

    def said(self, pattern: str, since_s: float) -> float | None:
        """When the first line since `since_s` (Unix time) came that matches; None if there is none."""
        return next((at for at, line in self.lines if at >= since_s and re.search(pattern, line)), None)

    def wait_for(self, look: Callable[[], T | None], what: str) -> T:
        """Wait until `look` returns something. DrillError if the launcher ends first, or nothing happens."""

        def look_while_it_lives() -> T | None:
            found = look()
            if found is None and self.process.poll() is not None:
                self.reader.join(LAST_WORDS_S)
                raise DrillError(
                    f"The launcher exited with {self.process.returncode} before {what}.\n{self.tail()}"
                )
            return found

        return self.wait_until(look_while_it_lives, what)

    def wait_until(self, look: Callable[[], T | None], what: str) -> T:
        """The same, also once the launcher has ended."""
        until = time.monotonic() + PATIENCE_S
        while (found := look()) is None:
            if time.monotonic() > until:
                raise DrillError(f"For {PATIENCE_S} s nothing told of {what}.\n{self.tail()}")
            time.sleep(POLL_S)
        return found

    def finish(self) -> None:
        """Wait for the end. DrillError unless it is a good one."""
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise DrillError(f"The run did not end within {PATIENCE_S} s.\n{self.tail()}") from None
        self.reader.join(LAST_WORDS_S)
        if code:
            raise DrillError(f"The launcher exited with {code}.\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of the output."""
        return "".join(line for _, line in self.lines[-20:])

    def kill(self) -> None:
        """End the process and its descendants at once, the launcher first: like a power failure."""
        try:
            descendants = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            descendants = []
        self.process.kill()
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(descendants)
        self.reader.join(LAST_WORDS_S)
