"""MOD-202 Lab 6: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade

from distlab.course.lablint import is_test
from distlab.course.labsource import read_lab
from distlab.course.release import source_path

ROOT = Path(__file__).parents[2]
LAB = "mod-202-lab-6"


def test_the_model_answer_earns_all_in_a_kernel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notebook = nbformat.v4.new_notebook(cells=read_lab(source_path(ROOT, LAB)).cells)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    with capsys.disabled():
        print(f"\n{LAB}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
    for cell in filter(is_test, notebook.cells):
        score, highest = determine_grade(cell)
        assert score == highest, f"{_grade_id(cell)}: {cell.outputs}"
    said = {_grade_id(cell): _text(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert "crossover: model" in said["race"]
    assert "recorded: 4 network namespaces" in said["shaped"] or "measured here: 4 network" in said["shaped"]
    assert "bucket_factor" in said["comparison"]
    assert said["nccl-show"].split("\n")[:2] == ["rank 1: host memory", "rank 3: card"]
    assert "you: [[2, '2', 3]]" in said["hang"]
    assert "Rank 1 never came to" in said["hang"], "judged by itself, a group blames a rank that waits in another"
    # A rank inherits the folder its notebook ran in.
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))


def _text(cell: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)
