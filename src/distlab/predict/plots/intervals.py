"""Goodput against the checkpoint interval: the closed form, the best interval, and simulated runs beside them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.errors import SettingError
from distlab.predict.goodput import (
    Checkpoint,
    Recovery,
    daly_interval_s,
    goodput,
    optimal_interval_s,
    young_interval_s,
)
from distlab.predict.plots.chart import Chart, Mark, grid, predicted, time_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distlab.predict.failures import Component

SPAN = 30.0
"""How far around the best interval the curve goes, as a factor."""
POINTS = 61
SIMULATED = 6
"""Even: none stands at the best interval, where the marks are."""
REPLICAS, LEAST_REPLICAS = 40, 8
MOST_FAILURES = 100_000
"""Of all simulated runs together: about two seconds of them. Fewer replicas keep to it, or none are run."""
CONFIDENCE_95 = 1.96
"""Standard errors on each side of a mean."""


@dataclass(frozen=True)
class Simulated:
    """Runs at one interval: the mean of their goodput, and its 95% interval of confidence."""

    interval_s: float
    goodput: float
    low: float
    high: float


@dataclass(frozen=True)
class Intervals(Chart):
    """Goodput is a share, 0 to 1; intervals are in seconds."""

    curve: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    """Young, Daly, the best, and what was asked for where it is another."""
    simulated: tuple[Simulated, ...]

    def in_words(self) -> str:
        best_s, best = max(self.curve, key=lambda point: point[1])
        marks = ", ".join(f"{mark.label} {time_text(mark.x)} ({mark.y:.2%})" for mark in self.marks)
        runs = "no simulated runs"
        if self.simulated:
            inside = sum(run.low <= self.at(run.interval_s) <= run.high for run in self.simulated)
            runs = f"the curve lies within the 95% interval of {inside} of {len(self.simulated)} simulated points"
        return (
            f"{self.heading}. A curve over the interval between checkpoints that rises to {best:.2%} at "
            f"{time_text(best_s)} and falls on both sides. Marked: {marks}; {runs}."
        )

    def at(self, interval_s: float) -> float:
        """The curve there, between its points by a straight line."""
        for (x0, y0), (x1, y1) in itertools.pairwise(self.curve):
            if x0 <= interval_s <= x1:
                return y0 + (y1 - y0) * (interval_s - x0) / (x1 - x0)
        raise ValueError(f"interval_s is {interval_s}; the curve does not reach it")


def intervals(
    job: Recovery,
    saving: Checkpoint,
    components: Sequence[Component] = (),
    days: float = 30.0,
    title: str = "Goodput against the checkpoint interval",
    job_in_words: str = "",
) -> Intervals:
    """Around the best interval and `saving`'s own. components: what fails in simulated runs of `days`; () for none.
    job_in_words: on how many GPUs of which kind it runs, and what it saves to.

    SettingError for a job that never fails, and for a save that costs nothing: neither has a best interval.
    """
    if math.isinf(job.mtbf_s):
        raise SettingError(
            "mtbf_h is infinite; a job that never fails has no curve over checkpoint intervals."
        )
    best_s = optimal_interval_s(job, saving)
    if best_s == 0:
        raise SettingError(
            "blocking_s is 0; a save that costs nothing has no curve over checkpoint intervals."
        )
    marks = [
        Mark(name, x, goodput(job, saving.every(x)).useful)
        for name, x in (
            ("Young", young_interval_s(saving.cost_s, job.mtbf_s)),
            ("Daly", daly_interval_s(saving.cost_s, job.mtbf_s)),
            ("best", best_s),
            ("asked", saving.interval_s),
        )
        if x >= _shortest_s(saving) and (name != "asked" or abs(x / best_s - 1) > 0.001)
    ]
    places = [mark.x for mark in marks]
    first = max(_shortest_s(saving), min(places) / SPAN)
    last = max(places) * SPAN
    xs = sorted({*grid(first, last, POINTS), *places})
    curve = tuple((x, goodput(job, saving.every(x)).useful) for x in xs)
    simulated: tuple[Simulated, ...] = ()
    each = SIMULATED * days * 86_400 / job.mtbf_s
    replicas = min(REPLICAS, int(MOST_FAILURES / each))
    if components and replicas >= LEAST_REPLICAS:
        simulated = tuple(
            _runs(job, saving.every(x), components, days, replicas)
            for x in grid(first * 2, last / 2, SIMULATED)
        )
    runs = f" Points: means of {replicas} simulated runs of {days:g} days, with their 95% intervals."
    said = runs if simulated else ""
    caption = f"Curve: the closed form.{said}"
    costs = f"MTBF {time_text(job.mtbf_s)}, a save costs {time_text(saving.cost_s)}"
    about = predicted(job_in_words, costs)
    return Intervals(title, caption, curve, tuple(marks), simulated, about=about)


def _shortest_s(saving: Checkpoint) -> float:
    """A write must end before the next save."""
    return saving.background_s * (1 - saving.slowdown)


def _runs(
    job: Recovery, saving: Checkpoint, components: Sequence[Component], days: float, replicas: int
) -> Simulated:
    from distlab.predict.simulate import Run, simulate

    run = Run(1, tuple(components), saving, job.detection_s, job.restart_s, days)
    found = simulate(run, replicas, seed=1).goodput
    reach = CONFIDENCE_95 * found.error
    return Simulated(saving.interval_s, found.mean, found.mean - reach, found.mean + reach)
