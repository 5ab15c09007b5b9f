"""Successive halving: what a search spends, and what stopping by a rule loses against waiting for everybody.

    budget(trials=64, least=1, most=64, eta=4)          # rungs of (trials, steps each)
    found = asynchronous(curves, least=1, most=64, eta=4, workers=8, rng=random.Random(0))
    found.spent, found.best

A curve gives a trial's loss after so many steps; lower is better. `asynchronous` is the rule of Ray Tune's
ASHAScheduler (ray 2.60, tune/schedulers/async_hyperband.py): a trial that reaches a rung goes on unless it is worse
than the best 1/eta of those that were there before it. The paper's rule promotes from the best 1/eta instead, and
lets trials pause (Li et al., MLSys 2020).
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distlab.errors import SettingError

Curve = Callable[[int], float]
"""Loss after so many steps."""


@dataclass(frozen=True)
class Rung:
    """Trials that reach it, and the steps that each has done there."""

    trials: int
    steps: int


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: int
    """Index of the trial with the lowest loss at the most steps; of those that came furthest if none did."""
    spent: int
    """Steps over all trials."""
    wall: float
    """Steps' time until the last trial ended, at one step a unit and worker."""
    steps: tuple[int, ...]
    """Of each trial."""


def rung_steps(least: int, most: int, eta: int) -> list[int]:
    """least, least * eta, ... up to `most`."""
    if not 1 <= least <= most or eta < 2:
        raise SettingError(
            f"least is {least}, most {most}, eta {eta}; expected 1 <= least <= most, eta 2 or more."
        )
    return [
        least * eta**k
        for k in range(round(math.log(most / least, eta) - 1e-9 + 0.5) + 1)
        if least * eta**k <= most
    ]


def budget(trials: int, least: int, most: int, eta: int) -> list[Rung]:
    """Synchronous halving: at each rung the best 1/eta go on (at least one)."""
    return [Rung(max(1, trials // eta**k), steps) for k, steps in enumerate(rung_steps(least, most, eta))]


def spent(rungs: Sequence[Rung]) -> int:
    """Steps over all trials, each going on from where it was."""
    before = [0, *(rung.steps for rung in rungs)]
    return sum(rung.trials * (rung.steps - done) for rung, done in zip(rungs, before, strict=False))


def synchronous(curves: Sequence[Curve], least: int, most: int, eta: int) -> Found:
    """Everybody waits at each rung; the best 1/eta go on. `wall` is as with a worker for each trial."""
    alive, done = list(range(len(curves))), [0] * len(curves)
    for rung in budget(len(curves), least, most, eta):
        alive = sorted(alive, key=lambda i: curves[i](done[i]) if done[i] else 0.0)[: rung.trials]
        for i in alive:
            done[i] = rung.steps
    best = min(alive, key=lambda i: curves[i](done[i]))
    return Found(best, sum(done), float(max(done)), tuple(done))


def asynchronous(
    curves: Sequence[Curve], least: int, most: int, eta: int, workers: int, rng: random.Random
) -> Found:
    """Ray Tune's rule with `workers` trials at a time; a step takes a unit, give or take a tenth, drawn by `rng`."""
    rungs = rung_steps(least, most, eta)
    recorded: list[list[float]] = [[] for _ in rungs]
    done, pace = [0] * len(curves), [rng.uniform(0.9, 1.1) for _ in curves]
    waiting = list(range(len(curves)))
    running: list[tuple[float, int, int]] = []  # when it reaches its next rung, trial, rung
    now = 0.0
    while waiting or running:
        while waiting and len(running) < workers:
            trial = waiting.pop(0)
            heapq.heappush(running, (now + rungs[0] * pace[trial], trial, 0))
        now, trial, rung = heapq.heappop(running)
        done[trial] = rungs[rung]
        loss = curves[trial](rungs[rung])
        stopped = bool(recorded[rung]) and loss > _percentile(recorded[rung], 100 / eta)
        recorded[rung].append(loss)
        if not stopped and rung + 1 < len(rungs):
            more = (rungs[rung + 1] - rungs[rung]) * pace[trial]
            heapq.heappush(running, (now + more, trial, rung + 1))
    furthest = max(done)
    best = min((i for i in range(len(curves)) if done[i] == furthest), key=lambda i: curves[i](furthest))
    return Found(best, sum(done), now, tuple(done))


def _percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation, as numpy's."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def power_law_curves(trials: int, noise: float, rng: random.Random) -> list[Curve]:
    """Synthetic curves floor + scale * steps^-rate + noise: trials that start well need not end well."""

    def curve(floor: float, scale: float, rate: float, seed: int) -> Curve:
        def loss(steps: int) -> float:
            jitter = random.Random(seed * 1_000_003 + steps).gauss(0, noise)
            return floor + scale * math.pow(steps, -rate) + jitter

        return loss

    return [
        curve(rng.uniform(0.1, 0.6), rng.uniform(0.5, 1.5), rng.uniform(0.3, 0.9), rng.randrange(2**31))
        for _ in range(trials)
    ]
