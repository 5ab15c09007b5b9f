"""How curves and places look, in matplotlib: what `drawing` calls. Colour goes with a dash, a marker or a name."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from distlab.figures.figure import BLUE, GREEN, RED
from distlab.figures.plots import INK
from distlab.predict.plots.axes import SMALL, decades, legend_below, plain, powers, wrapped
from distlab.predict.plots.chart import Mark, time_text, time_unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from distlab.predict.plots.exchange import Exchange
    from distlab.predict.plots.growth import Growth
    from distlab.predict.plots.intervals import Intervals
    from distlab.predict.plots.overlap import Overlap
    from distlab.predict.plots.placement import Kernel, Placement

_MARKERS = "os^DvPX*p<>hd"
_CIRCLE: dict[str, Any] = {"marker": "o", "color": INK, "ms": 7, "mfc": "none", "mew": 1.6, "ls": "none"}
"""Around what was asked for."""
APART = 10.0
"""Points between the middles of two marks that can be told apart."""


def growth(canvas: Canvas, chart: Growth) -> None:
    above, below = canvas.subplots(2, sharex=True)
    for name, sizes, colour, dash, marker in (
        ("weak: samples per GPU stay", chart.weak, BLUE, "-", "o"),
        ("strong: the batch stays", chart.strong, RED, "--", "s"),
    ):
        gpus = [size.gpus for size in sizes]
        look: dict[str, Any] = {"color": colour, "ls": dash, "marker": marker, "ms": 3.5, "lw": 1.6}
        above.plot(gpus, [size.step_s for size in sizes], label=name, **look)
        below.plot(gpus, [100 * size.efficiency for size in sizes], **look)
        asked = [size for size in sizes if size.gpus == chart.asked_gpus][:1]
        for size in asked:
            above.plot(size.gpus, size.step_s, **_CIRCLE)
            below.plot(size.gpus, 100 * size.efficiency, **_CIRCLE)
    sizes = (*chart.weak, *chart.strong)
    above.set(xscale="log", yscale="log", ylabel="step time")
    below.set(xlabel="GPUs", ylabel="efficiency (%)", ylim=(0, 108 * max(size.efficiency for size in sizes)))
    for axes in (above, below):
        plain(axes)
        axes.minorticks_off()
    decades(above.yaxis, [size.step_s for size in sizes], seconds=True)
    powers(below, [size.gpus for size in sizes])
    legend_below(canvas, columns=2)


def exchange(canvas: Canvas, chart: Exchange) -> None:
    above, below = canvas.subplots(2, sharex=True)
    drawn = [point for point in chart.points if point.seconds > 0]
    xs = [point.x for point in drawn]
    marker = "o" if chart.x == "GPUs" else ""
    look: dict[str, Any] = {"color": BLUE, "lw": 1.8, "marker": marker, "ms": 4}
    above.plot(xs, [point.seconds for point in drawn], **look)
    below.plot(xs, [point.bus_bandwidth_Bps / 1e9 for point in drawn], **look)
    above.set(xscale="log", yscale="log", ylabel="time")
    most = max(point.bus_bandwidth_Bps / 1e9 for point in chart.points)
    below.set(
        xlabel="GPUs" if chart.x == "GPUs" else "payload",
        ylabel="bus bandwidth (GB/s)",
        ylim=(0, 1.1 * most or 1),
    )
    if chart.asked.seconds:
        above.plot(chart.asked.x, chart.asked.seconds, **_CIRCLE)
        below.plot(chart.asked.x, chart.asked.bus_bandwidth_Bps / 1e9, **_CIRCLE)
    for axes in (above, below):
        for switch in chart.switches:
            axes.axvline(switch.x, color=INK, lw=1, ls=":")
        plain(axes)
        axes.minorticks_off()
    if not drawn:
        return
    _regions(above, [Mark(drawn[0].way, xs[0]), *chart.switches])
    decades(above.yaxis, [point.seconds for point in drawn], seconds=True)
    if chart.x == "GPUs":
        powers(below, [int(x) for x in xs])
    else:
        exponents = range(math.ceil(math.log2(min(xs))), math.floor(math.log2(max(xs))) + 1)
        shown = [2.0**i for i in exponents if i % 5 == 0]
        shown = shown[:: math.ceil(len(shown) / 6)]
        below.set_xticks(shown, [_binary(size) for size in shown])


def _binary(size: float) -> str:
    if size >= 2**60:
        return f"{size:.0e} B"
    for power, unit in ((50, "PiB"), (40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{size / 2**power:.4g} {unit}"
    return f"{size:.4g} B"


def _regions(axes: Axes, starts: list[Mark]) -> None:
    """Which way is the fastest from each switch on, in a row of its own above the axes.

    It begins at its switch, or ends there where the figure does not go on for as long.
    """
    low, high = (math.log(x) for x in axes.get_xlim())
    for i, start in enumerate(starts):
        late = i and (math.log(start.x) - low) / (high - low) > 0.65
        words = f"{start.label}, from here on" if late else start.label
        axes.annotate(
            words, (start.x, 1), ((3 if late else -3) if i else 0, 2 + 11 * (len(starts) - 1 - i)),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right" if late else "left",
            va="bottom", fontsize=SMALL,
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
            capsize=3, lw=1.2, label="simulated, with 95% interval",
        )  # fmt: skip
    axes.set(xscale="log", xlabel=f"work between checkpoints ({unit})", ylabel="goodput (%)")
    shares = [100 * y for _, y in chart.curve]
    least = min([*shares, *(100 * run.low for run in chart.simulated)])
    margin = max(0.14 * (max(shares) - least), 0.1)
    axes.set_ylim(0 if least < 50 else least - margin, max(shares) + margin)
    plain(axes)
    axes.minorticks_off()
    decades(axes.xaxis, [x / seconds for x, _ in chart.curve])
    span = math.log(chart.curve[-1][0] / chart.curve[0][0])
    for group, shape in zip(_apart(chart.marks, 250 / span), "ovD^", strict=False):
        names = ", ".join(f"{mark.label} {time_text(mark.x)}" for mark in group)
        at = group[-1]
        share = 100 * (at.y or 0.0)
        axes.plot(
            at.x / seconds,
            share,
            **{**_CIRCLE, "marker": shape},
            label=wrapped(f"{names}: {share:.4g}%", 270),
        )
    legend_below(canvas, columns=1)


def _apart(marks: Sequence[Mark], per_x: float) -> list[list[Mark]]:
    """Marks that would cover one another share one, and its label; per_x: points for a factor of e."""
    groups: list[list[Mark]] = []
    for mark in marks:
        for group in groups:
            if abs(math.log(mark.x / group[0].x)) * per_x < APART:
                group.append(mark)
                break
        else:
            groups.append([mark])
    return groups


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
        roof = f"{name}: {flops / tera:,.4g} TFLOP/s, {rate / 1e9:,.4g} GB/s"
        axes.plot(
            [lowest, ridge, highest], [lowest * rate / tera, flops / tera, flops / tera], color=BLUE, ls=dash,
            lw=1.6, label=roof,
        )  # fmt: skip
    least = min(lowest * chart.stream_Bps, *(kernel.flops for kernel in chart.kernels))
    per_x, per_y = 250 / math.log(highest / lowest), 190 / math.log(chart.peak_flops / least)
    for i, group in enumerate(_together(chart.kernels, per_x, per_y)):
        x, y = _middle(group)
        names = "; ".join(kernel.name for kernel in group)
        rates = _range([kernel.flops / tera for kernel in group])
        axes.plot(
            x, y / tera, _MARKERS[i % len(_MARKERS)], color=RED if group[0].kind == "product" else GREEN, mfc="none",
            ms=6, mew=1.4, ls="none",
            label=wrapped(f"{rates} TFLOP/s at {_range([k.intensity for k in group])} FLOP/B: {names}", 270),
        )  # fmt: skip
    axes.set(
        xscale="log", yscale="log", xlabel="arithmetic intensity (FLOP/B)", ylabel="throughput (TFLOP/s)"
    )
    axes.set(xlim=(lowest, highest))
    plain(axes)
    axes.minorticks_off()
    for axis, first, last in (
        (axes.xaxis, lowest * 1.4, highest / 1.4),
        (axes.yaxis, least / tera, chart.peak_flops / tera),
    ):
        decades(axis, [first, last])
    legend_below(canvas, columns=1)


def _together(kernels: Sequence[Kernel], per_x: float, per_y: float) -> list[list[Kernel]]:
    """Kernels of a kind whose marks would cover one another; per_x, per_y: points for a factor of e."""
    groups = [[kernel] for kernel in kernels]

    def apart(pair: tuple[list[Kernel], list[Kernel]]) -> float:
        (x0, y0), (x1, y1) = (_middle(group) for group in pair)
        if pair[0][0].kind != pair[1][0].kind:
            return math.inf
        return max(abs(math.log(x1 / x0)) * per_x, abs(math.log(y1 / y0)) * per_y)

    while len(groups) > 1:
        first, second = min(itertools.combinations(groups, 2), key=apart)
        if apart((first, second)) >= APART:
            break
        first += second
        groups.remove(second)
    return groups


def _middle(group: Sequence[Kernel]) -> tuple[float, float]:
    """Where their mark stands: the geometric mean of intensity and of rate."""
    return (
        math.prod(kernel.intensity for kernel in group) ** (1 / len(group)),
        math.prod(kernel.flops for kernel in group) ** (1 / len(group)),
    )


def _range(values: Sequence[float]) -> str:
    low, high = f"{float(f'{min(values):.3g}'):,g}", f"{float(f'{max(values):.3g}'):,g}"
    return low if low == high else f"{low} to {high}"


def overlap(canvas: Canvas, chart: Overlap) -> None:
    above, below = canvas.subplots(2)
    unit, per_s = time_unit(chart.end_s)
    made, sent = ([(s * per_s, size / 1e6) for s, size in points] for points in (chart.made, chart.sent))
    above.step(*zip((0.0, 0.0), *made, strict=True), where="post", color=BLUE, lw=1.8, label="computed")
    if sent:
        above.plot(*zip(*sent, strict=True), color=RED, ls="--", lw=1.8, label="all-reduced")
    end = chart.backward_end_s * per_s
    above.axvline(end, color=INK, lw=1)
    if chart.end_s > chart.backward_end_s:
        above.axvspan(end, chart.end_s * per_s, color=RED, alpha=0.15, lw=0, label="not hidden")
    above.set(
        xlabel=f"since the backward pass began ({unit})",
        ylabel="gradients (MB)",
        xlim=(0, None),
        ylim=(0, None),
    )
    above.legend(frameon=False, fontsize=SMALL, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    gpus = [count for count, _ in chart.scaling]
    shares = [100 * share for _, share in chart.scaling]
    below.plot(gpus, shares, color=BLUE, lw=1.8, marker="o", ms=3.5, label="predicted")
    asked = [(count, 100 * share) for count, share in chart.scaling if count == chart.asked_gpus]
    below.plot(*zip(*asked, strict=True), **_CIRCLE)
    if chart.measured:
        published = [(count, 100 * share) for count, share in chart.measured]
        below.plot(*zip(*published, strict=True), "x", color=RED, ms=7, mew=2, label="published")
        below.legend(frameon=False, fontsize=SMALL, loc="lower left", bbox_to_anchor=(0, 0))
    below.set(xscale="log", xlabel="GPUs", ylabel="efficiency (%)", ylim=(0, 105))
    for axes in (above, below):
        plain(axes)
    below.minorticks_off()
    powers(below, [*gpus, *(count for count, _ in chart.measured)])
