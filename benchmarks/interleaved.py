"""Compare ways of doing the same work so that the machine's moods hit all of them alike.

The ways take turns, a few steps each, within one run. What is reported is the median over the turns of the
ratio of neighbours, with an interval that holds the true median with 95% confidence, whatever the distribution
(order statistics: Hahn and Meeker, 1991, Statistical Intervals, section 5.2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """Median of the ratios, and the interval that holds it with 95% confidence."""

    median: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ours over theirs, turn by turn; at least 6 turns."""
    ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    n = len(ratios)
    # Of n values, the number under the median is binomial(n, 1/2).
    rank, below = 0, 0.0
    while (below := below + math.comb(n, rank) / 2**n) <= 0.025:
        rank += 1
    if rank == 0:
        raise ValueError(f"{n} turns are too few for a 95% interval; take at least 6.")
    return Ratio(statistics.median(ratios), ratios[rank - 1], ratios[n - rank])


def take_turns(
    ways: Sequence[Callable[[], float]],
    close_enough: Callable[[list[list[float]]], bool],
    least: int = 12,
    most: int = 150,
) -> list[list[float]]:
    """Seconds of each turn of each way. `close_enough` says when to stop, and must agree on all ranks."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(most):
        order = range(len(ways)) if turn % 2 == 0 else reversed(range(len(ways)))
        for i in order:
            times[i].append(ways[i]())
        if turn + 1 >= least and close_enough(times):
            break
    return times
