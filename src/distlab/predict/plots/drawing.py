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


def figure(chart: Chart) -> Figure:
    """As inline SVG with alternative text and caption."""
    with _drawn(chart) as canvas:
        return finished(canvas, chart.in_words(), chart.caption)


def save(chart: Chart, path: Path) -> None:
    """Into a file of its own, whole or not at all: .svg, .png or .pdf. OSError where it cannot be written."""
    kind = path.suffix.removeprefix(".")
    title = chart.title if len(chart.title) <= MOST_TITLE else chart.title[: MOST_TITLE - 3] + "..."
    with _drawn(chart) as canvas, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of somebody's name; a box stands for it
        canvas.suptitle(title, fontsize=10, x=0.02, ha="left", parse_math=False)
        if kind == "svg":
            write_whole(path, _document(chart, finished(canvas, chart.in_words(), chart.caption)).encode())
            return
        stream = io.BytesIO()
        canvas.savefig(stream, format=kind, dpi=200, facecolor="white", metadata=_metadata(chart, kind))
        write_whole(path, stream.getvalue())


@contextlib.contextmanager
def _drawn(chart: Chart) -> Iterator[Canvas]:
    from distlab.predict.plots import panels

    ways: dict[type[Chart], tuple[Callable[[Canvas, Any], None], Callable[[Any], float]]] = {
        Waterfall: (panels.waterfall, panels.waterfall_height),
        StepChart: (panels.step, panels.step_height),
        Growth: (panels.growth, lambda chart: 4.6),
        Placement: (panels.placement, lambda chart: 5.2),
        Exchange: (panels.exchange, lambda chart: 4.8),
        Intervals: (panels.intervals, lambda chart: 3.6),
        Overlap: (panels.overlap, lambda chart: 5.0),
    }
    draw, height = ways[type(chart)]
    with drawing(chart.in_words(), height=height(chart)) as canvas:
        draw(canvas, chart)
        yield canvas


def _document(chart: Chart, drawn: Figure) -> str:
    head, rest = drawn.svg.split(">", 1)
    told = (
        f"<title>{escape(chart.title)}</title><desc>{escape(chart.in_words())} {escape(chart.caption)}</desc>"
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}>{told}{SCHEMES}{rest}\n'


def _metadata(chart: Chart, kind: str) -> dict[str, Any]:
    """No date: the same chart is the same file."""
    words = f"{chart.in_words()} {chart.caption}"
    if kind == "pdf":
        return {
            "Title": chart.title,
            "Subject": words,
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
        }
    return {"Title": chart.title, "Description": words, "Software": None}
