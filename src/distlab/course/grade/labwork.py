"""The `Work` of a lab: its tests from the source, its answers from a notebook.

    lab_work(root, "mod-107-lab-3")                                   the model answer
    lab_work(root, "mod-107-lab-3", parse_notebook(path.read_bytes()))   a submission

Who keeps outputs, too, takes the two steps apart: `restored` gives the notebook's cells in the assignment's
form, `work_of` makes the work of them; the work's cells are those cells' code, in order.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbgrader.preprocessors import ClearSolutions  # type: ignore[import-untyped]

from distlab.course.grade.submission import restore
from distlab.course.grade.work import Cell, Kind, Limits, Work
from distlab.course.lablint import (
    Names,
    as_python,
    baseline_sources,
    defined,
    global_names,
    is_given,
    is_measure,
    is_test,
    needed_names,
)
from distlab.course.labsource import declared_names, is_hidden, read_lab

MAKES = re.compile(r"^(?:(?:async +)?(?:def|class) +)(\w+)|^(\w+) *=(?!=)", re.MULTILINE)
"""What a line of a learner's may define. Its text is not parsed here: only the sandboxes read it as Python."""


def lab_work(
    root: Path,
    lab_id: str,
    notebook: NotebookNode | None = None,
    *,
    files: Mapping[str, str] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    display: bool = True,
) -> Work:
    """What `notebook` (as `submission.parse_notebook` reads it) is graded as; without one, the model answer.

    Raises `LabError` where the lab's source is not as it should be.
    """
    source = read_lab(root / "solutions" / lab_id / "lab.md")
    cells = source.cells if notebook is None else restored(source, notebook)
    return work_of(lab_id, source, cells, files=files, seed=seed, limits=limits, display=display)


def restored(source: NotebookNode, notebook: NotebookNode) -> list[NotebookNode]:
    """All cells of a submission in the assignment's own form: by grade id, none missing, none twice.

    `source` is the lab's (`read_lab`, or nbgrader's `source/` notebook). Where an answer is missing, the
    untouched starter stands in its place.
    """
    assignment = copy.deepcopy(source)
    assignment, _ = ClearSolutions().preprocess(assignment, {})
    known = [cell for cell in assignment.cells if "nbgrader" in cell.metadata]
    return restore(copy.deepcopy(notebook.cells), known)


def repairs(source: NotebookNode, notebook: NotebookNode) -> dict[str, str]:
    """What is not as the assignment has it: grade id to how, in the source's order.

    "missing" and "duplicated" cells `restored` has put right. "replaced": a cell that the learner wrote defines
    anew what this given one defines; whoever gives marks should look at it.
    """
    found = Counter(_meta(cell).get("grade_id") for cell in notebook.cells)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    given = {_meta(cell)["grade_id"]: defined(cell.source) for cell in code if is_given(cell)}
    own = "\n".join(
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and _meta(cell).get("grade_id") not in given
    )
    anew = {name for names in MAKES.findall(own) for name in names}
    repaired = {}
    for grade_id in (_meta(cell).get("grade_id") for cell in source.cells):
        if grade_id and found[grade_id] != 1:
            repaired[grade_id] = "duplicated" if found[grade_id] else "missing"
        elif given.get(grade_id, set()) & anew:
            repaired[grade_id] = "replaced"
    return repaired


def work_of(
    lab_id: str,
    source: NotebookNode,
    cells: Iterable[NotebookNode],
    *,
    files: Mapping[str, str] | None = None,
    seed: int = 0,
    limits: Limits | None = None,
    display: bool = True,
) -> Work:
    """The work that the code among `cells` is; their metadata must be the assignment's, as from `restored`."""
    names = tuple(declared_names(source))
    timed = bool(source.metadata.get("distlab", {}).get("timed", False))
    return Work(
        lab=lab_id,
        cells=tuple(graded_cell(cell, names) for cell in cells if cell.cell_type == "code"),
        names=names,
        files=dict(files or {}),
        seed=seed,
        limits=limits or Limits(),
        timed=timed,
        baseline=tuple(baseline_sources(source.cells)) if timed else (),
        display=display,
    )


def focused(work: Work, tests: Collection[str]) -> Work:
    """The part of a work that some of its tests need: nothing after them, no other test, no outputs.

    A cell stays if it makes a name that they reach, or makes none (it may write a file). Where a test needs
    what a left out cell did otherwise, it fails on the model answer, too.
    """
    last = max(i for i, cell in enumerate(work.cells) if cell.grade_id in tests)
    cells = [cell for cell in work.cells[: last + 1] if not cell.measure]
    names = {cell: _names(cell.source) for cell in cells}
    wanted = {name for cell in cells if cell.grade_id in tests for name in names[cell].free}
    needed = needed_names([names[cell] for cell in cells if not cell.is_test], wanted)
    kept = [
        cell
        for cell in cells
        if (cell.grade_id in tests if cell.is_test else names[cell].made & needed or not names[cell].made)
    ]
    return replace(work, cells=tuple(kept), display=False)


def _names(source: str) -> Names:
    try:
        return global_names(as_python(source))
    except SyntaxError:
        return Names(frozenset(), frozenset())


def graded_cell(cell: NotebookNode, names: Collection[str] = ()) -> Cell:
    """A code cell as the grader takes it. A written answer in code has points by hand, and is no test.

    `names` are those that the lab declares. Of what a given cell defines only those are kept: learners' own
    functions may well be named like a helper of ours.
    """
    meta = _meta(cell)
    if not is_test(cell):
        keeps = tuple(sorted(defined(cell.source) & {*names})) if is_given(cell) else ()
        return Cell(cell.source, meta.get("grade_id", ""), measure=is_measure(cell), keeps=keeps)
    kind = Kind.HIDDEN if is_hidden(cell.source) else Kind.VISIBLE
    return Cell(cell.source, meta["grade_id"], kind, float(meta["points"]))


def _meta(cell: NotebookNode) -> dict[str, Any]:
    meta: dict[str, Any] = cell.metadata.get("nbgrader", {})
    return meta
