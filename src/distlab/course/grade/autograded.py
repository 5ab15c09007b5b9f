"""The graded notebook in `autograded/`, which formgrader, feedback and export show.

The outputs of its tests are made so that nbgrader's own rule for points (`determine_grade`) gives what the
result says; a test that could not be graded is the exception, as nbgrader's rule knows only points.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output

from distlab.course.grade.collected import Collected
from distlab.course.grade.owner import give_like
from distlab.course.grade.records import Record
from distlab.course.grade.work import Graded, Result, Shown, Verdict
from distlab.course.homes import give

REPAIRED = {
    "missing": "The cell `{grade_id}` was missing from the submission; it is the assignment's own.",
    "duplicated": "The submission had several cells with the id `{grade_id}`; the last of them counts.",
    "replaced": "A cell of the learner's defines anew what the cell `{grade_id}` defines. The tests call the "
    "assignment's own where they name it; what else it replaces may have changed what they saw.",
}

NOTHING_SHOWN = Shown()


def fill(collected: Collected, result: Result, record: Record) -> NotebookNode:
    """The restored notebook with the result's outputs; its cells are `collected`'s, changed in place."""
    notebook = collected.notebook
    answers = {graded.grade_id: graded for graded in result.cells}
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    shown = (*result.shown, *[NOTHING_SHOWN] * (len(code) - len(result.shown)))
    for cell, seen in zip(code, shown, strict=True):
        cell.outputs = nbformat.from_dict(list(seen.outputs))
        cell.execution_count = seen.execution_count
        graded = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
        if graded is not None:
            _settle(cell, graded)
    notebook.cells = _with_notes(notebook.cells, record, result)
    notebook.metadata["distlab"] = nbformat.from_dict(
        {
            "verdict": str(result.verdict),
            "message": result.message,
            "provenance": dict(record.result.provenance),
        }
    )
    return notebook


def _settle(cell: NotebookNode, graded: Graded) -> None:
    """Leave in a test's outputs what nbgrader's rule reads as the points given."""
    full = graded.points >= graded.max_points and graded.verdict != Verdict.NOT_GRADABLE
    partial = not full and graded.points > 0
    kept = []
    for output in cell.outputs:
        if output.output_type == "stream":
            output.name = "stdout"  # any text on stderr is a failure to nbgrader
        if output.output_type in ("stream", "display_data") or (
            output.output_type == "error" and not full and not partial
        ):
            kept.append(output)
    if partial:
        number = {"text/plain": repr(float(graded.points))}
        kept.append(new_output("execute_result", data=number, execution_count=cell.execution_count))
    elif not full:
        said = graded.message or str(graded.verdict)
        kept.append(new_output("error", ename=str(graded.verdict), evalue=said, traceback=[said]))
    cell.outputs = kept
    cell.metadata["distlab"] = nbformat.from_dict(
        {
            "verdict": str(graded.verdict),
            "points": graded.points,
            "max_points": graded.max_points,
            "message": graded.message,
        }
    )


def _with_notes(cells: list[NotebookNode], record: Record, result: Result) -> list[NotebookNode]:
    """Cells of our own: how the run ended, if not by itself, and what was repaired."""
    noted = []
    if result.verdict not in (Verdict.PASSED, Verdict.PARTIAL, Verdict.FAILED) and result.message:
        noted.append(_note(f"**{result.verdict}**: {result.message}", "note-verdict"))
    for cell in cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id", "")
        how = record.repaired.get(grade_id)
        if how in REPAIRED:
            noted.append(_note(REPAIRED[how].format(grade_id=grade_id), f"note-{len(noted)}"))
        noted.append(cell)
    return noted


def _note(text: str, name: str) -> NotebookNode:
    cell: NotebookNode = new_markdown_cell(text)
    cell["id"] = name
    return cell


def keep_others(notebook: NotebookNode, question: str, folder: Path) -> None:
    """Of tests other than `question` keep what the notebook in `folder` shows: their marks stay too."""
    try:
        before = nbformat.read(folder / f"{folder.name}.ipynb", 4)
    except (OSError, ValueError):
        return
    shown = {cell.metadata.nbgrader.grade_id: cell for cell in before.cells if "distlab" in cell.metadata}
    for cell in notebook.cells:
        old = shown.get(cell.metadata.get("nbgrader", {}).get("grade_id"))
        if old is not None and old.metadata.nbgrader.grade_id != question and "distlab" in cell.metadata:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count
            cell.metadata["distlab"] = old.metadata.distlab


def write_stage(stage: Path, assignment: str, notebook: NotebookNode, files: Mapping[str, str]) -> None:
    """Write what will be `autograded/<student>/<assignment>/`, the notebook synced to the disk."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(mode=0o755, parents=True)
    for name, content in files.items():
        if name == f"{assignment}.html":
            continue  # nbgrader copies files to where its feedback will be, and may be cut off before it writes that
        path = stage / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))
    with open(stage / f"{assignment}.ipynb", "w", encoding="utf-8") as file:
        file.write(nbformat.writes(notebook) + "\n")
        file.flush()
        os.fsync(file.fileno())


def put_in_place(stage: Path, course: Path, student: str, assignment: str) -> None:
    """Let the staged folder take the place of what was autograded before; again after a crash does no harm."""
    if not stage.is_dir():
        return  # it is there already
    target = course / "autograded" / student / assignment
    for folder in (course / "autograded", target.parent, target):
        if folder.is_symlink():
            raise NotADirectoryError(f"{folder} is a link; it must be a folder of its own")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if os.geteuid() == 0:
        give(stage, course.stat().st_uid)
    for folder in (course / "autograded", target.parent):
        give_like(course, folder)
    old = stage.with_name(f"{stage.name}.old")
    if target.exists():
        os.rename(target, old)
    os.rename(stage, target)
    shutil.rmtree(old, ignore_errors=True)
