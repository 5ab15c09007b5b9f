"""CSV files with comments: lines that begin with # say what was measured, where and when, and who published it.

read_rows(text)        # of a file of the package
table_lines(text)      # its header and rows alone, for a reader that trusts nothing: `validation.files`
comments(text)
"""

from __future__ import annotations

import csv

COMMENT = "#"


def comments(text: str) -> list[str]:
    """Without their marks."""
    return [line.strip("# ") for line in text.splitlines() if line.lstrip().startswith(COMMENT)]


def table_lines(text: str) -> list[str]:
    """All others, but for those that are empty, as spreadsheets leave them: commas alone."""
    return [
        line for line in text.splitlines() if line.strip(" ,\t") and not line.lstrip().startswith(COMMENT)
    ]


def read_rows(text: str) -> list[dict[str, str]]:
    """By the names in the header."""
    return list(csv.DictReader(table_lines(text)))
