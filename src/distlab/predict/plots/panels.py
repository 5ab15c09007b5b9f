"""How each chart looks, in matplotlib: what `drawing` calls. Colour goes with a hatch, a dash or a name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from distlab.figures.figure import BLUE, GREEN, PURPLE, RED
from distlab.figures.plots import INK
from distlab.predict.plots.chart import Mark, time_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from distlab.predict.plots.exchange import Exchange, Point
    from distlab.predict.plots.growth import Growth
    from distlab.predict.plots.intervals import Intervals
    from distlab.predict.plots.overlap import Overlap
    from distlab.predict.plots.placement import Placement
    from distlab.predict.plots.step import StepChart
    from distlab.predict.plots.timeline import Slot
    from distlab.predict.plots.waterfall import Waterfall

SMALL = 9
_LOOKS = ((BLUE, ""), (GREEN, "///"), (RED, "\\\\\\"), (PURPLE, "xxx"), ("#777777", "---"))
_MARKERS = "os^DvPX*p<>hd"
_WORKS = {"forward": (BLUE, ""), "backward": (GREEN, ""), "weights": (PURPLE, "")}
_LETTERS = {"forward": "F", "backward": "B", "weights": "W"}


def waterfall_height(chart: Waterfall) -> float:
    return 1.35 + 0.27 * (len(chart.bars) + 1)


def step_height(chart: StepChart) -> float:
    return 1.5 + 0.24 * max(2, len(chart.stages)) + 0.27 * (len(chart.terms.bars) + 1)


def waterfall(canvas: Canvas, chart: Waterfall) -> None:
    _waterfall(canvas.add_subplot(), chart)


def step(canvas: Canvas, chart: StepChart) -> None:
    heights = [0.24 * max(2, len(chart.stages)) + 0.3, 0.27 * (len(chart.terms.bars) + 1) + 0.3]
    above, below = canvas.subplots(2, height_ratios=heights)
    _timeline(above, chart)
    _waterfall(below, chart.terms)


def _plain(axes: Axes, *, grid: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    if grid:
        axes.grid(True)
        axes.set_axisbelow(True)


def _waterfall(axes: Axes, chart: Waterfall) -> None:
    looks = dict(zip(chart.kinds, _LOOKS, strict=False))
    total = chart.total
    right = max(total, chart.limit.x if chart.limit else 0) * 1.02
    edges = [right] if chart.limit is None else [chart.limit.x, right]
    keys: dict[str, Any] = {}
    for row, bar in enumerate(chart.bars):
        colour, hatch = looks[bar.kind]
        # Two bars: in SVG a tint would hold for the hatch, too, and both would be of one colour.
        tinted = axes.barh(row, bar.length, 0.72, left=bar.start, color=_tint(colour))
        hatched = axes.barh(
            row, bar.length, 0.72, left=bar.start, color="none", edgecolor=colour, hatch=hatch, lw=1
        )
        keys.setdefault(bar.kind, (tinted, hatched))
        _beside(axes, row, bar.start, bar.start + bar.length, f"{bar.length:.3g}", edges)
        axes.plot([bar.start + bar.length] * 2, [row + 0.36, row + 0.64], color=INK, lw=0.8)
    end = len(chart.bars)
    axes.barh(end, total, 0.72, color="none", edgecolor=INK, lw=1.4)
    _beside(axes, end, 0, total, f"{total:.4g} {chart.unit}", edges)
    axes.set_yticks(range(end + 1), [*(bar.name for bar in chart.bars), "total"])
    axes.tick_params(axis="y", length=0, labelsize=SMALL)
    axes.set(xlabel=chart.unit, xlim=(0, right), ylim=(end + 0.6, -0.6))
    _plain(axes, grid=False)
    axes.grid(True, axis="x")
    axes.set_axisbelow(True)
    if chart.limit is not None:
        axes.axvline(chart.limit.x, color=RED, lw=1.6, ls="--")
        axes.annotate(
            chart.limit.label, (chart.limit.x, 1), (0, 2), xycoords=("data", "axes fraction"),
            textcoords="offset points", ha="right", va="bottom", fontsize=SMALL,
        )  # fmt: skip
    canvas: Any = axes.get_figure()
    canvas.legend(
        keys.values(),
        keys,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=SMALL,
        handlelength=1.6,
    )


def _beside(axes: Axes, row: float, start: float, end: float, words: str, edges: list[float]) -> None:
    """A bar's value: to its right where there is room before the next of `edges`, else to its left, else in it."""
    room = (0.026 * len(words) + 0.03) * edges[-1]
    if all(not end <= edge < end + room for edge in edges):
        at, side, shift = end, "left", 3
    elif start > room:
        at, side, shift = start, "right", -3
    else:
        at, side, shift = end, "right", -4
    axes.annotate(
        words, (at, row), (shift, 0), textcoords="offset points", ha=side, va="center", fontsize=SMALL,
    )  # fmt: skip


def _tint(colour: str, share: float = 0.4) -> tuple[float, float, float, float]:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, share


def _timeline(axes: Axes, chart: StepChart) -> None:
    end_s = max(slot.end_s for slot in chart.plan)
    unit, per_s = time_unit(end_s)
    rows = {stage: row for row, stage in enumerate(chart.stages)}
    drawn = [slot for slot in chart.plan if slot.stage in rows]
    named = len(drawn) <= 24 * len(rows)
    for work, (colour, _) in _WORKS.items():
        own = [slot for slot in drawn if slot.work == work]
        if own:
            _blocks(axes, own, rows, per_s, colour, edge=len(drawn) <= 64 * len(rows))
            axes.barh([0], [0], color=_tint(colour, 0.5), edgecolor=colour, label=f"{_LETTERS[work]} {work}")
    for slot in drawn:
        wide = (slot.end_s - slot.start_s) / end_s
        words = f"{_LETTERS[slot.work]}{slot.micro_batch}"
        if named and wide > 0.021 * len(words):
            middle = (slot.start_s + slot.end_s) / 2 * per_s
            axes.text(middle, rows[slot.stage], words, ha="center", va="center_baseline", fontsize=7.5)
    names = [f"stage {stage}" for stage in chart.stages]
    axes.set_yticks(range(len(rows)), names, fontsize=SMALL)
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, end_s * per_s), ylim=(len(rows) - 0.45, -0.55))
    part = chart.micro_batches < chart.of_micro_batches
    shown = f"; {chart.micro_batches} of {chart.of_micro_batches} micro-batches" if part else ""
    axes.set_xlabel(f"{unit}{shown}; stage 0 idle {chart.idle_share:.0%}", fontsize=SMALL)
    _plain(axes, grid=False)
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False, fontsize=SMALL, handlelength=1.2
    )


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
    axes.add_patch(PathPatch(shape, facecolor=_tint(colour, 0.5), edgecolor=colour, lw=0.7 if edge else 0.0))


def growth(canvas: Canvas, chart: Growth) -> None:
    above, below = canvas.subplots(2, sharex=True)
    unit, per_s = time_unit(max(size.step_s for size in chart.strong))
    for name, sizes, colour, dash, marker in (
        ("weak: samples per GPU stay", chart.weak, BLUE, "-", "o"),
        ("strong: the batch stays", chart.strong, RED, "--", "s"),
    ):
        gpus = [size.gpus for size in sizes]
        look: dict[str, Any] = {"color": colour, "ls": dash, "marker": marker, "ms": 3.5, "lw": 1.6}
        above.plot(gpus, [size.step_s * per_s for size in sizes], label=name, **look)
        below.plot(gpus, [100 * size.efficiency for size in sizes], **look)
        for axes, value in ((above, "step_s"), (below, "efficiency")):
            asked = [size for size in sizes if size.gpus == chart.asked_gpus]
            scale = per_s if value == "step_s" else 100
            axes.plot(
                chart.asked_gpus, [getattr(size, value) * scale for size in asked][:1], "o", color=INK, ms=7,
                mfc="none", mew=1.6,
            )  # fmt: skip
    sizes = (*chart.weak, *chart.strong)
    above.set(xscale="log", yscale="log", ylabel=f"step time ({unit})")
    below.set(xlabel="GPUs", ylabel="efficiency (%)", ylim=(0, 108 * max(size.efficiency for size in sizes)))
    above.legend(frameon=False, fontsize=SMALL, loc="lower right", bbox_to_anchor=(1, 1), ncols=1)
    for axes in (above, below):
        _plain(axes)
        axes.minorticks_off()
    _decades(above.yaxis, [size.step_s * per_s for size in sizes])
    _powers(below, [size.gpus for size in sizes])


def _decades(axis: Any, values: list[float]) -> None:
    """Plain numbers on a logarithmic axis: powers of ten, or 1, 2 and 5 of each where those are few; 8 at most."""
    low, high = min(values) / 1.3, max(values) * 1.3
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    shown: list[float] = []
    for steps in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        shown = [
            step * 10.0**i for i in range(first, last + 1) for step in steps if low <= step * 10.0**i <= high
        ]
        if len(shown) >= 3:
            break
    shown = shown[:: math.ceil(len(shown) / 8)]
    axis.set_ticks(shown, [f"{value:,g}" if value < 1e6 else f"{value:.0e}" for value in shown])


def _powers(axes: Axes, values: list[int]) -> None:
    """At most seven plain numbers on a logarithmic axis."""
    powers = [2**i for i in range(40) if min(values) <= 2**i <= max(values)]
    shown = powers[:: math.ceil(len(powers) / 7)] or [min(values), max(values)]
    axes.set_xticks(shown, [f"{value:,}" for value in shown])


def exchange(canvas: Canvas, chart: Exchange) -> None:
    above, below = canvas.subplots(2, sharex=True)
    drawn = [point for point in chart.points if point.seconds > 0]
    xs = [point.x for point in drawn]
    marker = "o" if chart.x == "GPUs" else ""
    look: dict[str, Any] = {"color": BLUE, "lw": 1.8, "marker": marker, "ms": 4}
    above.plot(xs, [point.seconds * 1e6 for point in drawn], **look)
    below.plot(xs, [point.bus_bandwidth_Bps / 1e9 for point in drawn], **look)
    above.set(xscale="log", yscale="log", ylabel="time (us)")
    most = max(point.bus_bandwidth_Bps / 1e9 for point in chart.points)
    below.set(xlabel=chart.x, ylabel="bus bandwidth (GB/s)", ylim=(0, 1.1 * most or 1))
    for axes, value in ((above, _microseconds), (below, _gigabytes)):
        if chart.asked.seconds:
            axes.plot(chart.asked.x, value(chart.asked), "o", color=INK, ms=7, mfc="none", mew=1.6)
        for switch in chart.switches:
            axes.axvline(switch.x, color=INK, lw=1, ls=":")
        _plain(axes)
        axes.minorticks_off()
    if not drawn:
        return
    _regions(above, [Mark(drawn[0].way, xs[0]), *chart.switches])
    _decades(above.yaxis, [_microseconds(point) for point in drawn])
    if chart.x == "GPUs":
        _powers(below, [int(x) for x in xs])
    else:
        exponents = range(math.ceil(math.log2(min(xs))), math.floor(math.log2(max(xs))) + 1)
        shown = [2.0**i for i in exponents if i % 5 == 0]
        shown = shown[:: math.ceil(len(shown) / 8)]
        below.set_xticks(shown, [_binary(size) for size in shown])


def _microseconds(point: Point) -> float:
    return point.seconds * 1e6


def _gigabytes(point: Point) -> float:
    return point.bus_bandwidth_Bps / 1e9


def _binary(size: float) -> str:
    if size >= 2**60:
        return f"{size:.0e} B"
    for power, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size / 2**power:.4g} {unit}"
    return f"{size:.4g} B"


def _regions(axes: Axes, starts: list[Mark]) -> None:
    """Which way is the fastest from each switch on, in a row of its own above the axes."""
    for i, start in enumerate(starts):
        axes.annotate(
            start.label, (start.x, 1), (-3 if i else 0, 2 + 11 * (len(starts) - 1 - i)),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="left", va="bottom", fontsize=SMALL,
        )  # fmt: skip


def intervals(canvas: Canvas, chart: Intervals) -> None:
    axes = canvas.add_subplot()
    longest = max(x for x, _ in chart.curve)
    unit, seconds = next(
        (pair for pair in (("h", 3600.0), ("min", 60.0)) if longest >= 20 * pair[1]), ("s", 1.0)
    )
    axes.plot(
        [x / seconds for x, _ in chart.curve], [100 * y for _, y in chart.curve], color=BLUE, lw=1.8,
        label="closed form",
    )  # fmt: skip
    if chart.simulated:
        means = [100 * run.goodput for run in chart.simulated]
        below = [100 * (run.goodput - run.low) for run in chart.simulated]
        axes.errorbar(
            [run.interval_s / seconds for run in chart.simulated], means, yerr=below, fmt="s", color=RED, ms=4,
            capsize=3, lw=1.2, label="simulated, 95%",
        )  # fmt: skip
    for mark, shape in zip(chart.marks, ("^", "v", "*", "o"), strict=False):
        axes.plot(
            mark.x / seconds, 100 * (mark.y or 0.0), shape, color=INK, mfc="none", ms=9 if shape == "*" else 7,
            label=mark.label, ls="none",
        )  # fmt: skip
    axes.set(xscale="log", xlabel=f"work between checkpoints ({unit})", ylabel="goodput (%)")
    shares = [100 * y for _, y in chart.curve]
    least = min([*shares, *(100 * run.low for run in chart.simulated)])
    margin = max(0.08 * (max(shares) - least), 0.1)
    axes.set_ylim(0 if least < 50 else least - margin, min(102, max(shares) + margin))
    _plain(axes)
    axes.minorticks_off()
    _decades(axes.xaxis, [x / seconds for x, _ in chart.curve])
    axes.legend(frameon=False, fontsize=SMALL, loc="best")


def placement(canvas: Canvas, chart: Placement) -> None:
    axes = canvas.add_subplot()
    tera = 1e12
    lowest = min(kernel.intensity for kernel in chart.kernels) / 2
    highest = max([chart.ridge, *(kernel.intensity for kernel in chart.kernels)]) * 4
    for flops, rate, dash, name in (
        (chart.peak_flops, chart.memory_Bps, "--", "datasheet"),
        (chart.product_flops, chart.stream_Bps, "-", "reached"),
    ):
        ridge = flops / rate
        axes.plot(
            [lowest, ridge, highest], [lowest * rate / tera, flops / tera, flops / tera], color=BLUE, ls=dash,
            lw=1.6, label=name,
        )  # fmt: skip
    for i, kernel in enumerate(chart.kernels):
        colour = RED if kernel.kind == "product" else GREEN
        axes.plot(
            kernel.intensity, kernel.flops / tera, _MARKERS[i % len(_MARKERS)], color=colour, mfc="none", ms=6, mew=1.4,
            ls="none", label=f"{kernel.name}: {kernel.flops / tera:.3g}",
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP/B)", ylabel="throughput (TFLOP/s)"
    )
    axes.set(xlim=(lowest, highest))
    _plain(axes)
    canvas.legend(
        loc="outside lower center", ncols=2, frameon=False, fontsize=SMALL, handlelength=1.6, columnspacing=1
    )


def overlap(canvas: Canvas, chart: Overlap) -> None:
    above, below = canvas.subplots(2)
    unit, per_s = time_unit(chart.end_s)
    made, sent = ([(s * per_s, size / 1e6) for s, size in points] for points in (chart.made, chart.sent))
    above.step(*zip((0.0, 0.0), *made, strict=True), where="post", color=BLUE, lw=1.8, label="made")
    if sent:
        above.plot(*zip(*sent, strict=True), color=RED, ls="--", lw=1.8, label="sent")
    end = chart.backward_end_s * per_s
    above.axvline(end, color=INK, lw=1)
    if chart.end_s > chart.backward_end_s:
        above.axvspan(end, chart.end_s * per_s, color=RED, alpha=0.15, lw=0, label="shows")
    above.set(
        xlabel=f"since the backward pass began ({unit})",
        ylabel="gradients (MB)",
        xlim=(0, None),
        ylim=(0, None),
    )
    above.legend(frameon=False, fontsize=SMALL, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    gpus = [count for count, _ in chart.scaling]
    below.plot(gpus, [100 * share for _, share in chart.scaling], color=BLUE, lw=1.8, marker="o", ms=3.5)
    asked = [(count, 100 * share) for count, share in chart.scaling if count == chart.asked_gpus]
    below.plot(*zip(*asked, strict=True), "o", color=INK, ms=8, mfc="none", mew=1.6)
    if chart.measured:
        published = [(count, 100 * share) for count, share in chart.measured]
        below.plot(*zip(*published, strict=True), "x", color=RED, ms=7, mew=2, label="published")
        below.legend(frameon=False, fontsize=SMALL, loc="lower left")
    below.set(xscale="log", xlabel="GPUs", ylabel="efficiency (%)", ylim=(0, 105))
    for axes in (above, below):
        _plain(axes)
    below.minorticks_off()
    _powers(below, gpus)
