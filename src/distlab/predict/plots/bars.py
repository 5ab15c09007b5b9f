"""How terms that add up, a step over time and ranked layouts look, in matplotlib: what `drawing` calls.

Colour goes with a hatch or a letter. Values stand in a column of their own, where no bar or line can cross them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED
from distlab.figures.plots import INK
from distlab.predict.plots.axes import SMALL, legend_below, plain, tint, wrapped
from distlab.predict.plots.chart import time_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from distlab.predict.plots.ranking import Ranking
    from distlab.predict.plots.step import StepChart
    from distlab.predict.plots.timeline import Slot
    from distlab.predict.plots.waterfall import Waterfall

GREY = "#777777"
_LOOKS = ((BLUE, ""), (GREEN, "///"), (RED, "\\\\\\"), (PURPLE, "xxx"), (GREY, "---"))
_WORKS = {"forward": (BLUE, "F"), "backward": (GREEN, "B"), "weights": (PURPLE, "W")}


def waterfall_height(chart: Waterfall) -> float:
    return 0.6 + 0.25 * (len(chart.bars) + 1)


def step_height(chart: StepChart) -> float:
    return 1.2 + 0.24 * max(2, len(chart.stages)) + 0.27 * (len(chart.terms.bars) + 1)


def ranking_height(chart: Ranking) -> float:
    return 0.7 + 0.42 * len(chart.rows)


def waterfall(canvas: Canvas, chart: Waterfall) -> None:
    _waterfall(canvas, canvas.add_subplot(), chart)


def step(canvas: Canvas, chart: StepChart) -> None:
    heights = [0.24 * max(2, len(chart.stages)) + 0.3, 0.27 * (len(chart.terms.bars) + 1) + 0.3]
    above, below = canvas.subplots(2, height_ratios=heights)
    _timeline(above, chart)
    _waterfall(canvas, below, chart.terms)
    if chart.whole:
        above.set_xlim(below.get_xlim())


def _waterfall(canvas: Canvas, axes: Axes, chart: Waterfall) -> None:
    looks = dict(zip(chart.kinds, _LOOKS, strict=False))
    total = chart.total
    right = max(total, chart.limit.x if chart.limit else 0) * 1.02
    keys: dict[str, Any] = {}
    for row, bar in enumerate(chart.bars):
        keys.setdefault(bar.kind, _hatched(axes, row, bar.start, bar.length, *looks[bar.kind]))
        axes.plot([bar.start + bar.length] * 2, [row + 0.36, row + 0.64], color=INK, lw=0.8)
    end = len(chart.bars)
    axes.barh(end, total, 0.72, color="none", edgecolor=INK, lw=1.4)
    axes.set_yticks(range(end + 1), [*(bar.name for bar in chart.bars), "total"])
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
    axes.set(xlabel=chart.unit, xlim=(0, right), ylim=(end + 0.6, -0.6))
    plain(axes, grid=False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    _column(axes, [*(f"{bar.length:.3g}" for bar in chart.bars), f"{total:.4g}"])
    handles, labels = list(keys.values()), list(keys)
    if chart.limit is not None:
        handles.append(axes.axvline(chart.limit.x, color=RED, lw=1.6, ls="--"))
        labels.append(chart.limit.label)
    legend_below(canvas, handles, labels)


def _hatched(
    axes: Axes, row: float, start: float, length: float, colour: str, hatch: str, height: float = 0.72
) -> tuple[Any, Any]:
    """Two bars: in SVG a tint would hold for the hatch, too, and both would be of one colour."""
    tinted = axes.barh(row, length, height, left=start, color=tint(colour))
    lines = axes.barh(row, length, height, left=start, color="none", edgecolor=colour, hatch=hatch, lw=1)
    return tinted, lines


def _column(axes: Axes, values: Sequence[str]) -> None:
    """One value a row, right of the axes."""
    beside = axes.secondary_yaxis("right")
    beside.spines["right"].set_visible(False)
    beside.set_yticks(range(len(values)), values, ha="left")
    beside.tick_params(axis="y", length=0, labelsize=SMALL)


def _timeline(axes: Axes, chart: StepChart) -> None:
    end_s = max(slot.end_s for slot in chart.plan)
    unit, per_s = time_unit(chart.step_s if chart.whole else end_s)
    rows = {stage: row for row, stage in enumerate(chart.stages)}
    drawn = [slot for slot in chart.plan if slot.stage in rows]
    named = len(drawn) <= 24 * len(rows)
    for work, (colour, letter) in _WORKS.items():
        own = [slot for slot in drawn if slot.work == work]
        if own:
            _blocks(axes, own, rows, per_s, colour, edge=len(drawn) <= 64 * len(rows))
            axes.barh([0], [0], color=tint(colour, 0.5), edgecolor=colour, label=f"{letter} {work}")
    for slot in drawn:
        wide = (slot.end_s - slot.start_s) / (chart.step_s if chart.whole else end_s)
        words = f"{_WORKS[slot.work][1]}{slot.micro_batch}"
        if named and wide > 0.025 * len(words):
            middle = (slot.start_s + slot.end_s) / 2 * per_s
            axes.text(middle, rows[slot.stage], words, ha="center", va="center_baseline", fontsize=7.5)
    if chart.whole and chart.outside:
        axes.barh(
            range(len(rows)), (chart.step_s - end_s) * per_s, 0.8, left=end_s * per_s, color=tint(GREY, 0.3),
            label="the rest",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [f"stage {stage}" for stage in chart.stages], fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, end_s * per_s), ylim=(len(rows) - 0.45, -0.55))
    part = f"; {chart.micro_batches} of {chart.of_micro_batches} micro-batches, on an axis of their own"
    axes.set_xlabel(unit if chart.whole else unit + part, fontsize=SMALL)
    plain(axes, grid=False)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=SMALL, handlelength=1.2,
        columnspacing=1.2,
    )  # fmt: skip


def _blocks(
    axes: Axes, slots: list[Slot], rows: dict[int, int], per_s: float, colour: str, *, edge: bool
) -> None:
    """All rectangles of one colour as one path: thousands of marks of their own would make a file of megabytes."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    corners: list[tuple[float, float]] = []
    codes: list[Any] = []
    for slot in slots:
        left, right = slot.start_s * per_s, slot.end_s * per_s
        low, high = rows[slot.stage] - 0.4, rows[slot.stage] + 0.4
        corners += [(left, low), (right, low), (right, high), (left, high), (left, low)]
        codes += [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY]
    shape = Path(corners, codes)
    axes.add_patch(PathPatch(shape, facecolor=tint(colour, 0.5), edgecolor=colour, lw=0.7 if edge else 0.0))


def ranking(canvas: Canvas, chart: Ranking) -> None:
    axes = canvas.add_subplot()
    looks = dict(zip(chart.kinds, _LOOKS, strict=False))
    keys: dict[str, Any] = {}
    for row, ranked in enumerate(chart.rows):
        at = 0.0
        for kind, length in zip(chart.kinds, ranked.lengths, strict=True):
            if length:
                keys.setdefault(kind, _hatched(axes, row, at, length, *looks[kind], height=0.62))
            at += length
    names = [wrapped(f"{row + 1}. {ranked.name}", 132, 8) for row, ranked in enumerate(chart.rows)]
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set(
        xlabel=chart.unit,
        xlim=(0, 1.02 * max(ranked.total for ranked in chart.rows)),
        ylim=(len(names) - 0.4, -0.6),
    )
    plain(axes, grid=False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    _column(axes, [f"{ranked.total:.4g}" for ranked in chart.rows])
    ordered = [kind for kind in chart.kinds if kind in keys]
    legend_below(canvas, [keys[kind] for kind in ordered], ordered)
