"""CSV files of measured cases, read with suspicion and scored: what cannot be is said, never dropped.

    scored, problems = score_folder(Path("cases"))

Formats: `distlab.predict.validation.columns`.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from distlab.errors import SettingError, printable
from distlab.files import read_limited
from distlab.predict import megatron
from distlab.predict.commented_csv import table_lines
from distlab.predict.transformer import Transformer
from distlab.predict.validation import Row, Scored, shown
from distlab.predict.validation.columns import FORMATS, formats_of, ignored
from distlab.predict.validation.formats import check_counts, scorer

FILE_MOST_BYTES = 16 * 2**20
"""Of one file: some 300,000 steps or 500,000 collectives, which take a quarter of a minute. A longer one is refused
before it is read."""
SENTENCES_MOST = 10
"""About the rows of one file; the rest is counted."""
COUNTS = {column.name for one in FORMATS.values() for column in one.columns if column.values == "count"}
"""Columns of whole numbers, which spreadsheets and data frames like to write as 8.0."""
EXCESS = "\n"
"""Key of a row that says why it is none: no column can be called so."""


@dataclass(frozen=True)
class Problems:
    """What was not scored: sentences to read, and how many cells."""

    sentences: tuple[str, ...] = ()
    cells: int = 0
    files: int = 0
    ignored: tuple[str, ...] = ()
    """A sentence for each file with columns that nothing reads: what was scored may be meant otherwise."""


Result = tuple[list[Scored], Problems]


def score_folder(folder: Path) -> tuple[list[Scored], Problems]:
    """Every CSV file right in the folder, by name. SettingError where there is none."""
    if not folder.is_dir():
        raise SettingError(f"cases is {shown(str(folder))}, which is no folder; name one with CSV files.")
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv")
    except OSError as error:
        raise SettingError(
            f"cases is {shown(str(folder))}, which cannot be read ({error.strerror}); name a folder that can."
        ) from None
    if not paths:
        raise SettingError(
            f"cases is {shown(str(folder))}, which has no CSV file; name a folder that has some."
        )
    tables: list[tuple[Path, list[Row]]] = []
    sentences: list[str] = []
    for path in paths:
        rows: list[Row] = []
        tables.append((path, rows))
        try:
            rows.extend(_rows(path))
        except (OSError, ValueError, csv.Error) as error:
            sentences.append(f"{printable(path.name)} was not read: {_said(error)}")
    files = len(sentences)
    unread = [
        f"{printable(path.name)}: ignored: {', '.join(map(printable, names))}; "
        "`distlab scorecard --formats` has the columns that count."
        for path, rows in tables
        if rows and (names := ignored([name for name in rows[0] if name != EXCESS]))
    ]
    models = _models([row for _, rows in tables for row in rows])
    scored: list[Scored] = []
    cells = 0
    for path, rows in tables:
        found, wrong, lacking = _score_rows(path, rows, models)
        scored += found
        cells += len(wrong) + lacking.cells
        sentences += [*lacking.sentences, *wrong[:SENTENCES_MOST]]
        if len(wrong) > SENTENCES_MOST:
            sentences.append(f"{printable(path.name)}: {len(wrong) - SENTENCES_MOST} more, not shown.")
    return scored, Problems(tuple(sentences), cells, files, tuple(unread))


def _rows(path: Path) -> list[Row]:
    """OSError for what is no regular file or too long, ValueError for what is no such table, csv.Error."""
    # The folder is its owner's choice, and so is where its links lead; what no regular file is stays refused.
    real = Path(os.path.realpath(path))
    if (length := real.stat().st_size) > FILE_MOST_BYTES:
        raise SettingError(f"it has {length:,} bytes; a file has at most {FILE_MOST_BYTES:,}: split it.")
    content = read_limited(real, FILE_MOST_BYTES)
    # A remark in another encoding costs its letters, not the rows; with zeros in it, it is another one altogether.
    text = content.decode("utf-8-sig", "strict" if b"\0" in content else "replace")
    reader = csv.reader(table_lines(text))
    header = [name.strip().lower() for name in next(reader, [])]
    header = ["params_B" if name == "params_b" else name for name in header]
    if not formats_of(header):
        columns = ", ".join(FORMATS)
        raise SettingError(
            f"its first line has none of the columns that are measurements: {columns} (`distlab scorecard --formats`)."
        )
    if len(set(header)) < len(header):
        raise SettingError("its first line names a column twice.")
    rows: list[Row] = []
    for cells in reader:
        # Lines that are too short lack what they lack; what a longer one means cannot be told.
        excess = any(cell.strip() for cell in cells[len(header) :])
        row = dict(zip_longest(header, (cell.strip() for cell in cells[: len(header)]), fillvalue=""))
        row |= {name: re.sub(r"(?<=\d)\.0*$", "", row[name]) for name in COUNTS & row.keys()}
        rows.append(
            {**row, EXCESS: f"it has {len(cells)} cells, of {len(header)} columns"} if excess else row
        )
    return rows


def _score_rows(
    path: Path, rows: Sequence[Row], models: Mapping[str, Transformer]
) -> tuple[list[Scored], list[str], Problems]:
    """What was scored; a sentence for each cell that could not be; and one for columns that none of them has."""
    formats = formats_of(rows[0]) if rows else []
    lacking = {one.measured.name: missing for one in formats if (missing := one.missing(rows[0]))}
    said = tuple(
        f"{printable(path.name)}, {name}: none of its {len(rows)} rows was scored, for these columns are missing: "
        f"{', '.join(missing)}; add them."
        for name, missing in lacking.items()
    )
    scores = [scorer(one.measured.name, models) for one in formats if one.measured.name not in lacking]
    found: list[Scored] = []
    wrong: list[str] = []
    for number, row in enumerate(rows, 1):
        where = f"{printable(path.name)}, row {number}, was not scored"
        if EXCESS in row and scores:
            wrong.append(f"{where}: {row[EXCESS]}.")
            continue
        for score in scores:
            try:
                scored = score(row, path.stem)
                if not (math.isfinite(scored.signed_error) and scored.predicted > 0):
                    raise SettingError("its numbers are beyond what can be compared.")
                found.append(scored)
            except (ValueError, ArithmeticError) as error:
                wrong.append(f"{where}: {_said(error)}")
    return found, wrong, Problems(said, len(said) * len(rows))


def _models(rows: Sequence[Row]) -> dict[str, Transformer]:
    """Of rows of iteration times, the last of each name; those that are wrong are told of when they are scored."""
    found: dict[str, Transformer] = {}
    for row in reversed(rows):
        if "iteration_s" in row and row.get("model", "") not in found:
            with contextlib.suppress(ValueError, ArithmeticError):
                check_counts(row)
                found[row.get("model", "")] = megatron.iteration_case(row).model
    return found


def _said(error: Exception) -> str:
    """What is wrong, as one short line that ends with a full stop."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text."
    if isinstance(error, OSError):
        return f"{error.strerror or error}.".replace("..", ".")
    if isinstance(error, ArithmeticError):
        return "its numbers are beyond what can be computed."
    text = printable(str(error))
    return (text if len(text) <= 400 else f"{text[:400]}...").rstrip(".") + "."
