"""A lab's notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbformat.notebooknode import NotebookNode
from nbgrader.utils import determine_grade

from distlab.course.inputs import user_cache
from distlab.course.lablint import is_test
from distlab.course.labsource import read_lab
from distlab.course.release import source_path
from tests.labs.passed import ASKED_FOR, SkipPassed, inputs_of, lab_of

ROOT = Path(__file__).parents[2]
GONE_S = 20


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get(ASKED_FOR):
        config.pluginmanager.register(SkipPassed(user_cache("passed"), _inputs))


def _inputs(item: pytest.Item) -> str | None:
    lab = lab_of(item) if item.path.is_relative_to(ROOT / "tests" / "labs") else None
    return inputs_of(ROOT, lab) if lab else None


@dataclass(frozen=True)
class Ran:
    outputs: dict[str, list[NotebookNode]]
    """Of each code cell, by its grade id."""
    said: dict[str, str]
    """What each cell printed."""


@pytest.fixture
def run_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run LAB in `tmp_path`, without the cells that hold the text `without`; every test earns its points."""

    def run(lab: str, *, cell_timeout_s: int = 300, without: str | None = None) -> Ran:
        monkeypatch.delenv(
            "MPLBACKEND", raising=False
        )  # the kernel's own, which puts figures into the notebook
        cells = read_lab(source_path(ROOT, lab)).cells
        kept = [cell for cell in cells if without is None or without not in cell.source]
        notebook = nbformat.v4.new_notebook(cells=kept)
        start = time.perf_counter()
        NotebookClient(
            notebook, timeout=cell_timeout_s, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
        with capsys.disabled():
            print(f"\n{lab}: the notebook with model answers ran in {time.perf_counter() - start:.1f} s")
        for cell in filter(is_test, notebook.cells):
            score, highest = determine_grade(cell)
            assert score == highest, f"{_grade_id(cell)}: {cell.outputs}"
        # What a notebook starts inherits the folder that it runs in, and may end a moment after the kernel.
        started = [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(tmp_path)]
        _, left = psutil.wait_procs(started, timeout=GONE_S)
        assert not [p.as_dict(["cmdline", "ppid", "status"]) for p in left]
        outputs = {_grade_id(cell): cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
        return Ran(outputs, {name: "".join(o.get("text", "") for o in out) for name, out in outputs.items()})

    return run


def _grade_id(cell: NotebookNode) -> str:
    return str(cell.metadata.get("nbgrader", {}).get("grade_id", ""))
