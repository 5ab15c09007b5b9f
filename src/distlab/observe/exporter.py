"""`distlab observe export`: GPUs, training runs and their cost for Prometheus, at http://127.0.0.1:9400/metrics.

    distlab observe export                                    # the driver's GPUs; simulated ones without a driver
    distlab observe export --follow runs/fsdp_2gpu            # simulated GPUs under the load of a run on CPUs
    distlab observe export --prices ours.yml --budget demo=50

The source is read once a period, whoever scrapes, so that no XID is missed and money is counted. A scrape is answered
from the last reading; one that is older than STALE_PERIODS periods is not served: where nothing is known, there is a
gap. A source that fails is opened again and again, and the training runs' metrics go on meanwhile.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from distlab.errors import printable
from distlab.observe.bill import Bill
from distlab.observe.cost import Budgets
from distlab.observe.exposition import Page
from distlab.observe.gpu_metrics import GpuMetrics, write_source
from distlab.observe.owners import find_owners, labels_of, shown_here
from distlab.observe.runs import Runs
from distlab.observe.sample import Reading, SampleTier, Source
from distlab.predict.hardware.prices import PriceTable

STALE_PERIODS = 4
STALE_LEAST_S = 5.0
RETRY_S = 5.0
"""After a source could not be opened."""


@dataclass
class _Look:
    """A reading, and when it came (by the monotonic clock)."""

    reading: Reading
    at_s: float


@dataclass
class Exporter:
    """Reads a source and follows runs in the background; `page` is what Prometheus gets."""

    open: Callable[[], Source]
    """Opens the source. SettingError where that cannot be now."""
    tier: SampleTier
    """Of the source, once it can be opened."""
    runs: Runs
    prices: PriceTable
    budgets: Budgets = field(default_factory=Budgets)
    period_s: float = 1.0
    follow: Path | None = None
    """The run whose load simulated GPUs show."""
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)

    def __post_init__(self) -> None:
        self.bill = Bill(self.prices, self.budgets)
        self.gpus = GpuMetrics(self.prices)
        self._look: _Look | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._told: dict[str, set[str]] = {}
        self._scrape_s: float | None = None
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True)
            for name, loop in (("source", self._watch), ("runs", self._follow))
        ]

    def __enter__(self) -> Exporter:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=2)  # a driver that hangs is left behind

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        started = time.perf_counter()
        page = Page()
        with self._lock:
            runs = self.runs.followed()
            reading = self._fresh()
            up = reading is not None and is_up(reading)
            write_source(page, self.tier, reading, up)
            if reading is not None and up:
                self.gpus.write(page, reading, labels_of(find_owners(reading.samples, runs, self.follow)))
                self.gpus.write_lost(page, reading)
            shown = [run for run in shown_here(runs, self.gpus.known.values()) if run.caught_up]
            for run in shown:
                run.write(page)
            self.bill.write(page, shown)
        page.add("distlab_exporter_scrape_seconds", "", self._scrape_s)
        page.add("distlab_exporter_cpu_seconds_total", "", time.process_time())
        page.add("distlab_exporter_run_problems", "", self.runs.problems)
        text = page.render()
        self._scrape_s = time.perf_counter() - started
        return text

    def _fresh(self) -> Reading | None:
        look = self._look
        stale_s = max(STALE_PERIODS * self.period_s, STALE_LEAST_S)
        return look.reading if look and time.monotonic() - look.at_s <= stale_s else None

    def _watch(self) -> None:
        """Read the source, for ever."""
        source: Source | None = None
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                source = source or self.open()
                reading = source.read()
            except Exception as error:  # whatever a driver does: the exporter stays up
                self._tell("source", {f"GPUs cannot be read, and it is tried again: {printable(str(error))}"})
                _close(source)
                source = None
                self._stop.wait(RETRY_S)
                continue
            with self._lock:
                self.tier = source.tier
                self._take(reading)
            self._tell("source", {problem.what for problem in reading.problems})
            self._stop.wait(max(0.0, self.period_s - (time.monotonic() - started)))
        _close(source)

    def _take(self, reading: Reading) -> None:
        now = time.monotonic()
        known = self._fresh() is not None and self._look is not None
        # What passed unseen is nobody's: a gap is a gap in the bill, too.
        passed_s = now - self._look.at_s if known and self._look else 0.0
        self._look = _Look(reading, now)
        self.gpus.take(reading)
        owners = find_owners(reading.samples, self.runs.followed(), self.follow)
        self.bill.take(reading, owners, passed_s)
        names = map(printable, self.bill.unpriced)
        self._tell(
            "prices", {f"There is no price for {name}: its cost is left out; see --prices." for name in names}
        )

    def _follow(self) -> None:
        """Follow the runs, for ever."""
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with self._lock:
                    self.runs.poll()
            except Exception as error:  # a folder that anybody may have filled: the GPUs' metrics go on
                self._tell(
                    "runs", {f"Runs in {self.runs.folder} cannot be followed: {printable(str(error))}"}
                )
            self._stop.wait(max(0.05, self.period_s - (time.monotonic() - started)))

    def _tell(self, about: str, sentences: set[str]) -> None:
        """Say what is new since the last time."""
        for sentence in sorted(sentences - self._told.get(about, set())):
            self.say(sentence)
        self._told[about] = sentences


def is_up(reading: Reading) -> bool:
    """Can GPUs be read? Not where none was and the source as a whole is to blame."""
    return bool(reading.samples) or all(problem.gpu is not None for problem in reading.problems)


def _close(source: Source | None) -> None:
    try:
        if source is not None:
            source.close()
    except Exception:  # it failed, and is given up
        pass
