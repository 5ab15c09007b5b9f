"""What `distlab bench gpu` prints and draws."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from distlab.bench.gpu import Report
from distlab.bench.measured import PARTS, Part, Row
from distlab.bench.printing import print_report
from distlab.bench.results import write_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES: dict[Part, str] = {
    "product": "Matrix products (M x K x N)",
    "copy": "Copies",
    "latency": "Latency of a call",
    "small operations": "Small element-wise operations, each after the other",
    "kernel": "Kernels for the roofline",
}
"""Of the parts' tables."""

NAMES: dict[Part, str] = {
    "product": "type",
    "copy": "direction",
    "latency": "what",
    "small operations": "launched",
    "kernel": "kernel",
}
"""Headings of the first column."""


def print_tables(report: Report) -> None:
    """One table for each part, then the notes and the stamp."""
    by_part = {part: [row for row in report.rows if row.part == part] for part in PARTS}
    tables = [table_of(part, rows) for part, rows in by_part.items() if rows]
    print_report(tables, [*report.notes, str(report.stamp)])


def table_of(part: Part, rows: Sequence[Row]) -> Table:
    """The rows of a part; columns that say nothing are left out."""
    with_peak = any(row.peak for row in rows)
    table = Table(title=TITLES[part], box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column(NAMES[part], no_wrap=True)
    table.add_column("size", no_wrap=True)
    headings = ["median", "best", "unit", *(["peak", "of peak"] if with_peak else [])]
    headings += {"product": ["error"], "kernel": ["FLOP/B"]}.get(part, [])
    headings += ["median time", "spread", "calls"]
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "unit" else "right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [row.name, row.size, _figure(row.value), _figure(row.best), row.unit]
        if with_peak:
            cells += [_figure(row.peak), f"{row.of_peak:.0%}" if row.of_peak is not None else "-"]
        if part == "product":
            cells.append(f"{row.relative_error:.1g}" if row.relative_error is not None else "-")
        if part == "kernel":
            cells.append(f"{row.flop / row.bytes:.3g}")
        cells += [_time(row.median_s), f"{row.variation:.0%}", str(row.iterations)]
        table.add_row(
            *cells, end_section=part != "kernel" and (i + 1 == len(rows) or rows[i + 1].name != row.name)
        )
    return table


def _figure(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def plot_sizes(report: Report, path: Path) -> None:
    """Products by type over the operations of a call, and copies by direction over their payload, into a file.

    Marks are medians, joined by lines; each has the shape and colour of its name.
    """
    from distlab.figures.plots import drawing

    products = [row for row in report.rows if row.part == "product"]
    copies = [row for row in report.rows if row.part == "copy"]
    panels = [rows for rows in (products, copies) if rows]
    stream = io.BytesIO()
    with drawing("products and copies") as canvas:
        canvas.set_size_inches(5 * max(1, len(panels)), 4)
        for axes, rows in zip(
            canvas.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False
        ):
            _panel(axes, rows)
        stamp = report.stamp
        canvas.suptitle(f"{stamp.hardware} ({stamp.tier} tier), {stamp.date[:10]}: medians", fontsize=10)
        canvas.savefig(stream, format=path.suffix[1:], dpi=150, facecolor="white")
    write_file(path, stream.getvalue())


def _panel(axes: Axes, rows: Sequence[Row]) -> None:
    from distlab.bench.collectives_plot import COLOURS, MARKERS

    products = rows[0].part == "product"
    for i, name in enumerate(dict.fromkeys(row.name for row in rows)):
        own = sorted(
            (row for row in rows if row.name == name), key=lambda row: row.flop if products else row.bytes
        )
        x = [row.flop if products else row.bytes for row in own]
        axes.plot(
            x,
            [row.value for row in own],
            color=COLOURS[i % 7],
            marker=MARKERS[i % 7],
            ms=5,
            lw=1.2,
            label=name,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="operations of a product" if products else "bytes that a copy counts",
        ylabel=f"{rows[0].unit} (int8: operations)" if products else "GB/s",
    )
    axes.grid(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
