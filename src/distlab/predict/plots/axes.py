"""What the panels of charts share: plain axes with units that fit, and places that do not overprint."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distlab.predict.plots.chart import time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

SMALL = 9
"""Points of labels and legends."""


def plain(axes: Axes, *, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True)
        axes.set_axisbelow(True)


def tint(colour: str, share: float = 0.4) -> tuple[float, float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, share


def text_points(words: str, size: float = SMALL) -> float:
    """Width in points, in matplotlib's own font: a browser's is narrower."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return float(text_to_path.get_text_width_height_descent(words, FontProperties(size=size), False)[0])


def wrapped(words: str, points: float, size: float = SMALL) -> str:
    """Lines that are no wider, by what their words measure. A number stays with the word before it."""
    lines = [""]
    for word in re.split(r" (?!\d)", words):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and text_points(longer, size) > points:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def legend_below(canvas: Canvas, handles: Any = None, labels: Any = None, columns: int = 3) -> None:
    """Outside of all axes, where nothing is drawn; in as many columns as there is room for."""
    if handles is None:
        handles, labels = canvas.axes[0].get_legend_handles_labels()
    labels = list(labels)
    wide = max(max(text_points(line) for line in label.split("\n")) for label in labels) + 34
    columns = max(1, min(columns, len(labels), int(72 * canvas.get_figwidth() / wide)))
    canvas.legend(
        list(handles), labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL,
        handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip


def decades(axis: Any, values: Sequence[float], *, seconds: bool = False) -> None:
    """Plain numbers on a logarithmic axis: powers of ten, or 1, 2 and 5 of each where those are few; 8 at most.

    seconds: each with a unit that fits it, 100 ms and not 100,000 us.
    """
    low, high = min(values) / 1.3, max(values) * 1.3
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    shown: list[float] = []
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)):
        shown = [
            step * 10.0**i for i in range(first, last + 1) for step in steps if low <= step * 10.0**i <= high
        ]
        if len(shown) >= 3:
            break
    shown = shown[:: math.ceil(len(shown) / 8)]
    if high < 3 * low:  # else the axis ends before the next number
        axis.axes.set(**{f"{axis.axis_name}lim": (low, high)})
    axis.set_ticks(shown, [_of_seconds(value) if seconds else _number(value) for value in shown])


def _number(value: float) -> str:
    return f"{value:,g}" if value < 1e6 else f"{value:.0e}"


def _of_seconds(value: float) -> str:
    unit, per_s = time_unit(value * 1.001)  # 1 ms by way of a logarithm is just below
    return f"{_number(float(f'{value * per_s:.6g}'))} {unit}"


def powers(axes: Axes, values: Sequence[int]) -> None:
    """At most seven plain numbers on a logarithmic axis."""
    found = [2**i for i in range(40) if min(values) <= 2**i <= max(values)]
    shown = found[:: math.ceil(len(found) / 7)] or [min(values), max(values)]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])
