"""Training runs, finished or going on, as metrics: their logs are followed, and nothing in a run knows of it.

runs = Runs(Path("runs"))
runs.poll()                                   # every second
for run in runs.followed():
    print(run.name, run.running, run.account.goodput)
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from distlab.errors import printable
from distlab.observe.account import Account
from distlab.observe.exposition import Page, labels
from distlab.observe.logfiles import MOST_NAMES, RunFiles
from distlab.observe.metrics import METRICS
from distlab.train.config import NAME
from distlab.train.records import LOCK, LOG, LogLine, Place

SCAN_S = 5.0
"""How often new runs are looked for."""
POLL_S = 0.2
"""How long reading may take each time, however much there is: it waits in the way of scrapes."""
KEEP_S = 3600.0
"""How long a run is shown after it ended."""
STALLED_S, STALLED_STEPS = 60.0, 10
"""A run hangs when a rank has logged nothing for both: seconds, and times its mean step."""
MOST_RUNS = 64
MOST_LABEL = 128
"""Characters of a label that a learner chooses."""


@dataclass
class RankTotals:
    """What a rank's lines add up to, those of undone steps included."""

    last: LogLine
    steps: int = 0
    step_s: float = 0.0
    data_s: float = 0.0
    compute_s: float = 0.0
    communication_s: float = 0.0
    samples: float = 0.0
    tokens: float = 0.0

    def add(self, line: LogLine) -> None:
        self.last = line
        self.steps += 1
        self.step_s += line.step_s
        self.data_s += max(0.0, line.data_s)
        self.compute_s += max(0.0, line.compute_s)
        self.communication_s += max(0.0, line.communication_s)
        self.samples += max(0.0, line.samples_per_s) * line.step_s
        self.tokens += max(0.0, line.tokens_per_s) * line.step_s


class Run:
    """One run, as its log shows it."""

    def __init__(self, path: Path) -> None:
        """OSError where there is no log."""
        self.name = path.name
        self.files = RunFiles(path)
        self.account = Account()
        self.ranks: dict[int, RankTotals] = {}
        self.restarts = 0
        self.caught_up = False
        """Has all been read that was there at first? Before that, counters would seem to fall and rise again."""
        self.spent_s = 0.0
        """Rank-seconds, those included that no line accounts for yet, or ever: of a run that hangs."""
        self.wasted_s = self.account.wasted_s
        """By reason, the same included: a run that hangs, or ends before its goal, has failed."""
        self.polled_at = 0.0
        """By time.perf_counter."""
        self._unlogged: dict[int, float] = {}
        """Seconds since each rank's last line; of a run that has ended, when it was last seen to go on."""
        self._lost_s = 0.0
        """Of those, what no later line accounted for."""

    @property
    def running(self) -> bool | None:
        """None where that cannot be told."""
        return self.files.running

    @property
    def newest(self) -> LogLine | None:
        """The line that was written last."""
        return max((rank.last for rank in self.ranks.values()), key=lambda line: line.time, default=None)

    @property
    def tier(self) -> str | None:
        """`gpu` or `cpu`; None where neither a step nor the stamp says it."""
        if self.newest is not None:
            return self.newest.tier
        told = self.files.info.stamp.get("tier") if self.files.info else None
        return told if told in ("gpu", "cpu") else None

    @property
    def job(self) -> str:
        """Whose run it is."""
        job = self.files.info.job if self.files.info else ""
        return printable(job)[:MOST_LABEL] or self.name

    @property
    def goal(self) -> int | None:
        """Steps that the run is to take."""
        return (
            int(self.files.info.config["steps"])
            if self.files.info and "steps" in self.files.info.config
            else None
        )

    @property
    def places(self) -> list[Place]:
        """Where the ranks of the last attempt are."""
        return self.files.info.places() if self.files.info else []

    @property
    def finished(self) -> bool:
        """Was the last step the last one that it was to take?"""
        return self.newest is not None and self.goal is not None and self.newest.step + 1 >= self.goal

    def poll(self, now: float, until: float = math.inf) -> None:
        """Read on. OSError where the log is gone. now: Unix time. until: see RunFiles.poll."""
        for line in self.files.poll(until):
            since_last_s = self.account.add(line, self.files.files)
            self._lost_s += max(0.0, self._unlogged.pop(line.rank, 0.0) - since_last_s)
            rank = self.ranks.get(line.rank)
            if rank is None:
                rank = self.ranks[line.rank] = RankTotals(line)
            rank.add(line)
            self.restarts = max(self.restarts, line.attempt)
        if self.files.caught_up:
            self.caught_up = True
            self._look_beyond_the_log(now)

    def _look_beyond_the_log(self, now: float) -> None:
        """What has been spent, and for what, since the last lines."""
        stalled_s = 0.0
        if self.running:
            before, since = self._unlogged, self.account.unlogged_since
            self._unlogged = {rank: max(0.0, now - then) for rank, then in since.items()}
            self._lost_s += sum(gone_s for rank, gone_s in before.items() if rank not in since)
            for number, unlogged_s in self._unlogged.items():
                rank = self.ranks[number]
                patience_s = max(STALLED_S, STALLED_STEPS * rank.step_s / rank.steps)
                stalled_s += max(0.0, unlogged_s - patience_s)
        else:
            self.account.settle(self.finished)
        unlogged_s = sum(self._unlogged.values())
        wasted = self.account.wasted_s
        wasted["failure"] += self._lost_s + stalled_s
        if not self.running:
            wasted["idle" if self.finished else "failure"] += unlogged_s
        self.spent_s = max(self.spent_s, self.account.paid_s + self._lost_s + unlogged_s)
        self.wasted_s = {reason: max(self.wasted_s[reason], wasted_s) for reason, wasted_s in wasted.items()}

    def labels(self) -> dict[str, str]:
        """RUN_LABELS."""
        return {"run": self.name, "job_name": self.job, "tier": self.tier or ""}

    def write(self, page: Page) -> None:
        """Its metrics. What only means something now is left out once it has ended."""
        newest = self.newest
        if newest is None and self.files.info is None:
            return
        own = self.labels()
        text = labels(METRICS["distlab_train_running"], **own)
        if self.running is not None:
            page.add("distlab_train_running", text, int(self.running))
        page.add("distlab_train_start_timestamp_seconds", text, self.files.started_at)
        page.add("distlab_train_world_size", text, newest.world_size if newest else len(self.places) or None)
        if newest is None:  # it may hang before its first step, and nobody else would say so
            return
        page.add("distlab_train_step", text, newest.step)
        page.add("distlab_train_steps_goal", text, self.goal)
        page.add("distlab_train_goodput_ratio", text, self.account.goodput)
        page.add("distlab_train_restarts_total", text, self.restarts)
        if self.running is not False:
            page.add("distlab_train_loss", text, newest.loss)
            page.add("distlab_train_learning_rate", text, newest.learning_rate)
        for number, rank in self.ranks.items():
            text = labels(METRICS["distlab_train_steps_total"], rank=str(number), **own)
            page.add("distlab_train_last_step_timestamp_seconds", text, rank.last.time)
            page.add("distlab_train_steps_total", text, rank.steps)
            page.add("distlab_train_step_seconds_total", text, rank.step_s)
            page.add("distlab_train_data_seconds_total", text, rank.data_s)
            page.add("distlab_train_compute_seconds_total", text, rank.compute_s)
            page.add("distlab_train_communication_seconds_total", text, rank.communication_s)
            page.add("distlab_train_samples_total", text, rank.samples)
            page.add("distlab_train_tokens_total", text, rank.tokens)
            if self.running is not False and number < newest.world_size:
                page.add("distlab_train_mfu_ratio", text, rank.last.mfu)
                page.add("distlab_train_ram_bytes", text, rank.last.ram_bytes)
                page.add("distlab_train_vram_bytes", text, rank.last.vram_bytes)


def steady_clock() -> Callable[[], float]:
    """Unix time that no correction of the system's clock moves: a jump is not charged to anybody."""
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()


class Runs:
    """The runs in a folder that go on or ended within KEEP_S; at most MOST_RUNS, those first that changed last."""

    def __init__(self, folder: Path, clock: Callable[[], float] | None = None) -> None:
        """The folder need not exist yet. clock: Unix time; without it, `steady_clock`."""
        self.folder = folder
        self.left_out = 0
        """Runs that are more than MOST_RUNS."""
        self._clock = clock or steady_clock()
        self._runs: dict[str, Run] = {}
        self._scanned_at: float | None = None

    def followed(self) -> list[Run]:
        """In the order in which they were found."""
        return list(self._runs.values())

    @property
    def problems(self) -> int:
        """Files, lines and runs that were left out."""
        return self.left_out + sum(run.files.problems for run in self._runs.values())

    def poll(self) -> None:
        """Look for new runs now and then, and read on in those that go on."""
        now = self._clock()
        scan = self._scanned_at is None or not 0 <= now - self._scanned_at < SCAN_S
        if scan:
            self._scanned_at = now
            self._find(now)
        until = time.perf_counter() + POLL_S
        waiting = [run for run in self._runs.values() if scan or run.running or not run.files.caught_up]
        waiting.sort(key=lambda run: run.polled_at)  # whoever had no turn the last time has the first one
        for run in waiting:
            try:
                run.poll(now, until)
            except Exception:
                # Deleted, or another run of that name has begun; or what nobody foresaw in a folder that anybody may
                # have filled. It is looked for at the next scan, and the others go on.
                del self._runs[run.name]
            run.polled_at = time.perf_counter()
            if run.polled_at > until:
                break

    def _find(self, now: float) -> None:
        recent = dict(sorted(self._recent(now), key=lambda found: -found[1]))
        self.left_out = max(0, len(recent) - MOST_RUNS)
        wanted = list(recent)[:MOST_RUNS]
        self._runs = {name: run for name, run in self._runs.items() if name in wanted}
        for name in wanted:
            if name not in self._runs:
                with suppress(OSError):
                    self._runs[name] = Run(self.folder / name)

    def _recent(self, now: float) -> Iterator[tuple[str, float]]:
        """Names of runs, and when they changed last."""
        try:
            with os.scandir(self.folder) as entries:
                names = [e.name for e in islice(entries, MOST_NAMES) if e.is_dir(follow_symlinks=False)]
        except OSError:  # there is no such folder yet
            return
        for name in names:
            if not NAME.fullmatch(name) or len(name) > MOST_LABEL:
                continue
            changed_at = max(self._changed_at(name, LOG), self._changed_at(name, f"{LOG}/rank_0.jsonl"))
            if name in self._runs and self._runs[name].running:
                changed_at = now
            if now - changed_at < KEEP_S or (
                changed_at and self._changed_at(name, LOCK) and self._goes_on(name)
            ):
                yield name, changed_at

    def _changed_at(self, name: str, file: str) -> float:
        try:
            return os.stat(self.folder / name / file, follow_symlinks=False).st_mtime
        except OSError:
            return 0.0

    def _goes_on(self, name: str) -> bool:
        """A run that has written nothing for an hour may hang."""
        with suppress(OSError):
            run = RunFiles(self.folder / name)
            run.look()
            return bool(run.running)
        return False
