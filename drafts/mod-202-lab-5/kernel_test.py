"""MOD-202 Lab 5: the notebook with the model answers, in a kernel, as a learner runs it; what Ray leaves is nothing."""

from __future__ import annotations

import importlib.util
import re
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
LAB = "mod-202-lab-5"


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'distlab[frameworks]'",
)
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
    spent = dict(re.findall(r"^(\w+) +(\d+) steps in", shown["ray"], re.MULTILINE))
    assert spent == {"random": "1280", "asha": "1280", "pbt": "1280"}, shown["ray"]
    assert any("image/png" in out.get("data", {}) for out in outputs["figure"])
    assert shown["compare"].count("under fresh seeds") == 4
    measured = {
        name: float(value)
        for name, _, value in re.findall(r"^(\w+) +(\S+) +(\S+)$", shown["measured"], re.MULTILINE)
    }
    assert (measured["halving_trials"], measured["idle_share"]) == (27, 0.375)
    assert measured["winner_share"] == 0.125
    assert not [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
