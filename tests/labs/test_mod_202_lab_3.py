"""MOD-202 Lab 3: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import json
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
LAB = "mod-202-lab-3"


@pytest.mark.timeout(900)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.v4.new_notebook(cells=read_lab(source_path(ROOT, LAB)).cells)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=400, resources={"metadata": {"path": str(tmp_path)}}).execute()
    with capsys.disabled():
        print(f"\n{LAB}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
    for cell in filter(is_test, notebook.cells):
        score, highest = determine_grade(cell)
        assert score == highest, f"{_grade_id(cell)}: {cell.outputs}"
    outputs = {_grade_id(cell): cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    shown = {name: "".join(o.text for o in out if o.output_type == "stream") for name, out in outputs.items()}
    verdicts = [line.split("your verdict: ")[1] for line in shown["consistency"].splitlines()[:3]]
    assert verdicts == ["all ranks agree", "{'weights': [0, 1]}", "{'random': [0, 1]}"]
    assert "in worlds [2]: ['same bits', None]" in shown["drill"]
    assert "in worlds [2, 1]: ['equal to rounding', None]" in shown["drill-without-dropout"]
    assert "whole run killed and supervised: exit code 0" in shown["both-ways"]
    assert "agent_s: you predicted" in shown["both-ways"]
    assert "live, a worker killed" in shown["ray"] or "Not run: Ray" in shown["ray"]
    committed = json.loads((tmp_path / "predictions.json").read_text())
    assert committed["mean_lost_steps"] == 2
    # A rank inherits the folder its notebook ran in.
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
