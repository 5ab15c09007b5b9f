"""MOD-202 Lab 1: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import importlib.util
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
LAB = "mod-202-lab-1"


@pytest.mark.timeout(1200)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own, which puts figures into the notebook
    notebook = nbformat.v4.new_notebook(cells=read_lab(source_path(ROOT, LAB)).cells)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    with capsys.disabled():
        print(f"\n{LAB}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
    for cell in filter(is_test, notebook.cells):
        score, highest = determine_grade(cell)
        assert score == highest, f"{_grade_id(cell)}: {cell.outputs}"
    outputs = {_grade_id(cell): cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    shown = {name: "".join(o.text for o in out if o.output_type == "stream") for name, out in outputs.items()}
    recorded = "recorded on another machine" in shown["live"]
    assert recorded == (importlib.util.find_spec("ray") is None)
    assert "lost_steps     you predicted    2.0, measured" in shown["compare-loss"]
    assert "nodes_gone_s   you predicted" in shown["compare-nodes"]
    assert "efficiency" in shown["measure-scaling"]
    # What the cluster started inherits the folder its notebook ran in.
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
