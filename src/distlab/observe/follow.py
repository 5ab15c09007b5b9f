"""Simulated GPUs under the load of a job that really runs, on CPUs: the shares of each step are read off its log.

    follow_run("runs/fsdp_2gpu")        # a Scenario: rank N is what loads GPU N

The ranks' times are real, what a GPU would draw and how warm it would be is the model's: samples say SIMULATED. A
rank that has logged nothing for a while loads nothing.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import IO

from distlab.errors import SettingError
from distlab.files import open_regular
from distlab.observe.workload import IDLE, MOST_GPUS, Conditions, Scenario, Work
from distlab.train.records import LOG, LogLine, parse_line, rank_of

POLL_S = 0.4
RECENT_S = 2.0
"""The load is the mean of the steps of so long a time, of the last one at the least."""
SILENT_S, SILENT_STEPS = 5.0, 3
"""A rank is idle when it has logged nothing for both."""
TAIL_BYTES, MOST_POLL_BYTES = 2**16, 2**20
"""Read of a log at first, and at once."""
LINK_BYTES_PER_S = 100e9
"""Over NVLink while a rank communicates: a quarter of what NVLink 4 carries one way."""


def follow_run(run_folder: str, clock: Callable[[], float] = time.time) -> Scenario:
    """The load of the run in that folder, now and as it goes on. It may begin later.

    SettingError where the folder is none of this machine's disks.
    """
    if "://" in run_folder:
        raise SettingError(
            f"{run_folder} is not on a disk of this machine; follow the run's local log, in runs/."
        )
    run = _Run(Path(run_folder, LOG), clock)
    return Scenario(f"follow {run_folder}", f"The load of {run_folder}, read off its log.", run.conditions)


def ranks_of(run_folder: str) -> int:
    """How many ranks have a log there, as far as they can be simulated; 0 where there is none yet."""
    return len(_Run(Path(run_folder, LOG), time.time).find())


@dataclass
class _Rank:
    """The end of one rank's log."""

    path: Path
    file: IO[bytes] | None = None
    identity: tuple[int, int] = (0, 0)
    rest: bytes = b""
    steps: deque[LogLine] = field(default_factory=lambda: deque(maxlen=1000))

    def poll(self) -> None:
        """Read what was appended. A log that was replaced or cut, as by a new attempt, is read anew."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
            identity = (status.st_dev, status.st_ino)
            if self.file is None or self.identity != identity or self.file.tell() > status.st_size:
                self.close()
                self.file, self.identity = open_regular(self.path), identity
                self._to_tail(status.st_size)
            elif status.st_size - self.file.tell() > MOST_POLL_BYTES:  # it grows faster than it is read
                self._to_tail(status.st_size)
            *lines, self.rest = (self.rest + self.file.read(MOST_POLL_BYTES)).split(b"\n")
        except OSError:
            self.close()
            return
        if len(self.rest) > MOST_POLL_BYTES:
            self.rest = b"#"
        for line in lines:
            try:
                self.steps.append(parse_line(line.decode("utf-8", "replace"), str(self.path)))
            except SettingError:  # not whole, or not a log's
                continue

    def _to_tail(self, size: int) -> None:
        assert self.file is not None
        self.file.seek(max(0, size - TAIL_BYTES))
        self.rest = b"" if size <= TAIL_BYTES else b"#"  # the first line may not be whole

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        self.file, self.rest = None, b""

    def load(self, now: float) -> Conditions:
        if not self.steps:
            return IDLE
        last = self.steps[-1]
        if now - last.time > max(SILENT_S, SILENT_STEPS * last.step_s):
            return IDLE
        recent = [line for line in self.steps if line.time > last.time - RECENT_S]
        communication_s = fmean(line.communication_s for line in recent)
        return Conditions(
            Work(
                compute_s=max(1e-6, fmean(line.compute_s for line in recent)),
                data_s=max(0.0, fmean(line.data_s for line in recent)),
                communication_s=max(0.0, communication_s),
                nvlink_bytes=max(0.0, communication_s) * LINK_BYTES_PER_S,
                memory_bytes=last.vram_bytes or last.ram_bytes,
            )
        )


class _Run:
    def __init__(self, log: Path, clock: Callable[[], float]) -> None:
        self._log, self._clock = log, clock
        self._ranks: dict[int, _Rank] = {}
        self._loads: dict[int, Conditions] = {}
        self._polled = -POLL_S

    def find(self) -> dict[int, Path]:
        """The logs of those ranks that a GPU can stand for."""
        try:
            found = {rank_of(path.name): path for path in self._log.iterdir()}
        except OSError:
            return {}
        return {rank: path for rank, path in found.items() if rank is not None and rank < MOST_GPUS}

    def conditions(self, gpu: int, time_s: float) -> Conditions:
        """What loads a GPU now; the simulator's own time is not asked."""
        now = self._clock()
        if now - self._polled >= POLL_S:
            self._polled = now
            for rank, path in self.find().items():
                self._ranks.setdefault(rank, _Rank(path)).poll()
            self._loads = {rank: log.load(now) for rank, log in self._ranks.items()}
        return self._loads.get(gpu, IDLE)
