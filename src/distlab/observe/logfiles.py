"""The files of a training run that somebody else writes, maybe at this moment: only what is new is read.

A learner may write anything into a run's folder. Links, pipes and devices are not opened, lines and files have limits,
and what no run writes is counted and left out.
"""

from __future__ import annotations

import fcntl
import math
import os
import stat
import time
import zlib
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice, zip_longest
from pathlib import Path

from distlab.errors import SettingError
from distlab.train.records import (
    LOCK,
    LOG,
    MOST_BYTES,
    RUN,
    LogLine,
    RunInfo,
    parse_info,
    parse_line,
    rank_of,
)

CHUNK_BYTES = 2**18
"""Read from one file at one poll: some hundred lines. A long log is caught up on within a few polls."""
MOST_INFO_BYTES = 2**20
MOST_NAMES = 10_000
"""Of files in a folder that are looked at."""
MOST_RANKS = 1024
MOST_RUN_S = 10 * 365 * 86400.0
AHEAD_S = 300.0
"""How far another machine's clock may be ahead of ours."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RunFiles:
    """What a run leaves in its folder while it runs."""

    def __init__(self, path: Path) -> None:
        """path: `<folder>/<name>`. OSError where it holds no log."""
        self.path = path
        self.problems = 0
        """Files and lines that no run writes."""
        self.info: RunInfo | None = None
        self.running: bool | None = None
        """Does a process hold the run's lock? None where that cannot be told."""
        self.changed_at = 0.0
        """When something was last written into the log: Unix time."""
        self._tails: dict[int, _Tail] = {}
        self._listed = self._first = 0
        self._cut_short = False
        self._read_info = (0, 0)
        with self._open() as (_, log):
            self.identity = os.fstat(log).st_ino
            """A new run of an old name sets the old log aside, and begins another."""

    @property
    def started_at(self) -> float | None:
        """When the last attempt began its log: its `run.json` was written then. Unix time."""
        return self._read_info[1] / 1e9 if self.info is not None else None

    @property
    def files(self) -> int:
        """How many ranks write into this log."""
        return len(self._tails)

    @property
    def caught_up(self) -> bool:
        """Has everything been read that is there?"""
        return not self._cut_short and not any(tail.behind for tail in self._tails.values())

    def look(self) -> None:
        """Only see whether the run goes on. OSError where the log is gone."""
        with self._open() as (run, _):
            self.running = _is_locked(run)

    def poll(self, until: float = math.inf) -> list[LogLine]:
        """The lines that are new, the ranks' in turns. OSError where the log is gone, or is another one now.

        until: when to stop for now (by time.perf_counter); one file is read in any case, another one each time.
        """
        with self._open() as (run, log):
            about = os.fstat(log)
            if about.st_ino != self.identity:
                raise FileNotFoundError(f"{self.path} holds another run now")
            if about.st_mtime_ns != self._listed:
                self._find_tails(log)
                # A file made within the same tick of the file system's clock does not show in it.
                recent = time.time_ns() - about.st_mtime_ns < 1e9
                self._listed = 0 if recent else about.st_mtime_ns
            self._look_at_info(log)
            self.running = _is_locked(
                run
            )  # before the lines are read: the last ones of a run that ends are not lost
            tails = list(self._tails.items())
            first, self._cut_short = self._first % max(1, len(tails)), False
            ranks: list[list[LogLine]] = []
            for number, tail in tails[first:] + tails[:first]:
                if ranks and time.perf_counter() > until:
                    self._cut_short = True
                    break
                ranks.append(self._new_lines(number, tail, log))
            self._first = first + len(ranks)
        in_turns = chain.from_iterable(zip_longest(*ranks))
        return [line for line in in_turns if line is not None]

    @contextmanager
    def _open(self) -> Iterator[tuple[int, int]]:
        run = os.open(self.path, _FOLDER)
        try:
            log = os.open(LOG, _FOLDER, dir_fd=run)
            try:
                yield run, log
            finally:
                os.close(log)
        finally:
            os.close(run)

    def _find_tails(self, log: int) -> None:
        with os.scandir(log) as entries:
            names = [entry.name for entry in islice(entries, MOST_NAMES)]
        for name in names:
            rank = rank_of(name)
            if rank is not None and rank < MOST_RANKS and rank not in self._tails:
                self._tails[rank] = _Tail(name)

    def _look_at_info(self, log: int) -> None:
        try:
            about = os.stat(RUN, dir_fd=log, follow_symlinks=False)
            if (about.st_ino, about.st_mtime_ns) == self._read_info:
                return
            self._read_info = about.st_ino, about.st_mtime_ns
            with _open_file(RUN, log) as file:
                content = os.read(file, MOST_INFO_BYTES + 1)
            if len(content) > MOST_INFO_BYTES:
                raise SettingError(f"{self.path} holds a {RUN} of over {MOST_INFO_BYTES} bytes.")
            self.info = parse_info(content, str(self.path))
        except FileNotFoundError:  # it is written in a moment
            return
        except (OSError, SettingError):
            self.problems += 1

    def _new_lines(self, rank: int, tail: _Tail, log: int) -> list[LogLine]:
        lines = []
        try:
            raw = tail.read(log)
        except OSError:  # it was set aside, or is no regular file
            tail.behind = False
            return []
        for content in raw:
            with suppress(SettingError):
                line = parse_line(content.decode("utf-8", "replace"), tail.name)
                if (
                    line.rank == rank
                    and 0 <= line.run_s < MOST_RUN_S
                    and 0 < line.time < time.time() + AHEAD_S
                ):
                    lines.append(line)
        self.problems += len(raw) - len(lines)
        self.changed_at = max(self.changed_at, tail.changed_at)
        return lines


class _Tail:
    """A file that grows, and that is cut now and then: a run that resumes takes back the lines of undone steps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.changed_at = 0.0
        self.behind = True
        self._seen = (0, 0, 0)
        self._file = 0
        self._ends = array("Q")
        """Where each line that was read ends, and the sum of its bytes."""
        self._sums = array("I")

    def read(self, log: int) -> list[bytes]:
        """The whole lines that follow those that were read and still stand; at most CHUNK_BYTES of them."""
        about = os.stat(self.name, dir_fd=log, follow_symlinks=False)
        seen = (about.st_ino, about.st_size, about.st_mtime_ns)
        if seen == self._seen or not stat.S_ISREG(about.st_mode):
            return []
        with _open_file(self.name, log) as file:
            if about.st_ino != self._file:
                self._file = about.st_ino
                self._keep(0)
            elif not self._stands(file, len(self._ends) - 1):
                self._keep(self._standing(file))
            start = self._ends[-1] if self._ends else 0
            content = os.pread(file, min(CHUNK_BYTES, MOST_BYTES - start), start)
        lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
        for line in lines:
            start += len(line)
            self._ends.append(start)
            self._sums.append(zlib.crc32(line))
        # All is read, or the rest is one endless line.
        self.behind = len(content) == CHUNK_BYTES and bool(lines)
        if not self.behind:
            self._seen = seen
        self.changed_at = about.st_mtime
        return lines

    def _standing(self, file: int) -> int:
        """How many lines are where they were. A file is cut at one place, so that those before it all are."""
        low, high = 0, len(self._ends)
        while low < high:
            middle = (low + high) // 2
            if self._stands(file, middle):
                low = middle + 1
            else:
                high = middle
        return low

    def _stands(self, file: int, line: int) -> bool:
        if line < 0:
            return True
        start = self._ends[line - 1] if line else 0
        length = self._ends[line] - start
        content = os.pread(file, length, start)
        return len(content) == length and zlib.crc32(content) == self._sums[line]

    def _keep(self, lines: int) -> None:
        del self._ends[lines:], self._sums[lines:]


@contextmanager
def _open_file(name: str, folder: int) -> Iterator[int]:
    file = os.open(name, _FILE, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{name} is not a regular file")
        yield file
    finally:
        os.close(file)


def _is_locked(run: int) -> bool | None:
    """Does another process hold the run's lock? Asking holds it for a moment, for which a run waits (lock.py)."""
    try:
        with _open_file(LOCK, run) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:  # not ours to open, a link, or a file system without locks
        return None
