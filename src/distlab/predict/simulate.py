"""A whole run, event by event: failures, restarts, saves, spares that run out, elastic worlds, stragglers. Seeded.

    run = Run(nodes=2048, components=llama3_components(), saving=Checkpoint(600, blocking_s=5, background_s=60),
              detection_s=60, restart_s=300, spares=32, repair_h=24)
    simulate_run(run, seed=1).shares["useful"]
    simulate(run, replicas=1000, seed=1).goodput        # mean, and the 95% interval over runs

Where failures are all that happens this agrees with goodput.py; it is for what has no closed form. The clock jumps from
one event of a node to the next, and whole cycles of training and saving in between are counted, not stepped through: 54
days of 16,384 GPUs take 2 to 5 ms of one core. A process for each node with a queue of events, as simpy has it, would
pay for every save of the run, and in simpy for a generator on top.

Simplifications: repairs take an exponential time; spares do not fail; a failure stops the whole job, and detection and
restart take the same time each time; a straggler slows every step (synchronous training waits for the slowest), and
several at once slow it no further.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Literal

from distlab.errors import SettingError
from distlab.predict.failures import Component, not_negative, positive
from distlab.predict.goodput import Checkpoint
from distlab.predict.units import DAY_S

World = Literal["fixed", "elastic"]

SHARES = ("useful", "checkpoint", "lost", "detection", "restart", "waiting", "straggler", "missing")
"""Where wall time goes; they add up to 1. waiting: for a node, none being spare. missing: the part of an elastic world
that is in repair. lost: work done again; the saves of that time stay in checkpoint."""


@dataclass(frozen=True)
class Run:
    """What is simulated. Components give the failures of the full world; which node it is does not matter."""

    nodes: int
    components: tuple[Component, ...]
    saving: Checkpoint
    detection_s: float = 60.0
    restart_s: float = 300.0
    days: float = 54.0
    world: World = "fixed"
    """fixed: waits until `nodes` are there. elastic: goes on with fewer, slower in proportion; repaired nodes join at
    the next restart."""
    least_nodes: int = 1
    """An elastic world waits below this."""
    spares: int = 0
    repair_h: float = 0.0
    """Mean, until a node that failed is a spare again; 0: at once."""
    straggler_mtbf_h: float = math.inf
    """Hours until a node turns slow, on average, for each node."""
    straggler_slowdown: float = 0.0
    """How much longer each step takes while one is slow: 0.1 is 10%."""
    straggler_s: float = 0.0
    """Until it is found and set right."""

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise SettingError(f"nodes is {self.nodes}; it must be 1 or more.")
        if self.world not in ("fixed", "elastic"):
            raise SettingError(f"world is {self.world!r}; it is 'fixed' or 'elastic'.")
        if not 1 <= self.least_nodes <= self.nodes:
            raise SettingError(
                f"least_nodes is {self.least_nodes}; it lies between 1 and nodes, {self.nodes}."
            )
        if self.spares < 0:
            raise SettingError(f"spares is {self.spares}; it is 0 or more.")
        for name in ("detection_s", "restart_s", "repair_h", "straggler_slowdown", "straggler_s"):
            not_negative(name, getattr(self, name))
        positive("days", not_negative("days", self.days))
        positive("straggler_mtbf_h", self.straggler_mtbf_h, infinite=True)
        expected = self.days * 24 * (self.failures_per_h + self.nodes / self.straggler_mtbf_h)
        if expected > _MOST_EVENTS:
            raise SettingError(
                f"the run would see about {expected:.3g} failures and stragglers, above {_MOST_EVENTS:,}; "
                "give a longer mtbf_h or fewer days."
            )

    @property
    def failures_per_h(self) -> float:
        return sum(component.failures_per_h for component in self.components)


_MOST_EVENTS = 1_000_000


@dataclass(frozen=True)
class Outcome:
    """One run."""

    shares: dict[str, float]
    """Of wall time, by the names in SHARES."""
    failures: int
    by_component: dict[str, int]
    saves: int
    """Checkpoints that were written."""
    longest_wait_s: float
    fewest_nodes: int
    """With which it trained."""

    @property
    def goodput(self) -> float:
        return self.shares["useful"]


def simulate_run(run: Run, seed: int | str = 0) -> Outcome:
    """One run of `run.days`. The same seed gives the same run."""
    return _Simulation(run, random.Random(seed)).run_to_end()


@dataclass
class _Progress:
    """Work since the start, and where the cycle of training and saving stands. Work is in seconds at full pace."""

    saving: Checkpoint
    done_s: float = 0.0
    """Work so far in this cycle."""
    blocked_s: float = 0.0
    """Of the save at the cycle's end."""
    writing_s: float = 0.0
    """Left of a background write."""
    total_s: float = 0.0
    pending_s: float = 0.0
    """Work that the save being written holds."""
    kept_s: float = 0.0
    """Work that is safe."""
    saves: int = 0
    checkpoint_s: float = 0.0

    def advance(self, span_s: float, pace: float) -> None:
        """Train and save for `span_s` of wall time at `pace` (1: full)."""
        saving = self.saving
        while span_s > 0:
            if self.done_s == 0 and self.blocked_s == 0 and self.writing_s == saving.background_s:
                span_s = self._whole_cycles(span_s, pace)
            left_s = saving.interval_s - self.done_s
            if left_s > 0:
                now = pace * (1 - saving.slowdown) if self.writing_s > 0 else pace
                # What ends first: the work of this interval, the background write, or the span.
                step_s = min(left_s / now, span_s, self.writing_s or math.inf)
                self._work(step_s, now, pace, ends=step_s == left_s / now)
            else:
                step_s = min(saving.blocking_s - self.blocked_s, span_s)
                self.blocked_s += step_s
                self.checkpoint_s += step_s
                if self.blocked_s >= saving.blocking_s:
                    self._save()
            span_s -= step_s

    def _whole_cycles(self, span_s: float, pace: float) -> float:
        """Count the cycles that fit into the span, all alike; what is left of the span."""
        saving = self.saving
        cycle_s = saving.interval_s / pace + saving.cost_s
        count = int(span_s / cycle_s)
        if count:
            self.total_s += count * saving.interval_s
            self.checkpoint_s += count * (saving.blocking_s + saving.slowdown * saving.background_s * pace)
            self.saves += count
            self.pending_s = self.total_s
            self.kept_s = self.total_s - (saving.interval_s if saving.background_s else 0.0)
            return max(0.0, span_s - count * cycle_s)
        return span_s

    def _work(self, step_s: float, now: float, pace: float, *, ends: bool) -> None:
        work_s = self.saving.interval_s - self.done_s if ends else step_s * now
        self.done_s = self.saving.interval_s if ends else self.done_s + work_s
        self.total_s += work_s
        self.checkpoint_s += step_s * (pace - now)
        # Checkpoint makes sure that the write ends before the interval's work does; rounding may not.
        self._write(self.writing_s if ends else step_s)

    def _write(self, step_s: float) -> None:
        if self.writing_s > 0:
            self.writing_s = max(0.0, self.writing_s - step_s)
            if self.writing_s == 0:
                self.kept_s = self.pending_s
                self.saves += 1

    def _save(self) -> None:
        """The copy is taken: the next cycle begins, and the write with it."""
        self.done_s = self.blocked_s = 0.0
        self.pending_s = self.total_s
        self.writing_s = self.saving.background_s
        if not self.writing_s:
            self.kept_s = self.total_s
            self.saves += 1

    def fail(self) -> float:
        """Back to the last checkpoint that was written; the work that is lost."""
        lost_s = self.total_s - self.kept_s
        self.total_s = self.pending_s = self.kept_s
        self.done_s = self.blocked_s = self.writing_s = 0.0
        return lost_s


@dataclass
class _Simulation:
    run: Run
    draw: random.Random
    now_s: float = 0.0
    repairs: list[float] = field(default_factory=list)
    """When each node in repair is back: a heap."""
    failures: int = 0
    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SHARES, 0.0))
    longest_wait_s: float = 0.0
    slow_until_s: float = -1.0

    def __post_init__(self) -> None:
        self.end_s = self.run.days * DAY_S
        self.active = self.fewest = self.run.nodes
        self.spares = self.run.spares
        self.progress = _Progress(self.run.saving)
        self.causes: Counter[str] = Counter()
        self.rate_per_s = self.run.failures_per_h / 3600
        self.weights = [component.failures_per_h for component in self.run.components]
        self.next_straggler_s = self._after(self.run.nodes / self.run.straggler_mtbf_h / 3600)

    def _after(self, rate_per_s: float) -> float:
        return self.now_s + (self.draw.expovariate(rate_per_s) if rate_per_s > 0 else math.inf)

    def run_to_end(self) -> Outcome:
        fails_s = self._next_failure()
        while self.now_s < self.end_s:
            self._train_until(min(fails_s, self.end_s))
            if self.now_s < self.end_s:
                self.spent["lost"] += self.progress.fail()
                fails_s = self._recover()
        return self._outcome()

    def _next_failure(self) -> float:
        return self._after(self.rate_per_s * self.active / self.run.nodes)

    def _train_until(self, until_s: float) -> None:
        """Train, at full pace or at that of a straggler; the world stays the same."""
        present = self.active / self.run.nodes
        while self.now_s < until_s:
            self._note_stragglers()
            slow = self.now_s < self.slow_until_s
            stop_s = min(until_s, self.slow_until_s if slow else self.next_straggler_s)
            span_s = stop_s - self.now_s
            pace = present / (1 + self.run.straggler_slowdown) if slow else present
            blocked_s = self.progress.checkpoint_s
            worked_s = self.progress.total_s
            self.progress.advance(span_s, pace)
            # What neither worked nor saved was missing nodes, or waited for the slow one.
            saved_s = self.progress.checkpoint_s - blocked_s
            idle_s = span_s - saved_s - (self.progress.total_s - worked_s)
            self.spent["checkpoint"] += saved_s
            missing_s = idle_s * (1 - present) / (1 - pace) if pace < 1 else 0.0
            self.spent["missing"] += missing_s
            self.spent["straggler"] += idle_s - missing_s if slow else 0.0
            self.now_s = stop_s

    def _note_stragglers(self) -> None:
        while self.next_straggler_s <= self.now_s:
            self.slow_until_s = max(self.slow_until_s, self.next_straggler_s + self.run.straggler_s)
            self.next_straggler_s += self.draw.expovariate(self.run.nodes / self.run.straggler_mtbf_h / 3600)

    def _recover(self) -> float:
        """From a failure to the first new step, failures on the way included; when the next failure strikes."""
        while True:
            self._fail()
            self._pass("detection", self.run.detection_s)
            self._find_nodes()
            fails_s = self._next_failure()
            if fails_s >= self.now_s + self.run.restart_s:
                self._pass("restart", self.run.restart_s)
                return fails_s
            self._pass("restart", fails_s - self.now_s)
            if self.now_s >= self.end_s:
                return fails_s

    def _fail(self) -> None:
        (component,) = self.draw.choices(self.run.components, self.weights)
        self.failures += 1
        self.causes[component.name] += 1
        if component.replaced and self.run.repair_h:
            self.active -= 1
            heappush(self.repairs, self.now_s + self.draw.expovariate(1 / (self.run.repair_h * 3600)))

    def _find_nodes(self) -> None:
        """Fill the world from the spares; wait for repairs while it is too small."""
        least = self.run.nodes if self.run.world == "fixed" else self.run.least_nodes
        began_s = self.now_s
        self._join()
        while self.active < least and self.now_s < self.end_s:
            self._pass("waiting", max(0.0, self.repairs[0] - self.now_s))
            self._join()
        self.longest_wait_s = max(self.longest_wait_s, self.now_s - began_s)
        if self.active >= least:
            self.fewest = min(self.fewest, self.active)

    def _join(self) -> None:
        while self.repairs and self.repairs[0] <= self.now_s:
            heappop(self.repairs)
            self.spares += 1
        joining = min(self.spares, self.run.nodes - self.active)
        self.active += joining
        self.spares -= joining

    def _pass(self, name: str, span_s: float) -> None:
        span_s = min(span_s, self.end_s - self.now_s)
        self.spent[name] += span_s
        self.now_s += span_s

    def _outcome(self) -> Outcome:
        self.spent["useful"] = self.progress.total_s
        return Outcome(
            {name: spent_s / self.end_s for name, spent_s in self.spent.items()},
            self.failures,
            dict(self.causes),
            self.progress.saves,
            self.longest_wait_s,
            self.fewest,
        )


@dataclass(frozen=True)
class Spread:
    """A figure over replicas."""

    mean: float
    low: float
    """2.5% of the runs are below."""
    high: float
    error: float
    """Standard error of the mean."""


@dataclass(frozen=True)
class Summary:
    """Many runs that differ in their seed."""

    replicas: int
    goodput: Spread
    failures: Spread
    saves: Spread
    longest_wait_s: Spread
    shares: dict[str, float]
    """Means, by the names in SHARES."""


def simulate(
    run: Run, replicas: int = 100, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Summary:
    """`replicas` runs, replica i with seed "`seed`:i"; `progress` is called with the number done after each."""
    if replicas < 2:
        raise SettingError(f"replicas is {replicas}; an interval needs 2 or more.")
    outcomes = []
    for number in range(replicas):
        outcomes.append(simulate_run(run, f"{seed}:{number}"))
        if progress:
            progress(number + 1)
    return Summary(
        replicas,
        goodput=_spread([outcome.goodput for outcome in outcomes]),
        failures=_spread([outcome.failures for outcome in outcomes]),
        saves=_spread([outcome.saves for outcome in outcomes]),
        longest_wait_s=_spread([outcome.longest_wait_s for outcome in outcomes]),
        shares={name: sum(outcome.shares[name] for outcome in outcomes) / replicas for name in SHARES},
    )


def _spread(values: list[float]) -> Spread:
    ordered = sorted(values)
    n = len(ordered)
    mean = sum(ordered) / n
    error = math.sqrt(sum((value - mean) ** 2 for value in ordered) / (n - 1) / n)
    return Spread(mean, _at(ordered, 0.025), _at(ordered, 0.975), error)


def _at(ordered: list[float], share: float) -> float:
    """Quantile of sorted values, by linear interpolation."""
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
