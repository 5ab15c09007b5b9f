"""Ranks that are not equally fast: what waiting for the slowest costs, and how to cut the work so that none waits.

    expected_slowest_s(mean_s=0.5, deviation_s=0.01, ranks=1024)
    proportional(1024, [989, 989, 312, 312])       # samples of a global batch, layers of a pipeline

Synchronous training takes in each step as long as its slowest rank takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from distlab.errors import SettingError
from distlab.predict.convnet_step import slowest_of


def expected_slowest_s(mean_s: float, deviation_s: float, ranks: int) -> float:
    """Mean of the longest of `ranks` times that are drawn independently from one normal distribution.

    Right to 1% of the deviation's multiple from 8 ranks on (`slowest_of`). Real steps have longer tails, which makes
    this too low, and shared causes (a switch, a rack), which makes it too high.
    """
    if ranks < 1 or not mean_s > 0 or deviation_s < 0:
        raise SettingError(
            f"mean_s is {mean_s}, deviation_s {deviation_s}, ranks {ranks}; they must be above 0, 0 or more, 1 or more."
        )
    return mean_s + deviation_s * slowest_of(ranks)


def proportional(total: int, speeds: Sequence[float]) -> list[int]:
    """`total` pieces of work dealt out in proportion to speeds: samples to ranks, layers to stages.

    Whole numbers that add up to `total`: each piece in turn goes to the rank that would be done with it first, which
    makes the slowest rank's time the least that whole pieces allow.
    """
    if total < 0 or not speeds or any(not speed > 0 for speed in speeds):
        raise SettingError(
            f"total is {total} and speeds {list(speeds)}; they must be 0 or more, and all above 0."
        )
    whole = sum(speeds)
    # Of the real-valued shares the whole parts are safe; only what is left is dealt out piece by piece.
    shares = [int(total * speed / whole) for speed in speeds]
    for _ in range(total - sum(shares)):
        first = min(range(len(speeds)), key=lambda rank: (shares[rank] + 1) / speeds[rank])
        shares[first] += 1
    return shares


def slowest_s(shares: Sequence[int], speeds: Sequence[float]) -> float:
    """Time of a step: pieces over pieces per second of the rank that takes longest."""
    if len(shares) != len(speeds):
        raise SettingError(f"{len(shares)} shares but {len(speeds)} speeds; give one for each rank.")
    return max(share / speed for share, speed in zip(shares, speeds, strict=True))
