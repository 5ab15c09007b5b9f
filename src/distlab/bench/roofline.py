"""The roofline of a device from what was measured on it (Williams, Waterman and Patterson, 2009, CACM 52(4)).

    distlab bench gpu --roofline roofline.svg              # measure, then draw
    distlab bench roofline gpu.json roofline.svg           # draw what was measured before

A kernel of intensity I (operations per byte moved) can reach min(compute ceiling, I x memory bandwidth). Where the
two meet is the ridge point: kernels left of it wait for memory, those right of it for arithmetic. The ceilings here
are the best that was measured, so that no datasheet flatters the distance to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from distlab.bench.results import Results, check_figure, read_results, write_file
from distlab.errors import SettingError, printable
from distlab.figures.figure import BLUE, RED
from distlab.figures.plots import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

TINY = 1e-30
"""Of times, operations and bytes, and one over it the most: their ratios are numbers, too."""
TOGETHER = 0.08
"""Ceilings closer than this share of each other are labelled in one line."""
LABEL_HEIGHT = 0.055
"""Of a label, as a share of the axis."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Ceiling:
    """The best rate of products of a type."""

    dtype: str
    flops: float
    """Operations per second."""
    size: str
    """The shape that reached it."""


@dataclass(frozen=True)
class Marker:
    """A kernel that ran."""

    name: str
    intensity: float
    """Operations per byte."""
    flops: float
    """Operations per second, of the median time."""
    dtype: str


@dataclass(frozen=True)
class Roofline:
    """A device's ceilings and what kernels reached below them."""

    hardware: str
    tier: str
    date: str
    ceilings: tuple[Ceiling, ...]
    """The highest first."""
    bandwidth_Bps: float  # noqa: N815 - units keep their case
    """Of the device's own memory."""
    bandwidth_by: str
    markers: tuple[Marker, ...]

    def ridge(self, dtype: str) -> float:
        """Operations per byte from which on a kernel of this type can be bound by arithmetic."""
        return next(c.flops for c in self.ceilings if c.dtype == dtype) / self.bandwidth_Bps

    def attainable(self, marker: Marker) -> float | None:
        """What the roof allows this kernel; None where products of its type were not measured."""
        flops = next((c.flops for c in self.ceilings if c.dtype == marker.dtype), None)
        return None if flops is None else min(flops, marker.intensity * self.bandwidth_Bps)


def roofline(results: Results) -> Roofline:
    """From the rows of `distlab bench gpu`. SettingError where products, or copies beyond the caches, are missing."""
    if results.kind != "gpu":
        raise SettingError(
            f"These are results of {printable(results.kind)!r}; a roofline needs those of `distlab bench gpu`."
        )
    try:
        rows = [row for row in results.rows if row.get("data", "random") == "random"]
        best: dict[str, Ceiling] = {}
        for row in (row for row in rows if row["part"] == "product"):
            flops, name = _figure(row, "flop") / _figure(row, "min_s"), printable(str(row["name"]))
            if name not in best or flops > best[name].flops:
                best[name] = Ceiling(name, flops, printable(str(row["size"])))
        bandwidth_Bps, by = _bandwidth(rows)  # noqa: N806
        markers = tuple(_marker(row) for row in rows if row["part"] == "kernel")
        ceilings = tuple(sorted(best.values(), key=lambda ceiling: -ceiling.flops))
        told = {
            name: printable(str(results.stamp.get(name, "unknown"))) for name in ("hardware", "tier", "date")
        }
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise SettingError(f"The results lack what a roofline needs ({printable(str(error))}).") from None
    if not ceilings or not bandwidth_Bps:
        missing = "products" if not ceilings else "copies"
        raise SettingError(f"The results hold no {missing}; a roofline needs products and copies.")
    return Roofline(**told, ceilings=ceilings, bandwidth_Bps=bandwidth_Bps, bandwidth_by=by, markers=markers)


def _bandwidth(rows: Sequence[Mapping[str, Any]]) -> tuple[float, str]:
    """The best rate in the device's own memory, at the largest payload alone: smaller ones may sit in a cache."""
    inside = [
        row for row in rows if row["part"] == "copy" and str(row["name"]).startswith(("D2D", "host to host"))
    ]
    largest = max(
        (_figure(row, "bytes") / (2 if "copy" in str(row["name"]) else 1) for row in inside), default=0.0
    )
    rates = [
        (_figure(row, "bytes") / _figure(row, "min_s"), printable(f"{row['name']} of {row['size']}"))
        for row in inside
        if _figure(row, "bytes") >= largest
    ]
    return max(rates, default=(0.0, ""))


def _figure(row: Mapping[str, Any], name: str) -> float:
    """ValueError where it is no number that a measurement gives."""
    value = row[name]
    if type(value) not in (int, float) or not TINY < value < 1 / TINY:
        raise ValueError(f"{name} is {str(value)[:40]}")
    return float(value)


def _marker(row: Mapping[str, Any]) -> Marker:
    name, _, dtype = printable(str(row["name"])).rpartition(" ")
    flop = _figure(row, "flop")
    return Marker(name, flop / _figure(row, "bytes"), flop / _figure(row, "median_s"), dtype)


def save_roofline(found: Roofline, path: Path) -> None:
    """Into a file of its own, on white. SettingError where it cannot be written."""
    import io

    from distlab.figures.plots import drawing

    stream = io.BytesIO()
    with drawing(in_words(found), height=4.4) as canvas:
        _draw(canvas, found)
        canvas.suptitle(f"{found.hardware} ({found.tier} tier), {found.date[:10]}", fontsize=10)
        kind = path.suffix.removeprefix(".")
        canvas.savefig(stream, format=kind, dpi=200, facecolor="white")
    write_file(path, stream.getvalue())


def in_words(found: Roofline) -> str:
    """What the figure shows."""
    unit, scale = _unit(found)
    roofs = ", ".join(
        f"{c.dtype} {c.flops / scale:.3g} {unit} (ridge at {found.ridge(c.dtype):.3g} FLOP/B)"
        for c in found.ceilings
    )
    reached = []
    for marker in found.markers:
        roof = found.attainable(marker)
        share = f", {100 * marker.flops / roof:.0f}% of its roof" if roof else ""
        reached.append(f"{marker.name} at {marker.intensity:.3g} FLOP/B{share}")
    memory = f"memory {found.bandwidth_Bps / 1e9:.4g} GB/s ({found.bandwidth_by})"
    return (
        f"Roofline of {found.hardware} ({found.tier} tier). Ceilings: {roofs}; {memory}. Kernels: "
        f"{'; '.join(reached) or 'none'}."
    )


def _draw(canvas: Canvas, found: Roofline) -> None:
    axes = canvas.add_subplot()
    unit, scale = _unit(found)
    ridges = [found.ridge(c.dtype) for c in found.ceilings]
    lowest = min([m.intensity for m in found.markers] + [0.1]) / 2
    highest = 2 * max([m.intensity for m in found.markers] + ridges)
    slope = found.bandwidth_Bps / scale
    axes.plot([lowest, max(ridges)], [lowest * slope, max(ridges) * slope], color=BLUE, lw=1.8)
    for ceiling in found.ceilings:
        ridge = found.ridge(ceiling.dtype)
        axes.plot([ridge, highest], [ceiling.flops / scale] * 2, color=BLUE, lw=1.8)
    for i, marker in enumerate(found.markers):
        axes.plot(
            [marker.intensity], [marker.flops / scale], MARKERS[i % 8], color=RED, ms=6, ls="none",
            label=f"{marker.name} ({marker.dtype})",
        )  # fmt: skip
    bottom = min([m.flops for m in found.markers] + [lowest * found.bandwidth_Bps]) / 2
    _mark_ridge(axes, found, bottom / scale, scale)
    axes.set(xscale="log", yscale="log", xlim=(lowest, highest))
    axes.set(ylim=(bottom / scale, 3 * found.ceilings[0].flops / scale))
    axes.set(xlabel="arithmetic intensity (FLOP/B)", ylabel=f"throughput ({unit})")
    axes.grid(True)
    axes.spines[["top", "right"]].set_visible(False)
    _label(axes, found, highest)
    if found.markers:
        canvas.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=2)


def _mark_ridge(axes: Axes, found: Roofline, bottom: float, scale: float) -> None:
    """Drop a line from the ridge of the type that the kernels ran in."""
    ran_in = [m.dtype for m in found.markers]
    ceiling = next((c for c in found.ceilings if c.dtype in ran_in), found.ceilings[0])
    ridge = found.ridge(ceiling.dtype)
    axes.plot([ridge] * 2, [bottom, ceiling.flops / scale], color=INK, lw=1, ls=":")
    axes.annotate(
        f"ridge {_short(ridge)}", (ridge, bottom), xytext=(-2, 4), textcoords="offset points", rotation=90, ha="right",
        va="bottom", fontsize=9, color=INK,
    )  # fmt: skip


def _unit(found: Roofline) -> tuple[str, float]:
    return ("TFLOP/s", 1e12) if found.ceilings[0].flops >= 1e13 else ("GFLOP/s", 1e9)


def _label(axes: Axes, found: Roofline, right: float) -> None:
    """Name the ceilings at their right ends, those that nearly agree together; and the memory in its corner."""
    _, scale = _unit(found)
    groups: list[list[Ceiling]] = []
    for ceiling in found.ceilings:
        if groups and groups[-1][0].flops < (1 + TOGETHER) * ceiling.flops:
            groups[-1].append(ceiling)
        else:
            groups.append([ceiling])
    low, high = (math.log10(limit) for limit in axes.get_ylim())
    least_gap = LABEL_HEIGHT * (high - low)
    above = math.inf
    for group in groups:
        level = math.log10(group[0].flops / scale)
        above = min(level, above - least_gap)
        axes.annotate(
            ", ".join(c.dtype for c in group) + f": {_short(group[0].flops / scale)}",
            (right, 10**level), xytext=(1.05 * right, 10**above), ha="left", va="center", fontsize=9, color=INK,
            annotation_clip=False,
        )  # fmt: skip
    words = f"memory: {_short(found.bandwidth_Bps / 1e9)} GB/s"
    axes.annotate(words, (0.03, 0.97), xycoords="axes fraction", va="top", fontsize=9, color=INK)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def main(
    results: Annotated[Path, tyro.conf.Positional],
    figure: Annotated[Path, tyro.conf.Positional],
) -> int:
    """Draw the roofline of results that `distlab bench gpu --out` wrote.

    Args:
        results: The file of results.
        figure: The figure: .svg, .png or .pdf.
    """
    check_figure(figure)
    found = roofline(read_results(results))
    save_roofline(found, figure)
    print(in_words(found))
    return 0
