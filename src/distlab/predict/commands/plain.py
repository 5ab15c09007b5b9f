"""Tables and sentences in plain text. rich does it better, and takes longer to import than a prediction with all else.

print_table("Time of a step", [Column("term"), Column("time", right=True)], [["forward", "12 ms"]], ["total", "12 ms"])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Column(NamedTuple):
    name: str
    right: bool = False
    """Numbers: digits stand below digits."""


def print_table(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], footer: Sequence[str]
) -> None:
    """As wide as it must be: a terminal that is narrower wraps lines, which is better than figures that are cut."""
    print("\n".join([title, *_table(columns, rows, footer)]))


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]], footer: Sequence[str]) -> Iterator[str]:
    cells = [[column.name for column in columns], *rows, footer]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]

    boxes = _can_print("┏")

    def line(row: Sequence[str], edge: str) -> str:
        edge = edge if boxes else "|"
        filled = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        )
        return f"{edge} {f' {edge} '.join(filled)} {edge}"

    def rule(left: str, between: str, right: str, stroke: str) -> str:
        if not boxes:
            left = between = right = "+"
            stroke = "-"
        return left + between.join(stroke * (width + 2) for width in widths) + right

    yield rule("┏", "┳", "┓", "━")
    yield line(cells[0], "┃")
    yield rule("┡", "╇", "┩", "━")
    yield from (line(row, "│") for row in rows)
    yield rule("├", "┼", "┤", "─")
    yield line(footer, "│")
    yield rule("└", "┴", "┘", "─")


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def print_lines(lines: Iterable[str]) -> None:
    """Sentences, broken between words on a terminal, and whole in a pipe or a file."""
    width = _terminal_columns()
    for text in lines:
        print("\n".join(wrapped(text, width)) if width else text)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many characters, but for words that are longer; indented as the text is."""
    indent = text[: len(text) - len(text.lstrip())]
    lines = [indent]
    for word in text.split():
        if len(lines[-1]) + 1 + len(word) > width and lines[-1].strip():
            lines.append(indent)
        lines[-1] += word if lines[-1] == indent else " " + word
    return lines


def _terminal_columns() -> int | None:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):  # no terminal, or no file
        return None
