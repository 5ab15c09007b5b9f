"""Draws charts: as inline figures for a page, or into files. matplotlib is imported when something is drawn.

A page's figure has the page's own colour of text; a file of SVG follows the viewer's light or dark scheme, and has a
title and a description; .png and .pdf are on white.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distlab.figures.figure import Figure
from distlab.figures.plots import drawing, finished
from distlab.files import write_whole
from distlab.predict.plots.chart import Chart
from distlab.predict.plots.exchange import Exchange
from distlab.predict.plots.growth import Growth
from distlab.predict.plots.intervals import Intervals
from distlab.predict.plots.overlap import Overlap
from distlab.predict.plots.placement import Placement
from distlab.predict.plots.ranking import Ranking
from distlab.predict.plots.step import StepChart
from distlab.predict.plots.waterfall import Waterfall

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

SCHEMES = (
    "<style>svg{color:#1b1b1b;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{color:#e8e8e8;background:#16181c}}</style>"
)
"""Of a file, which no page gives its colours."""

MOST_TITLE = 60
"""Characters that fit over a figure."""
EDGE = 6.0
"""Points around the words of a file."""
LEADING = 1.3
"""Height of a line over the size of its letters."""


def figure(chart: Chart) -> Figure:
    """As inline SVG with alternative text, and a caption that begins with what a file has over it."""
    with _drawn(chart) as canvas:
        framed(canvas)
        return finished(canvas, chart.in_words(), f"{chart.heading}. {chart.caption}")


def save(chart: Chart, path: Path) -> None:
    """Into a file of its own, whole or not at all: .svg, .png or .pdf. OSError where it cannot be written."""
    kind = path.suffix.removeprefix(".")
    with _drawn(chart) as canvas, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of somebody's name; a box stands for it
        framed(canvas, chart)
        if kind == "svg":
            write_whole(path, _document(chart, finished(canvas, chart.in_words(), chart.caption)).encode())
            return
        stream = io.BytesIO()
        canvas.savefig(stream, format=kind, dpi=200, facecolor="white", metadata=_metadata(chart, kind))
        write_whole(path, stream.getvalue())


def framed(canvas: Canvas, chart: Chart | None = None) -> None:
    """Legends below, of a file title and what it is about above, its caption below all: each in a margin of its own.

    The figure grows by them: its axes stay as large.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    agg: Any = FigureCanvasAgg(canvas)
    renderer = agg.get_renderer()
    per_point = canvas.dpi / 72
    keys = sum(legend.get_window_extent(renderer).height / per_point for legend in canvas.legends)
    above, below = ([], []) if chart is None else _words(canvas, chart)
    top, bottom = (
        LEADING * sum(size for _, size in lines) + (EDGE if lines else 0) for lines in (above, below)
    )
    tall = 72 * canvas.get_figheight() + top + keys + bottom
    canvas.set_figheight(tall / 72)
    engine: Any = canvas.get_layout_engine()
    engine.set(rect=(0.0, (bottom + keys) / tall, 1.0, 1 - (top + keys + bottom) / tall))
    for legend in canvas.legends:
        legend.set_bbox_to_anchor((0.0, bottom / tall, 1.0, 1.0), transform=canvas.transFigure)
    for lines, y in ((above, tall - EDGE), (below, bottom)):
        for words, size in lines:
            x = EDGE / (72 * canvas.get_figwidth())
            canvas.text(x, y / tall, words, va="top", fontsize=size, parse_math=False)
            y -= LEADING * size


def _words(canvas: Canvas, chart: Chart) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Lines over the figure and under it, with their sizes in points."""
    from distlab.predict.plots.axes import wrapped

    width = 72 * canvas.get_figwidth() - 2 * EDGE
    title = chart.title if len(chart.title) <= MOST_TITLE else chart.title[: MOST_TITLE - 3] + "..."
    above = [(title, 10.0)]
    above += [(line, 8.5) for line in wrapped(chart.about, width, 8.5).split("\n") if line]
    below = [(line, 8.0) for line in wrapped(chart.caption, width, 8.0).split("\n") if line]
    return above, below


@contextlib.contextmanager
def _drawn(chart: Chart) -> Iterator[Canvas]:
    from distlab.predict.plots import bars, curves

    ways: dict[type[Chart], tuple[Callable[[Canvas, Any], None], Callable[[Any], float]]] = {
        Waterfall: (bars.waterfall, bars.waterfall_height),
        StepChart: (bars.step, bars.step_height),
        Ranking: (bars.ranking, bars.ranking_height),
        Growth: (curves.growth, lambda chart: 4.2),
        Placement: (curves.placement, lambda chart: 3.6),
        Exchange: (curves.exchange, lambda chart: 4.8),
        Intervals: (curves.intervals, lambda chart: 3.2),
        Overlap: (curves.overlap, lambda chart: 5.0),
    }
    draw, height = ways[type(chart)]
    with drawing(chart.in_words(), height=height(chart)) as canvas:
        draw(canvas, chart)
        yield canvas


def _document(chart: Chart, drawn: Figure) -> str:
    head, rest = drawn.svg.split(">", 1)
    told = f"<title>{escape(chart.heading)}</title><desc>{escape(chart.in_words())} {escape(chart.caption)}</desc>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}>{told}{SCHEMES}{rest}\n'


def _metadata(chart: Chart, kind: str) -> dict[str, Any]:
    """No date: the same chart is the same file."""
    words = f"{chart.in_words()} {chart.caption}"
    if kind == "pdf":
        return {
            "Title": chart.heading,
            "Subject": words,
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
        }
    return {"Title": chart.heading, "Description": words, "Software": None}
