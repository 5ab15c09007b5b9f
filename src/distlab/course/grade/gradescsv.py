"""Marks as CSV, a row for each student and assignment, a column for each question.

nbgrader's own export writes names as they are: a comma moves the columns, and a name that begins with `=` is a
formula to whoever opens the file in a spreadsheet.
"""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import IO

from distlab.errors import SettingError

COLUMNS = (
    "assignment", "student", "first_name", "last_name", "email", "submitted_utc", "score", "late_penalty",
    "final_score", "max_score", "needs_grading",
)  # fmt: skip

FORMULA = ("=", "+", "-", "@", "\t", "\r")

QUERY = """
SELECT assignment.name, student.id, student.first_name, student.last_name, student.email, submitted.timestamp,
    notebook.late_submission_penalty, cell.name, coalesce(graded.max_score, task.max_score),
    grade.auto_score, grade.manual_score, grade.extra_credit, grade.needs_manual_grade
FROM submitted_assignment submitted
JOIN assignment ON assignment.id = submitted.assignment_id
JOIN student ON student.id = submitted.student_id
JOIN submitted_notebook notebook ON notebook.assignment_id = submitted.id
JOIN grade ON grade.notebook_id = notebook.id
JOIN base_cell cell ON cell.id = grade.cell_id
LEFT JOIN grade_cells graded ON graded.id = cell.id
LEFT JOIN task_cells task ON task.id = cell.id
WHERE (? IS NULL OR assignment.name = ?)
ORDER BY assignment.name, student.id, cell.rowid
"""


def write_grades(course: Path, file: IO[str], assignment: str | None = None) -> int:
    """Write the marks of all submissions to `file`; returns how many rows.

    A question without a mark is empty, and the row says `needs_grading`; its score counts what there is.
    """
    path = course / "gradebook.db"
    if not path.is_file():
        raise SettingError(f"{path} does not exist: `distlab course up` releases the labs and makes it.")
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        rows = db.execute(QUERY, (assignment, assignment)).fetchall()
    table: dict[tuple[str, str], dict[str, str | float | None]] = {}
    questions: dict[str, None] = {}
    for row in rows:
        name, student, first, last, email, submitted, penalty, cell, most, auto, manual, extra, look = row
        line = table.setdefault(
            (name, student),
            {
                "assignment": name, "student": student, "first_name": first, "last_name": last,
                "email": email, "submitted_utc": submitted, "score": 0.0, "max_score": 0.0,
                "late_penalty": penalty or 0.0, "needs_grading": "no",
            },
        )  # fmt: skip
        mark = auto if manual is None else manual
        question = f"{name}:{cell}"
        questions[question] = None
        line[question] = None if mark is None else mark + (extra or 0.0)
        line["score"] = _number(line["score"]) + _number(line[question])
        line["max_score"] = _number(line["max_score"]) + most
        if look:
            line["needs_grading"] = "yes"
    writer = csv.DictWriter(file, [*COLUMNS, *questions])
    writer.writeheader()
    for line in table.values():
        line["final_score"] = _number(line["score"]) - _number(line["late_penalty"])
        writer.writerow({column: _plain(value) for column, value in line.items()})
    return len(table)


def _number(value: str | float | None) -> float:
    return value if isinstance(value, int | float) else 0.0


def _plain(value: str | float | None) -> str | float | None:
    """Text that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
