"""Processes told apart from later ones that reuse their number, so that none is signalled by mistake."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessId:
    """A process id together with when the process started (clock ticks since `boot`, one boot's id)."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process that has this number now; None if there is none, or only its zombie."""
        try:
            # The name, in parentheses, may hold spaces and parentheses itself: split after the last one.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        if fields[0] in "ZX":
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return cls(pid, int(fields[19]), boot)

    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    def send(self, signum: signal.Signals) -> None:
        """Signal this very process; nothing happens if it is gone."""
        handle = self._open()
        if handle is not None:
            try:
                signal.pidfd_send_signal(handle, signum)
            except ProcessLookupError:
                return
            finally:
                os.close(handle)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process ended; False if it still runs after `timeout_s` seconds."""
        handle = self._open()
        if handle is None:
            return True
        try:
            return bool(select.select([handle], [], [], timeout_s)[0])
        finally:
            os.close(handle)

    def _open(self) -> int | None:
        """A descriptor that stands for the process: opened first, compared after, so never for another."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return handle
        os.close(handle)
        return None
