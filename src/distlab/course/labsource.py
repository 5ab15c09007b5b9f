"""Read and check the single source of a lab: `solutions/<lab-id>/lab.md`, a jupytext text notebook.

The header names what of the learner's notebook the tests may use, and whether its tests measure time:

    jupyter:
      distlab: {names: [double, triple], timed: false}

The tests of a timed lab also see `baseline`: what its locked cells make, to be compared with
(`distlab.course.grade.timing`).

What a cell is stands in its `nbgrader` metadata; what learners must not see stands between markers:

    ### BEGIN SOLUTION        ### BEGIN HIDDEN TESTS
    ### END SOLUTION          ### END HIDDEN TESTS

nbgrader is lenient here: it drops an END without a BEGIN, takes a whole cell where the markers are missing,
and writes a hidden test into the learner's notebook where the marker is misspelt. So all is checked first.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jupytext  # type: ignore[import-untyped]
import yaml
from nbformat.notebooknode import NotebookNode

from distlab.course.lablint import check_names

BEGIN_HIDDEN, END_HIDDEN = "BEGIN HIDDEN TESTS", "END HIDDEN TESTS"
BEGIN_SOLUTION, END_SOLUTION = "BEGIN SOLUTION", "END SOLUTION"
MARKER = re.compile(r"\s*#{1,3} (BEGIN|END) (SOLUTION|HIDDEN TESTS)\s*")
LIKE_MARKER = re.compile(r"\b(begin|end)[ _-]*(the )?(hidden|solution)", re.IGNORECASE)
GRADE_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")
FLAGS = ("grade", "solution", "task", "locked")
NBGRADER_KEYS = {*FLAGS, "grade_id", "points", "schema_version"}
CELL_KEYS = {"nbgrader", "tags"}
HEADER_KEYS = {"names", "timed"}
SCHEMA_VERSION = 3


class LabError(Exception):
    """A lab's source is not as it should be. The message names file, cell and line."""


@dataclass(frozen=True)
class Place:
    """Where a cell stands, for messages."""

    path: Path
    cell: int
    line: int

    def error(self, what: str, offset: int = 0) -> LabError:
        return LabError(f"{self.path}: cell {self.cell}, line {self.line + offset}: {what}")


def read_lab(path: Path) -> NotebookNode:
    """The source notebook with full nbgrader metadata and cell ids that are the same at every reading.

    Raises `LabError` for the first thing that is wrong, with file, cell and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: cannot be read as a text notebook: {error}") from error
    try:
        notebook: NotebookNode = jupytext.reads(text, fmt="md")
    except Exception as error:  # jupytext, YAML, JSON and nbformat each raise their own
        raise LabError(f"{path}: not a jupytext Markdown notebook: {_first_line(error)}") from error
    header = _check_header(path, notebook.metadata.get("distlab", {}))
    places = _places(path, text, notebook.cells)
    seen: dict[str, Place] = {}
    for cell, place in zip(notebook.cells, places, strict=True):
        _check_cell(cell, place)
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if grade_id in seen:
            raise place.error(f"grade_id {grade_id!r} is taken by the cell at line {seen[grade_id].line}")
        if grade_id:
            seen[grade_id] = place
    if not any(cell.metadata.get("nbgrader", {}).get("grade") for cell in notebook.cells):
        raise LabError(f"{path}: no cell is graded (nbgrader metadata with grade: true and points)")
    check_names(notebook.cells, places, header["names"], header["timed"])
    _normalise(notebook, header)
    return notebook


def declared_names(source: NotebookNode) -> list[str]:
    """The names of the learner's notebook that the lab lets its tests use."""
    return list(source.metadata.get("distlab", {}).get("names", ()))


def cell_place(path: Path, grade_id: str) -> Place:
    """Where a cell of a lab that can be read stands, for messages."""
    text = path.read_text(encoding="utf-8")
    cells = jupytext.reads(text, fmt="md").cells
    for cell, place in zip(cells, _places(path, text, cells), strict=True):
        if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return place
    raise KeyError(grade_id)


def is_hidden(source: str) -> bool:
    """Is this the source of a hidden test cell?"""
    return BEGIN_HIDDEN in source


def hidden_lines(source: str) -> list[str]:
    """The lines between hidden test markers, without indentation."""
    lines, inside = [], False
    for line in source.split("\n"):
        match = MARKER.fullmatch(line)
        if match:
            inside = match.groups() == ("BEGIN", "HIDDEN TESTS")
        elif inside:
            lines.append(line.strip())
    return lines


def hidden_messages(source: str) -> set[str]:
    """The messages that a hidden test can fail with: the plain strings of its asserts and AssertionErrors."""
    return {message for _, message in _assertions(ast.parse(source)) if message}


def _check_header(path: Path, header: Any) -> dict[str, Any]:
    """What the lab declares of itself under `distlab:`."""
    if not isinstance(header, dict):
        raise LabError(f"{path}: the header's distlab must be a mapping, not {header!r}")
    for key in header:
        if key not in HEADER_KEYS:
            known = ", ".join(sorted(HEADER_KEYS))
            raise LabError(f"{path}: unknown key {key!r} under distlab in the header; known: {known}")
    names, timed = header.get("names", []), header.get("timed", False)
    if not isinstance(names, list) or not all(isinstance(n, str) and n.isidentifier() for n in names):
        raise LabError(f"{path}: distlab names in the header must be a list of Python names, not {names!r}")
    if not isinstance(timed, bool):
        raise LabError(f"{path}: distlab timed in the header must be true or false, not {timed!r}")
    return {"names": list(names), "timed": timed}


def _check_cell(cell: NotebookNode, place: Place) -> None:
    if cell.cell_type == "raw":
        raise place.error(
            "labs have no raw cells (in the Markdown format a notebook's header stands under `jupyter:`)"
        )
    for key in cell.metadata:
        if key not in CELL_KEYS:
            raise place.error(f"unknown cell metadata {key!r}; known: {', '.join(sorted(CELL_KEYS))}")
    kinds = _check_markers(cell, place)
    if "nbgrader" not in cell.metadata:
        if kinds:
            raise place.error(f"a {kinds.pop()} region in a cell without nbgrader metadata")
        return
    meta = _check_metadata(cell, place)
    if "SOLUTION" in kinds and not meta["solution"]:
        raise place.error("a SOLUTION region in a cell that is not `solution: true`")
    if meta["solution"] and "SOLUTION" not in kinds:
        raise place.error("a solution cell without ### BEGIN SOLUTION and ### END SOLUTION")
    if "HIDDEN TESTS" in kinds:
        _check_hidden(cell, meta, place)


def _check_metadata(cell: NotebookNode, place: Place) -> dict[str, Any]:
    meta: dict[str, Any] = cell.metadata.nbgrader
    if not isinstance(meta, dict):
        raise place.error(f"nbgrader metadata must be a mapping, not {meta!r}")
    for key in meta:
        if key not in NBGRADER_KEYS:
            raise place.error(f"unknown nbgrader metadata {key!r}; known: {', '.join(sorted(NBGRADER_KEYS))}")
    for flag in FLAGS:
        if not isinstance(meta.setdefault(flag, False), bool):
            raise place.error(f"nbgrader {flag} must be true or false, not {meta[flag]!r}")
    if meta.setdefault("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise place.error(f"nbgrader schema_version must be {SCHEMA_VERSION}, not {meta['schema_version']!r}")
    if not any(meta[flag] for flag in FLAGS):
        raise place.error("nbgrader metadata without any of grade, solution, task, locked")
    grade_id = meta.get("grade_id")
    if not isinstance(grade_id, str) or not GRADE_ID.fullmatch(grade_id):
        raise place.error(f"grade_id must be letters, digits, - and _ (at most 60), not {grade_id!r}")
    has_points = meta["grade"] or meta["task"]
    if has_points and "points" not in meta:
        raise place.error(f"the graded cell {grade_id!r} has no points")
    if not has_points and "points" in meta:
        raise place.error(f"the cell {grade_id!r} has points but is not graded")
    points = meta.get("points", 0)
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 <= points < 1e6:
        raise place.error(f"points of {grade_id!r} must be a number from 0, not {points!r}")
    if cell.cell_type == "markdown" and not meta["task"] and meta["grade"] != meta["solution"]:
        raise place.error(f"the written answer {grade_id!r} must be both grade and solution")
    if meta["task"] and cell.cell_type != "markdown":
        raise place.error(f"the task {grade_id!r} must be a markdown cell")
    # Tests are restored from the source before grading only where they are locked.
    meta["locked"] = bool(meta["locked"] or (meta["grade"] and not meta["solution"]))
    return meta


def _check_markers(cell: NotebookNode, place: Place) -> set[str]:
    """The kinds of regions in a cell; raises where a marker is misspelt, nested or without its partner."""
    kinds: set[str] = set()
    open_kind: str | None = None
    open_at = 0
    for number, line in enumerate(cell.source.split("\n")):
        match = MARKER.fullmatch(line)
        if match is None:
            if LIKE_MARKER.search(line) and line.lstrip().startswith("#"):
                raise place.error(
                    f"{line.strip()!r} looks like a marker; markers are '### BEGIN SOLUTION', "
                    "'### END SOLUTION', '### BEGIN HIDDEN TESTS', '### END HIDDEN TESTS'",
                    number,
                )
            # nbgrader looks for the bare words anywhere in a line.
            if any(marker in line for marker in (BEGIN_HIDDEN, END_HIDDEN, BEGIN_SOLUTION, END_SOLUTION)):
                raise place.error(f"a marker must stand alone on its line: {line.strip()!r}", number)
            continue
        edge, kind = match.groups()
        if edge == "BEGIN":
            if open_kind is not None:
                raise place.error(f"BEGIN {kind} inside a {open_kind} region", number)
            open_kind, open_at = kind, number
            kinds.add(kind)
        elif open_kind != kind:
            raise place.error(f"END {kind} without BEGIN {kind}", number)
        else:
            open_kind = None
    if open_kind is not None:
        raise place.error(f"BEGIN {open_kind} without END {open_kind}", open_at)
    return kinds


def _check_hidden(cell: NotebookNode, meta: dict[str, Any], place: Place) -> None:
    """A hidden test fills its cell (feedback can then omit it), and says what is wrong without any value."""
    if cell.cell_type != "code" or not meta["grade"] or meta["solution"]:
        raise place.error("hidden tests belong into a code cell that is `grade: true` and no solution")
    inside = False
    for number, line in enumerate(cell.source.split("\n")):
        match = MARKER.fullmatch(line)
        if match:
            inside = match.group(1) == "BEGIN"
        elif not inside and line.strip() and not line.lstrip().startswith("#"):
            raise place.error(f"outside the hidden region of a hidden test: {line.strip()!r}", number)
    try:
        tree = ast.parse(cell.source)
    except SyntaxError as error:
        raise place.error(f"not plain Python: {error.msg}", (error.lineno or 1) - 1) from error
    for line, message in _assertions(tree):
        if not message.strip():
            raise place.error(
                "a hidden test's assertion needs a message that is a plain string (all that learners see)",
                line - 1,
            )


def _assertions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and message of each assert and AssertionError(...); empty where the message is no plain string."""
    for node in ast.walk(tree):
        message: ast.expr | None = None
        if isinstance(node, ast.Assert):
            message = node.msg
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "AssertionError"
        ):
            message = node.args[0] if node.args else None
        else:
            continue
        plain = message.value if isinstance(message, ast.Constant) else None
        yield node.lineno, plain if isinstance(plain, str) else ""


def _places(path: Path, text: str, cells: list[NotebookNode]) -> list[Place]:
    """Find each cell's first line in the file: its lines stand there verbatim, in order."""
    lines = text.split("\n")
    places, at = [], 0
    for number, cell in enumerate(cells, start=1):
        wanted = cell.source.split("\n")
        found = next(
            (
                start
                for start in range(at, len(lines) - len(wanted) + 1)
                if lines[start : start + len(wanted)] == wanted
            ),
            at,
        )
        places.append(Place(path, number, found + 1))
        at = found + (len(wanted) if cell.source else 0)
    return places


def _normalise(notebook: NotebookNode, header: dict[str, Any]) -> None:
    """The same bytes at every reading: stable ids, one kernel, no traces of the text format."""
    notebook.metadata = NotebookNode(
        distlab=header,
        kernelspec={"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    taken: dict[str, int] = {}
    for cell in notebook.cells:
        # Cells without a grade_id reach learners as they are, so that a digest of their text tells nothing.
        meta: dict[str, Any] = cell.metadata.get("nbgrader", {})
        name = meta.get("grade_id") or hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        taken[name] = taken.get(name, 0) + 1
        cell["id"] = name if taken[name] == 1 else f"{name}-{taken[name]}"


def _first_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem} in line {error.problem_mark.line + 1} of a header"
    return str(error).split("\n", 1)[0]
