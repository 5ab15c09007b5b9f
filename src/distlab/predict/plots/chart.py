"""What every chart says of itself, so that a file, a page and a screen reader have it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chart:
    """The data of one figure. `title` is short; `caption` says what was drawn, and from what."""

    title: str
    caption: str

    def in_words(self) -> str:
        """What the figure shows, for who cannot see it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Line:
    """A curve. `points` are (x, y) in the units of the axes."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that has a meaning, with its name."""

    label: str
    x: float
    y: float | None = None
    """On a curve; None: a vertical line."""


def grid(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from first to last, evenly spread in logarithm; the ends are exact."""
    if count < 2 or not 0 < first < last:
        return [first]
    step = math.log(last / first) / (count - 1)
    return [first, *(first * math.exp(step * i) for i in range(1, count - 1)), last]


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which so many seconds are a number to be read, and how many of it a second has."""
    if seconds >= 1:
        return "s", 1.0
    return ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
