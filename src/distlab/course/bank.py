"""A lab's bank of known-wrong answers: `solutions/<lab-id>/wrong/*.md`, each a misconception that tests must see.

    ---
    misconception: "The all-reduce is taken for an average; it is a sum."
    fails: [average-hidden]
    ---

    ```python grade_id="average-gradients"
    def average_gradients(model, samples):
        ...
    ```

The code takes the place of the cell of that grade id; every test that is named must fail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from distlab.course.grade.work import Kind, Work
from distlab.course.labsource import LabError

CHANGED_CELL = re.compile(r'^```python grade_id="([\w-]+)"\n(.*?)\n```$', re.MULTILINE | re.DOTALL)

LEAST = 6
"""Wrong answers that a lab must have."""


@dataclass(frozen=True)
class WrongAnswer:
    """A known-wrong answer: the cells it changes, by grade id, and the tests that must fail."""

    name: str
    misconception: str
    fails: tuple[str, ...]
    cells: dict[str, str]

    def put_into(self, work: Work) -> Work:
        """The work with this answer's cells in place of its own."""
        return replace(
            work,
            cells=tuple(
                replace(cell, source=self.cells.get(cell.grade_id, cell.source)) for cell in work.cells
            ),
        )


def wrong_answers(root: Path, lab_id: str) -> list[WrongAnswer]:
    """The bank of a lab, by name. Raises `LabError` for a file that is not of this form."""
    return [read_wrong_answer(path) for path in sorted((root / "solutions" / lab_id / "wrong").glob("*.md"))]


def read_wrong_answer(path: Path) -> WrongAnswer:
    """One answer of the bank. Raises `LabError` naming what is wrong with the file."""
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    try:
        meta = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else None
    except yaml.YAMLError as error:
        raise LabError(f"{path}: the header is not YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(meta, dict) or set(meta) != {"misconception", "fails"}:
        raise LabError(f"{path}: the header must hold `misconception` and `fails`, between two lines of ---")
    fails, misconception = meta["fails"], meta["misconception"]
    if not isinstance(misconception, str) or not misconception.strip():
        raise LabError(f"{path}: the misconception must be a sentence, not {misconception!r}")
    if not isinstance(fails, list) or not fails or not all(isinstance(name, str) for name in fails):
        raise LabError(f"{path}: fails must be a list of tests (grade ids), not {fails!r}")
    cells = dict(CHANGED_CELL.findall(parts[2]))
    if not cells:
        raise LabError(f'{path}: no cell is changed (```python grade_id="..." holds the wrong one)')
    return WrongAnswer(path.stem, misconception, tuple(fails), cells)


def check_bank(bank: list[WrongAnswer], work: Work) -> list[str]:
    """What is wrong with a bank beside `work`, its lab's model answer; a sentence each."""
    code = {cell.grade_id for cell in work.cells if cell.kind == Kind.CODE and cell.grade_id}
    tests = {cell.grade_id for cell in work.cells if cell.is_test}
    problems = []
    if len(bank) < LEAST:
        problems.append(f"{len(bank)} wrong answers; a lab has at least {LEAST}")
    for wrong in bank:
        for name in sorted(wrong.cells.keys() - code):
            problems.append(f"wrong/{wrong.name}: changes {name!r}, which is no code cell of the lab")
        for name in sorted(set(wrong.fails) - tests):
            problems.append(f"wrong/{wrong.name}: fails {name!r}, which is no test of the lab")
    said = [wrong.misconception for wrong in bank]
    for wrong in bank:
        if said.count(wrong.misconception) > 1:
            problems.append(f"wrong/{wrong.name}: another wrong answer names the same misconception")
    return problems
