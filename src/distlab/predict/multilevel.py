"""Checkpoints at several levels: cheap copies for common failures, dear ones for the rest.

    levels = [Level("partner's memory", cost_s=0.5, share=0.95), Level("file system", cost_s=60, share=0.05)]
    intervals = optimal_intervals_s(levels, mtbf_s=3.09 * 3600)
    first_order_waste(levels, intervals, mtbf_s=3.09 * 3600)       # 2.8%; the file system alone: 10.4%
    simulated_waste(levels, intervals, mtbf_s=3.09 * 3600)         # the same by drawing failures

A failure is of the kind of the *fastest* level whose copy survives it. It destroys the copies of all levels before
that one and falls back to the newest copy that is left. Detection and restart are not in here: goodput.py has them.

The first order treats the levels as independent, each with its own share of the failures, as Young's formula does
one level. Two-level schemes were analysed by Vaidya (1995); Moody et al. (SC'10) measured them with SCR.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.failures import not_negative, positive


@dataclass(frozen=True)
class Level:
    """One place for copies; levels are listed from the fastest to the safest."""

    name: str
    cost_s: float
    """Training stands still for so long at each save."""
    share: float
    """Of failures, those for which this level's copy is the fastest that survives."""

    def __post_init__(self) -> None:
        positive(f"cost_s of {self.name}", self.cost_s)
        if not 0 < self.share <= 1:
            raise SettingError(f"share of {self.name} is {self.share}; it is above 0 and at most 1.")


def optimal_intervals_s(levels: Sequence[Level], mtbf_s: float) -> list[float]:
    """Useful work between two saves of each level: sqrt(2 C M / q), Young's interval for its own failures."""
    _check(levels)
    positive("mtbf_s", mtbf_s)
    return [math.sqrt(2 * level.cost_s * mtbf_s / level.share) for level in levels]


def first_order_waste(levels: Sequence[Level], intervals_s: Sequence[float], mtbf_s: float) -> float:
    """Share of time: the sum over levels of C/T + q T/(2M); at the optimal intervals, of sqrt(2 C q / M)."""
    _check(levels, intervals_s)
    positive("mtbf_s", mtbf_s)
    return sum(
        level.cost_s / interval_s + level.share * interval_s / (2 * mtbf_s)
        for level, interval_s in zip(levels, intervals_s, strict=True)
    )


def simulated_waste(
    levels: Sequence[Level],
    intervals_s: Sequence[float],
    mtbf_s: float,
    failures: int = 2_000,
    seed: int = 0,
) -> float:
    """Share of time lost to saves and to work done again, over `failures` Poisson failures. The same seed, the same.

    Where two levels are due at once both are saved, the cheaper one first. A save that a failure cuts is no copy.
    """
    _check(levels, intervals_s)
    positive("mtbf_s", mtbf_s)
    if not_negative("failures", failures) < 1:
        raise SettingError(f"failures is {failures}; it must be 1 or more.")
    draw = random.Random(seed)
    shares = [level.share for level in levels]
    kinds = range(len(levels))
    work_s = wall_s = 0.0
    copies = [0.0] * len(levels)  # work that the newest copy of each level holds
    due_s = list(intervals_s)  # work at which each level saves next
    for _ in range(failures):
        left_s = draw.expovariate(1 / mtbf_s)
        wall_s += left_s
        while left_s > 0:
            level = min(kinds, key=lambda kind: due_s[kind])
            step_s = min(left_s, due_s[level] - work_s)
            work_s += step_s
            left_s -= step_s
            if left_s <= 0 or left_s < levels[level].cost_s:
                break  # the failure strikes at work, or in the save
            left_s -= levels[level].cost_s
            copies[level] = work_s
            due_s[level] = work_s + intervals_s[level]
        (kind,) = draw.choices(kinds, shares)
        work_s = max(copies[kind:])
        # What held this moment is still there; copies of the levels before are gone, and nothing newer exists.
        copies = [-math.inf if level < kind else min(copies[level], work_s) for level in kinds]
        due_s = [min(due_s[level], work_s + intervals_s[level]) for level in kinds]
    return 1 - work_s / wall_s


def _check(levels: Sequence[Level], intervals_s: Sequence[float] | None = None) -> None:
    """SettingError unless every failure is of one level's kind, and each level has an interval."""
    total = sum(level.share for level in levels)
    if not math.isclose(total, 1):
        raise SettingError(f"The shares of the levels add up to {total:g}; every failure is of one kind: 1.")
    if intervals_s is not None:
        if len(intervals_s) != len(levels):
            raise SettingError(f"{len(levels)} levels have {len(intervals_s)} intervals; give one for each.")
        for level, interval_s in zip(levels, intervals_s, strict=True):
            positive(f"interval of {level.name}", interval_s)
