"""Plots of measured and predicted numbers, as inline SVG in the colours of the page."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from distlab.figures.figure import BLUE, FONT, GREEN, PURPLE, RED, Figure, open_tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws; no other mark may have it."""

_COLOURS = (BLUE, RED, GREEN, PURPLE)
_MARKERS = ("o", "s", "^", "D")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Series:
    """One line or one set of points. A model is a line, a measurement is points."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: Literal["line", "points", "both"] = "line"


def plot(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    alt: str,
    caption: str,
    log_x: bool = False,
    log_y: bool = False,
    y_from: float | None = None,
    level: tuple[float, str] | None = None,
    level_side: Literal["left", "right"] = "left",
) -> Figure:
    """Lines and points over two axes. `x` and `y` name the axes with their units.

    Each series has a colour, a dash and a marker of its own. `level` draws a horizontal line with a label
    at `level_side`.
    """
    with drawing(alt) as canvas:
        axes = canvas.add_subplot()
        for i, s in enumerate(series):
            line = "none" if s.style == "points" else _DASHES[i % 4]
            marker = "" if s.style == "line" else _MARKERS[i % 4]
            axes.plot(s.x, s.y, ls=line, marker=marker, ms=4.5, lw=1.8, color=_COLOURS[i % 4], label=s.label)
        if level:
            axes.axhline(level[0], color=INK, lw=1, ls=":")
            axes.annotate(
                level[1],
                (0.01 if level_side == "left" else 0.99, level[0]),
                xycoords=("axes fraction", "data"),
                ha=level_side,
                va="bottom",
                fontsize=9,
            )
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        if y_from is not None:
            axes.set_ylim(bottom=y_from)
        axes.set(xlabel=x, ylabel=y)
        axes.grid(True)
        axes.spines[["top", "right"]].set_visible(False)
        if any(s.label for s in series):
            axes.legend(frameon=False, fontsize=9)
        return finished(canvas, alt, caption)


@contextlib.contextmanager
def drawing(alt: str, height: float = 3.2) -> Iterator[Canvas]:
    """An empty plot, `height` inches tall, that is drawn in the page's ink inside the `with` block."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas  # no pyplot: no global state, no window system

    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": alt,
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.edgecolor": INK,
        "grid.color": INK,
        "grid.alpha": 0.15,
    }
    with matplotlib.rc_context(settings):
        yield Canvas(figsize=(4.6, height), layout="constrained")


def finished(canvas: Canvas, alt: str, caption: str) -> Figure:
    """What was drawn, as an inline figure; call it inside the `with drawing` block."""
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Figure(_inline(stream.getvalue(), alt), alt, caption)


def _inline(svg: str, alt: str) -> str:
    """Matplotlib's SVG file as markup for the middle of a page.

    Style attributes become plain ones (a content security policy may forbid styles), the file's own style
    sheet goes (it would apply to the whole page), and so do ids that every figure would repeat.
    """
    match = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    body = re.search(r"<svg[^>]*>(.*)</svg>", svg, re.S)
    assert match
    assert body
    inner = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", body[1], flags=re.S)
    inner = re.sub(r'<g id="[^"]*"', "<g", inner)
    inner = re.sub(r' style="([^"]*)"', lambda m: _attributes(m[1]), inner)
    inner = inner.replace(INK, "currentColor").replace("xlink:href", "href")
    points_to_pixels = 4 / 3
    width, height = (float(v) * points_to_pixels for v in match.groups())
    scaled = f'<g transform="scale({points_to_pixels:.5f})" stroke-linejoin="round">{inner}</g>'
    return open_tag(round(width), round(height), alt) + scaled + "</svg>"


def _attributes(style: str) -> str:
    """CSS declarations as SVG presentation attributes; the `font` shorthand has none of its own."""
    attributes = []
    for name, value in (part.split(":", 1) for part in style.split(";") if part.strip()):
        name, value = name.strip(), value.strip().replace('"', "'")
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            assert size
            attributes.append(f'font-size="{size[1]}" font-family="{FONT}"')
        else:
            attributes.append(f'{name}="{value}"')
    return " " + " ".join(attributes)
