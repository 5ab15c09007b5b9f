"""How benchmarks print what they found."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table


def print_report(tables: Iterable[Table], lines: Iterable[str]) -> None:
    """Tables, then lines of text.

    A terminal that is too narrow for a table wraps its lines, which is better than figures that are cut.
    """
    console = Console()
    for table in tables:
        width = console.measure(table, options=console.options.update(max_width=1000)).maximum
        Console(file=console.file, width=max(width, console.width)).print(table)
    for line in lines:
        console.print(line, highlight=False, markup=False)
