"""What every chart says of itself, so that a file, a page and a screen reader have it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distlab.predict.transformer import Layout


@dataclass(frozen=True)
class Chart:
    """The data of one figure. `title` is short; `caption` says what was drawn, and from what."""

    title: str
    caption: str
    about: str = field(default="", kw_only=True)
    """A line under the title: how it is laid out, on what, and that it is predicted."""

    @property
    def heading(self) -> str:
        return f"{self.title} ({self.about})" if self.about else self.title

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


def predicted(*of: str) -> str:
    """The line under a title: what it is about, of which "" is left out, and that nothing has run."""
    return "; ".join([*(part for part in of if part), "predicted"])


def in_short(layout: Layout) -> str:
    """`256 GPUs = TP 8 x PP 4 x DP 8, ...`: the mesh, what else was chosen, and the batch."""
    gpus = f"{layout.gpus:,} GPUs = {mesh(layout)}" if layout.gpus > 1 else "1 GPU"
    return ", ".join([gpus, *choices(layout), f"batch {layout.global_batch:,}"])


def mesh(layout: Layout) -> str:
    """The degrees above 1, in the field's letters."""
    degrees = (("TP", layout.tensor), ("CP", layout.context), ("PP", layout.pipeline), ("DP", layout.data))
    return " x ".join(f"{letters} {degree}" for letters, degree in degrees if degree > 1)


def choices(layout: Layout) -> list[str]:
    """What a layout has beside its mesh, where it is not the usual, and the micro-batch."""
    found = [
        f"EP {layout.expert}" if layout.expert > 1 else "",
        layout.schedule.replace("_", "-") if layout.schedule != "1f1b" else "",
        f"interleave {layout.interleave}" if layout.interleave > 1 else "",
        f"ZeRO {layout.zero_stage}" if layout.zero_stage else "",
        "sequence parallel" if layout.sequence_parallel else "",
        f"recompute {layout.recompute}" if layout.recompute != "none" else "",
        f"micro-batch {layout.micro_batch}",
    ]
    return [part for part in found if part]


def grid(first: float, last: float, count: int) -> list[float]:
    """`count` numbers from first to last, evenly spread in logarithm; the ends are exact."""
    if count < 2 or not 0 < first < last:
        return [first]
    step = math.log(last / first) / (count - 1)
    return [first, *(first * math.exp(step * i) for i in range(1, count - 1)), last]


def time_text(seconds: float) -> str:
    """With three digits, in a unit that fits."""
    for size_s, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return (
                f"{seconds / size_s:,.3g} {name}"
                if seconds < 1e3 * size_s
                else f"{seconds / size_s:,.0f} {name}"
            )
    unit, per_s = time_unit(seconds)
    return f"{seconds * per_s:.3g} {unit}"


def time_unit(seconds: float) -> tuple[str, float]:
    """The unit in which so many seconds are a number to be read, and how many of it a second has."""
    if seconds >= 1:
        return "s", 1.0
    return ("ms", 1e3) if seconds >= 1e-3 else ("us", 1e6)
