"""The tables that `distlab bench collectives` prints: nccl-tests' columns, and the spread of the times."""

from __future__ import annotations

from rich import box
from rich.table import Table

from distlab.bench.collectives_report import Report, Row, Timing
from distlab.bench.operations import PLACES
from distlab.bench.printing import print_report


def print_table(report: Report) -> None:
    """The report for people, with its notes and its stamp below."""
    print_report((bandwidths(report), spread(report)), [*report.notes, str(report.stamp)])


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")


def _us(time_s: float) -> str:
    """Microseconds to four digits, or whole."""
    time_us = 1e6 * time_s
    return f"{time_us:.{max(0, 2 - len(str(int(time_us))) + 1)}f}"


def bandwidths(report: Report) -> Table:
    """The columns of nccl-tests."""
    table = _table(f"Collectives, {report.stamp.world_size} x {report.stamp.backend}")
    for heading in ("operation", "size\n(B)", "count\n(elements)", "type", "redop", "root"):
        right = heading.startswith(("size", "count", "root"))
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    for place in ("out of place", "in place"):
        for heading in (f"{place}\ntime (us)", "algbw\n(GB/s)", "busbw\n(GB/s)", "#wrong"):
            table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            row.operation,
            str(row.payload_bytes),
            str(row.count),
            row.dtype,
            row.redop,
            str(row.root),
            *_cells(row.out_of_place),
            *_cells(row.in_place),
            end_section=_is_last(report, row),
        )
    return table


def _cells(timing: Timing | None) -> list[str]:
    if timing is None:
        return ["-"] * 4
    return [
        _us(timing.median_s),
        f"{timing.algorithm_bandwidth_GBps:.3f}",
        f"{timing.bus_bandwidth_GBps:.3f}",
        f"[red]{timing.wrong}[/red]" if timing.wrong else "0",
    ]


def spread(report: Report) -> Table:
    """How far the times of a row lie apart."""
    table = _table("Spread of the times")
    table.add_column("operation", no_wrap=True)
    table.add_column("size\n(B)", justify="right", no_wrap=True)
    for place in ("out of place", "in place"):
        for heading in (f"{place}\ncalls", "min\n(us)", "median\n(us)", "p99\n(us)", "variation"):
            table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        cells: list[str] = []
        for place in PLACES:
            timing = row.places.get(place)
            times = (timing.min_s, timing.median_s, timing.p99_s) if timing else ()
            cells += (
                [str(timing.iterations), *map(_us, times), f"{timing.variation:.0%}"] if timing else ["-"] * 5
            )
        table.add_row(row.operation, str(row.payload_bytes), *cells, end_section=_is_last(report, row))
    return table


def _is_last(report: Report, row: Row) -> bool:
    """Of its operation."""
    return row is [other for other in report.rows if other.operation == row.operation][-1]
