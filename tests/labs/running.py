"""Run a lab's cells in this process and see which graded cells pass.

Hidden tests are held to what a grader outside the learner's process can do: they see the names that the
lab declares and nothing else, and what crosses is plain data (it goes through JSON both ways).
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat.notebooknode import NotebookNode

from distlab.course import bank, labsource
from distlab.course.bank import WrongAnswer
from distlab.course.grade.labwork import focused, graded_cell
from distlab.course.grade.work import Work
from distlab.course.labsource import is_hidden, read_lab

ROOT = Path(__file__).parents[2]


def lab_path(lab_id: str) -> Path:
    return ROOT / "solutions" / lab_id / "lab.md"


def declared_names(lab_id: str) -> list[str]:
    """The learner's names that hidden tests may use, from the source's header."""
    return labsource.declared_names(read_lab(lab_path(lab_id)))


def wrong_answers(lab_id: str) -> list[WrongAnswer]:
    return bank.wrong_answers(ROOT, lab_id)


def grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def is_auto_graded(cell: NotebookNode) -> bool:
    """Is it a test with points?"""
    return bool(cell.cell_type == "code" and cell.metadata.get("nbgrader", {}).get("grade"))


@dataclass
class Outcome:
    """What became of the graded cells that ran: None for those that passed."""

    errors: dict[str, BaseException | None] = field(default_factory=dict)

    @property
    def failed(self) -> set[str]:
        return {name for name, error in self.errors.items() if error is not None}


def run_lab(lab_id: str, cells: Iterable[NotebookNode], folder: Path) -> Outcome:
    """Run code cells in order in a namespace of their own, going on after errors as grading does."""
    names = declared_names(lab_id)
    learner: dict[str, Any] = {"__name__": "__main__"}  # so that functions travel to ranks by value
    outcome = Outcome()
    before = Path.cwd()
    os.chdir(folder)
    try:
        for cell in cells:
            if cell.cell_type != "code":
                continue
            namespace = remote(learner, names) if is_hidden(cell.source) else learner
            error: BaseException | None = None
            try:
                exec(compile(cell.source, f"<{grade_id(cell)}>", "exec"), namespace)
            except Exception as raised:
                error = raised
            if is_auto_graded(cell):
                outcome.errors[grade_id(cell)] = error
    finally:
        os.chdir(before)
    return outcome


def remote(learner: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The declared names as another process would see them."""
    return {name: _remote(learner[name]) for name in names if name in learner}


def _remote(value: Any) -> Any:
    return _remote_function(value) if callable(value) else plain(value)


def _remote_function(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return plain(function(*plain(args), **plain(kwargs)))

    return call


def plain(value: Any) -> Any:
    """The value after a journey as JSON. TypeError where it is more than plain data."""
    return json.loads(json.dumps(value))


def changed(cells: Iterable[NotebookNode], wrong: WrongAnswer) -> list[NotebookNode]:
    """The model answer's cells with the wrong ones put in; of all cells those that the tests which fail need."""
    code = []
    for cell in cells:
        if cell.cell_type == "code":
            cell = copy.deepcopy(cell)
            cell["source"] = wrong.cells.get(grade_id(cell), cell.source)
            code.append(cell)
    work = Work("", tuple(graded_cell(cell) for cell in code))
    kept = set(focused(work, wrong.fails).cells)
    return [cell for cell, graded in zip(code, work.cells, strict=True) if graded in kept]


def source_cells(lab_id: str) -> list[NotebookNode]:
    cells: list[NotebookNode] = read_lab(lab_path(lab_id)).cells
    return cells
