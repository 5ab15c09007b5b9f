"""Is a time longer than before, or is it noise?

Times of one run are no independent draws: a slow phase of the machine makes neighbours slow, and a start of the
processes may fall well or badly for all of its times. So the unit of evidence is a block: all times of one launch where
there were several launches, else one of a few stretches of the run. Of each block only the logarithm of the median
counts, which an outlier hardly moves.

Blocks of two files are compared by Welch's t (B. L. Welch, 1947, The generalization of Student's problem when several
different population variances are involved, Biometrika 34), and of the many rows of a file those count that pass Holm's
step-down test (S. Holm, 1979, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
Statistics 6): where nothing has changed, any alarm at all has a probability of at most alpha.

Where there was one launch, nothing in a row tells how far starts differ. The rows together do: the spread of their
log-ratios around the common one, beyond what the stretches explain, is taken as that noise (half of the rows may have
changed without moving it).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCKS = 6
"""Stretches that the times of one launch are cut into: long ones, so that what lasts does not look like many."""
LAUNCHES_LEAST = 3
BLOCKS_LEAST = 3
ROWS_LEAST = 8
"""From which on rows can tell the noise between starts."""
MAD_TO_SIGMA = 1.4826
"""Of a normal distribution."""
RESOLUTION = 1e-6
"""Of a time, relative: files keep 6 digits."""


@dataclass(frozen=True)
class Difference:
    """After over before, as a difference of logarithms."""

    log_ratio: float
    variance: float
    """Of `log_ratio`."""
    freedom: float
    """Degrees of freedom of Student's t."""

    @property
    def ratio(self) -> float:
        return math.exp(self.log_ratio)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Holds the true ratio with this confidence."""
        from scipy.special import stdtrit  # type: ignore[import-untyped]

        half = float(stdtrit(self.freedom, (1 + confidence) / 2)) * math.sqrt(self.variance)
        # A ratio of times that fits a float, however little is known.
        return math.exp(max(-700.0, self.log_ratio - half)), math.exp(min(700.0, self.log_ratio + half))

    def p_longer(self) -> float:
        """Probability of so much longer times or more where nothing has changed."""
        return self._p(-self.log_ratio)

    def p_shorter(self) -> float:
        return self._p(self.log_ratio)

    def _p(self, log_ratio: float) -> float:
        from scipy.special import stdtr

        return float(stdtr(self.freedom, log_ratio / math.sqrt(self.variance)))

    def with_noise(self, variance: float) -> Difference:
        """The same, less certain."""
        return Difference(self.log_ratio, self.variance + variance, self.freedom)


def launches_of(row: Mapping[str, Any]) -> int:
    """Starts of the processes that a row's times come from."""
    return len(row.get("launches") or [1])


def blocks(row: Mapping[str, Any]) -> list[float]:
    """Logarithms of the medians of a row's blocks."""
    samples: Sequence[float] = row["samples_s"]
    if launches_of(row) >= LAUNCHES_LEAST:
        sizes = list(row["launches"])
    else:
        count = min(BLOCKS, len(samples))
        sizes = [len(samples) * (i + 1) // count - len(samples) * i // count for i in range(count)]
    found, start = [], 0
    for size in sizes:
        found.append(math.log(statistics.median(samples[start : start + size])))
        start += size
    return found


def difference(before: Sequence[float], after: Sequence[float]) -> Difference | None:
    """Of two lists of blocks; None where there are too few to know their noise."""
    if min(len(before), len(after)) < BLOCKS_LEAST:
        return None
    parts = [
        max(statistics.variance(side), RESOLUTION**2) / len(side)
        for side in (before, after)
    ]  # fmt: skip
    total = sum(parts)
    freedom = total**2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (before, after), strict=True)
    )
    return Difference(statistics.fmean(after) - statistics.fmean(before), total, freedom)


def noise_between_starts(differences: Sequence[Difference]) -> float | None:
    """Variance that the rows' differences have beyond their own; None where there are too few rows to tell."""
    if len(differences) < ROWS_LEAST:
        return None
    ratios = [difference.log_ratio for difference in differences]
    middle = statistics.median(ratios)
    spread = MAD_TO_SIGMA * statistics.median(abs(ratio - middle) for ratio in ratios)
    return max(0.0, spread**2 - statistics.median(difference.variance for difference in differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: those of at most alpha are significant together at alpha."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for passed, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - passed) * p_values[i]))
        adjusted[i] = highest
    return adjusted
