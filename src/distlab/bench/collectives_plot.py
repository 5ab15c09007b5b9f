"""`distlab bench collectives --plot FILE`: bus bandwidth and time over payload, with the fitted model."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distlab.bench.collectives_report import Report, Row
from distlab.bench.results import write_file
from distlab.predict.collectives import Link, bus_bandwidth_Bps, fit_alpha_beta, ring_s

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision tell apart; each comes with a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plot_collectives(report: Report, path: Path) -> None:
    """Draw a report into a file, whole or not at all; its name says the format: .svg, .png or .pdf.

    Marks are medians in the place where torch.distributed itself works; a dashed line is the alpha-beta model fitted
    to the medians of its operation.
    """
    import matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"font.size": 9, "svg.hashsalt": "distlab", "figure.facecolor": "white"}
    with matplotlib.rc_context(settings):
        canvas = Figure(figsize=(10, 5.2), layout="constrained")
        bandwidth, time = canvas.subplots(1, 2)
        operations = list(dict.fromkeys(row.operation for row in report.rows))
        for i, operation in enumerate(operations):
            rows = [row for row in report.rows if row.operation == operation]
            _draw(bandwidth, time, rows, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
        for axes, title in ((bandwidth, "bus bandwidth (GB/s)"), (time, "time (us)")):
            axes.set(xlabel="payload (bytes)", ylabel=title, xscale="log", yscale="log")
            axes.grid(True, alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        handles, labels = bandwidth.get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
        canvas.suptitle(_title(report), fontsize=9)
        stream = io.BytesIO()
        canvas.savefig(stream, format=path.suffix[1:], dpi=150)
    write_file(path, stream.getvalue())


def _title(report: Report) -> str:
    stamp = report.stamp
    lines = (
        f"Collectives, {stamp.world_size} x {stamp.backend}, {report.rows[0].dtype}: medians, and the alpha-beta model "
        "fitted to them (dashed)",
        f"tier {stamp.tier}, {stamp.hardware}, {stamp.cores} cores, torch {stamp.torch}, {stamp.date}",
        stamp.network,
    )
    return "\n".join(filter(None, lines))


def _draw(bandwidth: Axes, time: Axes, rows: list[Row], colour: str, marker: str) -> None:
    sizes = [row.payload_bytes for row in rows]
    marks: dict[str, Any] = {"color": colour, "marker": marker, "ms": 5, "ls": "none"}
    label: str = rows[0].operation
    link = fitted(rows)
    if link is not None:
        label += f": alpha {1e6 * link.alpha_s:.0f} us, {link.bandwidth_Bps / 1e9:.3g} GB/s"
        op, ranks = rows[0].operation, rows[0].world_size
        first, last = math.log(min(sizes)), math.log(max(sizes))
        grid = [math.exp(first + (last - first) * i / 50) for i in range(51)]
        model_s = [ring_s(op, size, ranks, link) for size in grid]
        model_Bps = [bus_bandwidth_Bps(op, s, t, ranks) for s, t in zip(grid, model_s, strict=True)]  # noqa: N806
        time.plot(grid, [1e6 * time_s for time_s in model_s], color=colour, ls="--", lw=1)
        bandwidth.plot(grid, [b / 1e9 for b in model_Bps], color=colour, ls="--", lw=1)
    bandwidth.plot(sizes, [row.bus_bandwidth_GBps for row in rows], label=label, **marks)
    time.plot(sizes, [1e6 * row.median_s for row in rows], **marks)


def fitted(rows: list[Row]) -> Link | None:
    """The link that fits an operation's medians best; None where no line does."""
    try:
        samples = [(row.payload_bytes, row.median_s) for row in rows]
        return fit_alpha_beta(samples, rows[0].world_size, rows[0].operation)
    except ValueError:
        return None
