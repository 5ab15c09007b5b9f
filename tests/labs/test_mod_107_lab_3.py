"""MOD-107 Lab 3: the model answer earns everything, the untouched starter nothing, each wrong one fails."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbgrader.utils import determine_grade

from distlab.course.labsource import is_hidden
from distlab.course.release import learner_notebook
from tests.labs.running import (
    ROOT,
    WrongAnswer,
    changed,
    grade_id,
    is_auto_graded,
    run_lab,
    source_cells,
    wrong_answers,
)

LAB = "mod-107-lab-3"
WRONG = wrong_answers(LAB)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTLAB_SCALE", "grading")
    monkeypatch.setenv("MPLBACKEND", "agg")


def test_points_add_up() -> None:
    graded = (cell.metadata.get("nbgrader", {}) for cell in source_cells(LAB))
    points = [meta["points"] for meta in graded if "points" in meta]
    assert sum(points) == 100


def test_model_answer_earns_all_in_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DISTLAB_SCALE")  # the run that a learner sees
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own, which puts figures into the notebook
    notebook = nbformat.v4.new_notebook(cells=source_cells(LAB))
    start = time.perf_counter()
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    with capsys.disabled():
        print(f"\n{LAB}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
    for cell in filter(is_auto_graded, notebook.cells):
        score, highest = determine_grade(cell)
        assert score == highest, f"{grade_id(cell)}: {cell.outputs}"
    outputs = {grade_id(cell): cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert any("image/png" in output.get("data", {}) for output in outputs["figure"])
    assert "measured" in outputs["comparison"][0].text
    # A rank inherits the folder its notebook ran in.
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def test_model_answer_passes_from_another_process(tmp_path: Path) -> None:
    """What the kernel's test does not show: hidden tests get by with declared names and plain data."""
    cells = source_cells(LAB)
    hidden = [grade_id(cell) for cell in cells if is_hidden(cell.source)]
    hidden.remove("run-hidden")  # needs the long runs; the wrong answers of that cell take this way, too
    model = WrongAnswer("none", "none", tuple(hidden), {})
    outcome = run_lab(LAB, changed(cells, model), tmp_path)
    assert set(outcome.errors) == set(hidden)
    assert outcome.failed == set(), outcome.errors


def test_untouched_starter_earns_nothing(tmp_path: Path) -> None:
    released = nbformat.reads(learner_notebook(ROOT, LAB).decode(), as_version=4)
    source = {grade_id(cell): cell for cell in source_cells(LAB)}
    # As autograding does: locked cells come back from the source, hidden tests among them.
    cells = [
        source[grade_id(cell)] if cell.metadata.get("nbgrader", {}).get("locked") else cell
        for cell in released.cells
        if grade_id(cell) != "link"  # a measurement that nothing graded depends on
    ]
    outcome = run_lab(LAB, cells, tmp_path)
    graded = {grade_id(cell) for cell in cells if is_auto_graded(cell)}
    assert outcome.failed == graded


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_wrong_answer_fails(wrong: WrongAnswer, tmp_path: Path) -> None:
    cells = source_cells(LAB)
    known = {grade_id(cell) for cell in cells}
    hidden = {grade_id(cell) for cell in cells if is_hidden(cell.source)}
    assert wrong.cells.keys() <= known
    assert wrong.fails
    assert set(wrong.fails) <= hidden
    outcome = run_lab(LAB, changed(cells, wrong), tmp_path)
    assert set(wrong.fails) <= outcome.failed
    for name in wrong.fails:
        error = outcome.errors[name]
        assert isinstance(error, AssertionError), (
            f"{name}: not an assertion that says what is wrong: {error!r}"
        )
        print(f"{name}: {error}")


def test_bank_is_large_enough() -> None:
    assert len(WRONG) >= 6
    assert len({wrong.misconception for wrong in WRONG}) == len(WRONG)
