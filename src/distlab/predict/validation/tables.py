"""The scorecard as tables: of groups, of cells, of collectives by payload; for a terminal and for the book's page.

    summary(groups(score_shipped())).as_rich()
    summary(groups(score_shipped())).as_markdown()

A miss is said by a word; a terminal shows it in red, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distlab.errors import printable
from distlab.predict.units import KIB, MIB
from distlab.predict.validation import Scored
from distlab.predict.validation.columns import FORMATS, Column, Format
from distlab.predict.validation.targets import Group, percentile_95

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MISSED = "missed"

CASES_SHOWN = 20
"""Families of more collectives than so many are shown by payload, one column for each run."""


@dataclass(frozen=True)
class Line:
    """A row of text. `new`: a rule comes before it."""

    cells: tuple[str, ...]
    missed: bool = False
    new: bool = False


@dataclass(frozen=True)
class Table:
    """The first `words` columns are words, the rest figures."""

    columns: tuple[str, ...]
    words: int
    lines: tuple[Line, ...]
    title: str = ""

    def of(self, *columns: str) -> Table:
        """The same with these columns alone, in this order. ValueError for one that is not there."""
        chosen = [self.columns.index(name) for name in columns]
        lines = tuple(replace(line, cells=tuple(line.cells[i] for i in chosen)) for line in self.lines)
        return replace(self, columns=columns, words=sum(i < self.words for i in chosen), lines=lines)

    def as_rich(self) -> RichTable:
        from rich import box
        from rich.markup import escape
        from rich.table import Table as RichTable

        table = RichTable(box=box.SIMPLE_HEAD, title=escape(self.title) or None, title_justify="left")
        for i, name in enumerate(self.columns):
            table.add_column(escape(name), justify="left" if i < self.words else "right")
        for line in self.lines:
            if line.new:
                table.add_section()
            table.add_row(*map(escape, line.cells), style="red" if line.missed else None)
        return table

    def as_markdown(self) -> str:
        """A pipe table. Lines that are missed are bold; names may break after an underscore."""

        def row(cells: Sequence[str]) -> str:
            return f"| {' | '.join(cells)} |"

        def text(cell: str, bold: bool) -> str:
            plain = cell.replace("|", "\\|").replace("_", "\\_\u200b").replace("*", "\\*").replace("~", "\\~")
            return f"**{plain}**" if bold and plain else plain

        rules = ["---" if i < self.words else "---:" for i in range(len(self.columns))]
        body = [row([text(cell, line.missed) for cell in line.cells]) for line in self.lines]
        return "\n".join([row(self.columns), row(rules), *body])


def summary(found: Sequence[Group]) -> Table:
    """Errors of each group; its target, and whether it is missed."""
    lines = []
    before = ""
    for group in found:
        errors = group.errors
        figures = (statistics.fmean(errors), statistics.median(errors), percentile_95(errors), max(errors))
        signed = statistics.fmean(cell.signed_error for cell in group.cells)
        verdict = str(group.target) + (f", {MISSED}" if group.misses else "")
        cells = (
            "" if group.family == before else printable(group.family),
            group.name,
            "yes" if group.fitted else "no",
            str(len(errors)),
            *(percent(figure) for figure in figures),
            percent(signed, "+"),
            verdict,
        )
        lines.append(Line(cells, group.misses, new=before not in ("", group.family)))
        before = group.family
    columns = (
        "family",
        "group",
        "in a fit",
        "cells",
        "mean",
        "median",
        "p95",
        "max",
        "signed mean",
        "target",
    )
    return Table(columns, 3, tuple(lines))


def details(found: Sequence[Group]) -> list[Table]:
    """Cell by cell, family by family."""
    families: dict[str, list[Group]] = {}
    for group in found:
        families.setdefault(group.family, []).append(group)
    tables = []
    for name, members in families.items():
        cells = [cell for group in members for cell in group.cells]
        many = len(cells) > CASES_SHOWN and all(cell.kind == "collective" for cell in cells)
        tables.append(by_payload(name, cells) if many else cases(name, members))
    return tables


def cases(family: str, members: Sequence[Group]) -> Table:
    """Predicted and measured, one line for each cell."""
    lines = []
    for group in members:
        for cell in group.cells:
            missed = group.target.missed_by(cell)
            lines.append(
                Line(
                    (
                        cell.case,
                        "yes" if cell.fitted else "no",
                        number(cell.predicted),
                        f"{number(cell.measured)} {cell.unit}".rstrip(),
                        percent(cell.signed_error, "+"),
                        MISSED if missed else "",
                    ),
                    missed,
                )
            )
    columns = ("case", "in a fit", "predicted", "measured", "signed error", "")
    return Table(columns, 2, tuple(lines), printable(family))


def by_payload(family: str, cells: Sequence[Scored]) -> Table:
    """Signed errors of collectives: a line for each payload, a column for each run. A * is a cell of a fit."""
    runs = list(dict.fromkeys(cell.run for cell in cells))
    found: dict[tuple[float, tuple[str, int, int]], str] = {}
    for cell in cells:
        shown = percent(cell.signed_error, "+") + ("*" if cell.fitted else " ")
        key = (cell.payload_bytes, cell.run)
        found[key] = f"{found[key]}, {shown}" if key in found else shown
    lines = tuple(
        Line((size(payload), *(found.get((payload, run), "") for run in runs)))
        for payload in sorted({cell.payload_bytes for cell in cells})
    )
    columns = ("payload", *(f"{printable(name)} {n // per}x{per}" for name, n, per in runs))
    return Table(columns, 0, lines, f"{printable(family)}: signed errors, * in a fit")


def formats_table() -> Table:
    """The columns of files of measured cases: of each kind of measurement those that it needs, then those it may have.

    Formats that share all columns but the measurement share their lines.
    """
    together: dict[tuple[Column, ...], list[Format]] = {}
    for one in FORMATS.values():
        together.setdefault(one.columns, []).append(one)
    lines: list[Line] = []
    for columns, members in together.items():
        for number, one in enumerate(members):
            cells = (one.measured.name, one.measured.values, f"{one.what}: {one.measured.what}", "measured")
            lines.append(Line(cells, new=bool(lines) and number == 0))
        for column in sorted(columns, key=lambda column: not column.needed):
            name = f"  {' or '.join((column.name, *column.also))}"
            lines.append(Line((name, column.values, column.what, column.otherwise or "needed")))
    heads = ("column", "values", "what", "without it")
    title = "CSV files of measured cases: one measured column, those that it needs, those that it may have"
    return Table(heads, 4, tuple(lines), title)


def percent(fraction: float, sign: str = "") -> str:
    return f"{fraction:{sign}.1%}" if abs(fraction) < 1000 else f"{100 * fraction:{sign}.2g}%"


def number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"


def size(payload_bytes: float) -> str:
    """In KiB or MiB."""
    unit, name = (MIB, "MiB") if payload_bytes >= MIB else (KIB, "KiB")
    return f"{payload_bytes / unit:.4g} {name}"
