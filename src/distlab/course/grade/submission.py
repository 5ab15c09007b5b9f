"""Make a submitted notebook into one that can be graded, whatever was sent.

A submission is text from a stranger: its metadata decides nothing. Cells are recognised by their `grade_id`
alone; what they are, their points and the text of locked ones come from the gradebook. Cells that learners
deleted come back, copies and invented ids lose theirs. nbgrader's own steps (DeduplicateIds, OverwriteCells)
stop at metadata of an unexpected shape, so that one forged cell would leave a submission without marks.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import copy
import json
from typing import Any

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.api import Gradebook  # type: ignore[import-untyped]

from distlab.course.grade.outputs import IMAGES, clean_outputs, count_or_none
from distlab.course.labsource import SCHEMA_VERSION

MAX_NOTEBOOK_BYTES = 20 * 1024 * 1024
MAX_PARTS = 3_000_000
"""Lists, objects and their items, as far as characters tell. Each takes up to a hundred bytes of memory."""
MAX_CELLS = 2000
MAX_SOURCE = 200_000
"""Characters of one cell's source."""

UNREADABLE = (
    "The submitted notebook could not be read ({reason}). What follows are the cells of the assignment."
)


class NotANotebookError(ValueError):
    """Bytes that are no notebook, or one beyond limits; the message goes on from "it"."""


def parse_notebook(content: bytes) -> NotebookNode:
    """A well-formed notebook of code and markdown cells from any bytes."""
    try:
        return read_notebook(content)
    except NotANotebookError as error:
        return _unreadable(f"it {error}")


def read_notebook(content: bytes) -> NotebookNode:
    """The same from a notebook's bytes alone. Raises `NotANotebookError`."""
    if len(content) > MAX_NOTEBOOK_BYTES:
        raise NotANotebookError(f"is larger than {MAX_NOTEBOOK_BYTES // 2**20} MiB")
    if sum(map(content.count, (b"[", b"{", b","))) > MAX_PARTS:
        raise NotANotebookError(f"has more than {MAX_PARTS} parts")
    try:
        raw = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise NotANotebookError("is not a JSON document in UTF-8") from error
    cells = raw.get("cells") if isinstance(raw, dict) else None
    if not isinstance(cells, list):
        raise NotANotebookError("has no list of cells")
    if len(cells) > MAX_CELLS:
        raise NotANotebookError(f"has more than {MAX_CELLS} cells")
    notebook = _notebook()
    notebook.cells = [_clean_cell(cell) for cell in cells if isinstance(cell, dict)]
    return notebook


def restore(submitted: list[NotebookNode], assignment: list[NotebookNode]) -> list[NotebookNode]:
    """The submitted cells with those of the assignment in their own form, none missing, none twice.

    A missing cell comes after the assignment's cell that stands before it in the source. Of cells that share
    an id the last one counts, as in nbgrader.
    """
    known = {cell.metadata.nbgrader.grade_id: cell for cell in assignment}
    cells: list[NotebookNode] = []
    seen: set[str] = set()
    for cell in reversed(submitted):
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cell.metadata = NotebookNode()
        if grade_id in known and grade_id not in seen:
            seen.add(grade_id)
            cell = _as_assigned(cell, known[grade_id])
        cells.insert(0, cell)
    previous: str | None = None
    for grade_id, original in known.items():
        if grade_id not in seen:
            cells.insert(_index_after(cells, previous), _as_assigned(None, original))
        previous = grade_id
    _number(cells)
    return cells


def _as_assigned(cell: NotebookNode | None, original: NotebookNode) -> NotebookNode:
    """The assignment's cell, with the submitted source where learners may write."""
    restored = copy.deepcopy(original)
    if cell is not None and not original.metadata.nbgrader.locked:
        restored.source = cell.source
        if original.cell_type == "markdown" and "attachments" in cell:
            restored.attachments = cell.attachments
    return restored


def _index_after(cells: list[NotebookNode], grade_id: str | None) -> int:
    for index, cell in enumerate(cells):
        if grade_id is not None and cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
            return index + 1
    return 0


def assignment_cells(gradebook: Gradebook, notebook_id: str, assignment_id: str) -> list[NotebookNode]:
    """The assignment's cells with full nbgrader metadata, from the gradebook."""
    notebook = gradebook.find_notebook(notebook_id, assignment_id)
    points = {cell.name: cell.max_score for cell in (*notebook.grade_cells, *notebook.task_cells)}
    grades = {cell.name for cell in notebook.grade_cells}
    solutions = {cell.name for cell in notebook.solution_cells}
    tasks = {cell.name for cell in notebook.task_cells}
    cells = []
    for saved in notebook.source_cells:
        cell = new_code_cell() if saved.cell_type == "code" else new_markdown_cell()
        cell.source = saved.source
        cell.metadata = nbformat.from_dict(
            {
                "nbgrader": {
                    "grade_id": saved.name,
                    "grade": saved.name in grades,
                    "solution": saved.name in solutions,
                    "task": saved.name in tasks,
                    "locked": bool(saved.locked),
                    "checksum": saved.checksum,
                    "cell_type": saved.cell_type,
                    "schema_version": SCHEMA_VERSION,
                }
            }
        )
        if saved.name in points:
            cell.metadata.nbgrader["points"] = points[saved.name]
        cells.append(cell)
    return cells


def _clean_cell(raw: dict[str, Any]) -> NotebookNode:
    source = raw.get("source", "")
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    source = source if isinstance(source, str) else ""
    source = _writable(source)[:MAX_SOURCE]
    if raw.get("cell_type") == "code":
        cell: NotebookNode = new_code_cell(source)
        cell.outputs = clean_outputs(raw.get("outputs"))
        cell.execution_count = count_or_none(raw.get("execution_count"))
    else:
        # A raw cell would be put into the page as it is.
        cell = new_markdown_cell(source)
        attachments = _clean_attachments(raw.get("attachments"))
        if attachments:
            cell.attachments = attachments
    metadata = raw.get("metadata")
    nbgrader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    if isinstance(nbgrader, dict) and isinstance(nbgrader.get("grade_id"), str):
        # Values as nbgrader has them: a copy of whatever else is there could be larger than the memory.
        cell.metadata["nbgrader"] = NotebookNode(
            {key: value for key, value in nbgrader.items() if isinstance(value, str | int | float)}
        )
    return cell


def _clean_attachments(raw: Any) -> dict[str, dict[str, str]]:
    clean = {}
    for name, kinds in raw.items() if isinstance(raw, dict) else ():
        images = {
            mime: content
            for mime, content in (kinds.items() if isinstance(kinds, dict) else ())
            if mime in IMAGES and isinstance(content, str) and content.isascii()
        }
        if images:
            clean[_writable(name)] = images
    return clean


def _writable(text: str) -> str:
    """Lone surrogates are valid JSON but cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _unreadable(reason: str) -> NotebookNode:
    notebook = _notebook()
    notebook.cells = [new_markdown_cell(UNREADABLE.format(reason=reason))]
    return notebook


def _notebook() -> NotebookNode:
    notebook: NotebookNode = new_notebook()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    return notebook


def _number(cells: list[NotebookNode]) -> None:
    """Ids that are unique and say nothing a learner wrote."""
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
