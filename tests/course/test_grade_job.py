"""A folder of works becomes a folder of results, each graded once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distlab.course.grade.work import Cell, Kind, Result, Verdict, Work
from distlab.course.sandbox import availability

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")


def _work(answer: int) -> Work:
    return Work(
        "mod-1-lab-1",
        (
            Cell(f"def double(x):\n    return {answer} * x"),
            Cell("assert double(3) == 6, 'double doubles'", "hidden", Kind.HIDDEN, 2.0),
        ),
        ("double",),
        display=False,
    )


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "distlab.course.grade.job", str(folder), "2"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_works_become_results_and_what_has_one_is_left_alone(tmp_path: Path) -> None:
    for name, answer in (("ann", 2), ("ben", 3), ("cem", 2)):
        (tmp_path / f"{name}.work.json").write_text(json.dumps(_work(answer).to_json()))
    (tmp_path / "cem.result.json").write_text("there already")
    (tmp_path / "dan.work.json").write_text("{}")
    done = _run(tmp_path)
    assert (done.returncode, done.stderr.splitlines()) == (1, ["dan.work.json is no work: KeyError: 'cells'"])
    results = {
        name: Result.from_json(json.loads((tmp_path / f"{name}.result.json").read_bytes()))
        for name in ("ann", "ben")
    }
    assert {name: (result.verdict, result.points) for name, result in results.items()} == {
        "ann": (Verdict.PASSED, 2.0),
        "ben": (Verdict.FAILED, 0.0),
    }
    assert results["ben"].cells[0].message == "double doubles"
    assert (tmp_path / "cem.result.json").read_text() == "there already"
    assert not (tmp_path / "dan.result.json").exists()


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    assert _run(tmp_path / "none").returncode == 2
