"""What the commands print: a table of terms that add up, lines of text, or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distlab.errors import SettingError, printable
from distlab.predict.commands.plain import Column, print_lines, print_table

if TYPE_CHECKING:
    from pathlib import Path

    from distlab.predict.plots.chart import Chart
    from distlab.predict.scaling import Term

TIER = "predicted"
"""Of every result here: nothing has run."""


@dataclass(frozen=True)
class Row:
    """A term of the sum."""

    term: str
    value: str
    share: float
    why: str


def time_rows(terms: Iterable[Term], total_s: float) -> list[Row]:
    """Those that take time."""
    return [Row(t.name, seconds(t.seconds), t.seconds / total_s, t.why) for t in terms if t.seconds]


def show_json(values: dict[str, Any]) -> None:
    """Nothing but this on standard output."""
    print(json.dumps({"tier": TIER, **values}, indent=1, allow_nan=False))


def show(title: str, unit: str, rows: Sequence[Row], total: str, lines: Sequence[str]) -> None:
    """The table, its sum, and what follows from it."""
    columns = [Column("term"), Column(unit, right=True), Column("share", right=True), Column("why")]
    cells = [[row.term, row.value, f"{row.share:.1%}", printable(row.why)] for row in rows]
    print_table(printable(f"{title} ({TIER})"), columns, cells, ["total", total, "", ""])
    print_lines(printable(line) for line in lines)


def draw(figures: dict[str, Path], charts: dict[str, Callable[[], Chart]]) -> list[str]:
    """Draw what was asked for; lines that say where it is. `charts` makes them, by the names of their options."""
    if not figures:
        return []
    try:
        from distlab.predict.plots.drawing import save

        for name, path in figures.items():
            save(charts[name](), path)
    except ModuleNotFoundError as error:
        raise SettingError(
            f"{', '.join(figures)} needs {error.name}, which is not installed: pip install 'distlab[train]'."
        ) from None
    except OSError as error:
        raise SettingError(
            f"{', '.join(figures)} cannot be written ({error.strerror or error}); name a file in a folder of yours."
        ) from None
    return [f"Drawn: {path}" for path in figures.values()]


def seconds(value: float) -> str:
    """With four digits, in a unit that fits."""
    for factor, unit in ((1e-6, "us"), (1e-3, "ms")):
        if 0 < value < 1000 * factor:
            return f"{value / factor:.4g} {unit}"
    return f"{value:,.4g} s" if value < 1e4 else f"{value:,.0f} s"


def number(value: float) -> str:
    """With four digits, and no exponent up to a quadrillion: 11,690 and 0.02345."""
    if not 1000 <= abs(value) < 1e15:
        return f"{value:.4g}"
    return f"{round(value, 4 - len(str(int(abs(value))))):,.0f}"


def gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count:,} GPUs"


def gib(value: float) -> str:
    return f"{value / 2**30:,.3f}"
