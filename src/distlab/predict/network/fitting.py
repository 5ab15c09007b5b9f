"""Find the parameters of a topology that come closest to measured times, in pure Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.collectives import Op
from distlab.predict.network.model import predict_collective
from distlab.predict.network.topology import Topology


@dataclass(frozen=True)
class Sample:
    """One measured time."""

    gpus: int
    gpus_per_node: int
    payload_bytes: float
    time_s: float
    op: Op = "all_reduce"


Build = Callable[[Sequence[float]], Topology]
"""Parameters, each above 0, to a topology; its group is replaced by that of each sample."""


def mean_error(samples: Sequence[Sample], topology: Topology) -> float:
    """Mean of |predicted - measured| / measured. SettingError for no samples."""
    return sum(abs(error) for error in signed_errors(samples, topology)) / len(samples)


def signed_errors(samples: Sequence[Sample], topology: Topology) -> list[float]:
    """(predicted - measured) / measured of each sample, in their order. SettingError for no samples."""
    if not samples:
        raise SettingError("there are no samples to compare with.")
    groups = {(s.gpus, s.gpus_per_node): topology.group(s.gpus, s.gpus_per_node) for s in samples}
    return [
        predict_collective(s.op, s.payload_bytes, groups[s.gpus, s.gpus_per_node]).total_s / s.time_s - 1
        for s in samples
    ]


def fit(samples: Sequence[Sample], start: Sequence[float], build: Build, restarts: int = 4) -> list[float]:
    """Parameters at which `mean_error` is least, from `start`, by a simplex over their logarithms.

    The mean of absolute relative errors is the figure that the scorecard judges by, and a single outlier does not
    bend it. Parameters stay within a factor of 1000 of their start.
    """

    def loss(logs: Sequence[float]) -> float:
        inside = [min(max(x, low - 6.9), low + 6.9) for x, low in zip(logs, origin, strict=True)]
        return mean_error(samples, build([math.exp(x) for x in inside]))

    origin = best = [math.log(value) for value in start]
    for _ in range(restarts):
        best = simplex(loss, best)
    return [math.exp(x) for x in best]


def simplex(
    loss: Callable[[Sequence[float]], float], start: Sequence[float], step: float = 0.3, most: int = 400
) -> list[float]:
    """The point where `loss` is least, near `start`. Source: Nelder and Mead, A simplex method (1965)."""
    n = len(start)
    points = [list(start), *([x + step * (i == j) for i, x in enumerate(start)] for j in range(n))]
    scored = sorted((loss(p), p) for p in points)
    for _ in range(most):
        if scored[-1][0] - scored[0][0] < 1e-9:
            break
        worst = scored[-1][1]
        centre = [sum(p[i] for _, p in scored[:-1]) / n for i in range(n)]

        def along(t: float, centre: list[float] = centre, worst: list[float] = worst) -> list[float]:
            return [c + t * (c - w) for c, w in zip(centre, worst, strict=True)]

        reflected = _scored(loss, along(1.0))
        if reflected[0] < scored[0][0]:
            new = min(reflected, _scored(loss, along(2.0)))
        elif reflected[0] < scored[-2][0]:
            new = reflected
        else:
            new = _scored(loss, along(0.5 if reflected[0] < scored[-1][0] else -0.5))
        if new[0] < scored[-1][0]:
            scored[-1] = new
        else:
            best = scored[0][1]
            scored = [_scored(loss, [(a + b) / 2 for a, b in zip(best, p, strict=True)]) for _, p in scored]
        scored.sort()
    return scored[0][1]


def _scored(loss: Callable[[Sequence[float]], float], point: list[float]) -> tuple[float, list[float]]:
    return loss(point), point
