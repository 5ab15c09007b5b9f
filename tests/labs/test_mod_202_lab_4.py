"""MOD-202 Lab 4: the notebook with the model answers, in a kernel, as a learner runs it; the jobs that it draws."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade

from benchmarks.optimise import LAB as SOURCE
from benchmarks.optimise import gains_of, lab_cells, one_seed_for_each
from distlab.course.grade.work import BASELINE
from distlab.course.lablint import is_test
from distlab.course.labsource import read_lab
from distlab.course.release import source_path

ROOT = Path(__file__).parents[2]
LAB = "mod-202-lab-4"


def test_the_model_answer_earns_all_in_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = read_lab(source_path(ROOT, LAB)).cells
    # In a learner's kernel there is no baseline; the tests that need one run in the grader's check of this lab.
    notebook = nbformat.v4.new_notebook(cells=[cell for cell in cells if f"{BASELINE}." not in cell.source])
    start = time.perf_counter()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    with capsys.disabled():
        print(f"\n{LAB}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
    for cell in filter(is_test, notebook.cells):
        score, highest = determine_grade(cell)
        assert score == highest, f"{_grade_id(cell)}: {cell.outputs}"
    outputs = {_grade_id(cell): cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert "measured" in outputs["comparison"][0].text
    for page in ("before/dossier.html", "after/dossier.html", "after/comparison.html"):
        assert "torch 2." in (tmp_path / page).read_text(), "a dossier names the machine and the versions"
    # A rank inherits the folder its notebook ran in.
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


@pytest.fixture(scope="module")
def cells() -> Iterator[dict[str, Any]]:
    cells = lab_cells(SOURCE)
    yield cells
    for pool in cells["POOLS"].values():
        pool.close()


def test_a_seed_draws_three_defects_beside_the_two_of_all(cells: dict[str, Any]) -> None:
    drawn = [tuple(cells["defects_of"](seed)) for seed in one_seed_for_each(cells["defects_of"])]
    others = set(cells["DEFECTS"]) - {"loader", "messages"}
    assert sorted(drawn) == sorted(
        tuple(sorted(("loader", "messages", *three))) for three in combinations(sorted(others), 3)
    )


def test_every_job_learns_the_same_with_any_remedy(cells: dict[str, Any]) -> None:
    small = {"steps": 2, "global_batch": 64, "width": 32, "layers": 3}
    for seed in one_seed_for_each(cells["defects_of"]):
        job = gains_of(cells, seed, small, turns=1)  # raises where a remedy changes what is learned
        assert set(job["gains"]) == set(cells["defects_of"](seed))


def test_the_recorded_run_is_twice_as_fast_and_no_remedy_alone_is() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    ratios = {row["name"]: row["ratio"] for row in rows if row["peer"] == "the slow job"}
    assert ratios["optimise.all_remedies.least"] < 0.5
    assert ratios["optimise.best_remedy_alone"] > 0.5


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
