"""Tables and sentences in plain text. rich does it better, and takes longer to import than a prediction with all else.

print_table("Time of a step", [Column("term"), Column("time", right=True)], [["forward", "12 ms"]], ["total", "12 ms"])
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

LEAST_WORDS = 16
"""Characters of a column of words, however narrow the terminal is."""


class Column(NamedTuple):
    name: str
    right: bool = False
    """Numbers: digits stand below digits."""


def print_table(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], footer: Sequence[str] = ()
) -> None:
    """As wide as it must be. Words are broken over lines where a terminal is narrower; figures never are."""
    print("\n".join([title, *_table(columns, rows, footer, _terminal_columns())]))


def _table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], footer: Sequence[str], most: int | None = None
) -> Iterator[str]:
    cells = [[column.name for column in columns], *rows, *([footer] if footer else [])]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    words = [at for at, column in enumerate(columns) if not column.right]
    while most and words and sum(widths) + 3 * len(widths) + 1 > most:
        widest = max(words, key=lambda at: widths[at])
        if widths[widest] <= LEAST_WORDS:
            break
        widths[widest] -= 1

    boxes = _can_print("┏")

    def lines(row: Sequence[str]) -> Iterator[Sequence[str]]:
        """A row of cells that fit; words that are longer than their column stick out of it."""
        parts = [
            wrapped(text, width) if len(text) > width else [text]
            for text, width in zip(row, widths, strict=True)
        ]
        yield from zip_longest(*parts, fillvalue="")

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
    yield from (line(part, "┃") for part in lines(cells[0]))
    yield rule("┡", "╇", "┩", "━")
    yield from (line(part, "│") for row in rows for part in lines(row))
    if footer:
        yield rule("├", "┼", "┤", "─")
        yield from (line(part, "│") for part in lines(footer))
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
