"""What is graded: tests and points from the source, answers from the notebook, whatever that notebook is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.course.grade.labwork import lab_work, repairs, restored
from distlab.course.grade.submission import parse_notebook
from distlab.course.grade.work import Kind, Work
from distlab.course.labsource import LabError, read_lab
from distlab.course.release import learner_notebook, source_path
from tests.course.small_lab import CANARIES, HEADER, LAB_ID, SOLUTION_CANARY, Submission, write_lab

KINDS = [Kind.CODE, Kind.CODE, Kind.VISIBLE, Kind.HIDDEN, Kind.CODE, Kind.HIDDEN]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The learner's notebook of the small lab."""
    write_lab(tmp_path)
    path = tmp_path / "released.ipynb"
    path.write_bytes(learner_notebook(tmp_path, LAB_ID))
    return path


def work_from(root: Path, submission: Submission) -> Work:
    return lab_work(root, LAB_ID, parse_notebook(json.dumps(submission.notebook).encode()))


def test_the_model_answer(released: Path, tmp_path: Path) -> None:
    work = lab_work(tmp_path, LAB_ID, seed=7, display=False)
    assert [cell.kind for cell in work.cells] == KINDS
    assert [cell.points for cell in work.cells if cell.is_test] == [2, 3, 5]
    assert work.names == ("double", "triple")
    assert (work.seed, work.display, work.timed) == (7, False, False)
    assert SOLUTION_CANARY in work.cells[1].source


def test_a_submission_keeps_its_answers_and_gets_the_tests(released: Path, tmp_path: Path) -> None:
    submission = Submission(released).honest().answer("test_double", "pass").add("print('mine')")
    work = work_from(tmp_path, submission)
    assert [cell.source for cell in work.cells if cell.source.startswith("print")] == ["print('mine')"]
    tests = {cell.grade_id: cell.source for cell in work.cells if cell.is_test}
    assert tests["test_double"] == 'assert double(2) == 4, "double(2) is 4"'
    assert CANARIES[1] in tests["hidden_double"]
    assert [cell.source for cell in work.cells if cell.grade_id == "triple"] == [
        "def triple(x):\n    return 3 * x"
    ]


def test_a_deleted_answer_comes_back_as_the_starter(released: Path, tmp_path: Path) -> None:
    work = work_from(tmp_path, Submission(released).honest().delete("double"))
    (double,) = (cell for cell in work.cells if cell.grade_id == "double")
    assert "raise NotImplementedError" in double.source
    assert not any(SOLUTION_CANARY in cell.source for cell in work.cells)


def test_what_was_repaired_is_said(released: Path, tmp_path: Path) -> None:
    source = read_lab(source_path(tmp_path, LAB_ID))
    submission = Submission(released).delete("triple")
    again = submission.cell("double")
    submission.notebook["cells"].append(again)
    notebook = parse_notebook(json.dumps(submission.notebook).encode())
    assert repairs(source, notebook) == {"double": "duplicated", "triple": "missing"}
    before = json.dumps(notebook)
    assert len([cell for cell in restored(source, notebook) if "nbgrader" in cell.metadata]) == 6
    assert json.dumps(notebook) == before  # the submission itself is not touched


def test_who_defines_anew_what_a_given_cell_defines_is_named(tmp_path: Path) -> None:
    text = """
```{code-cell} ipython3
:nbgrader: {"grade_id": "harness", "locked": true}

def doubled(values):
    return [double(value) for value in values]

def helper():
    pass
```

+++ {"nbgrader": {"grade_id": "words", "locked": true}}

A given text is no Python.

```{code-cell} ipython3
:nbgrader: {"grade_id": "double", "solution": true}

def double(x):
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
```

```{code-cell} ipython3
:nbgrader: {"grade_id": "t", "grade": true, "points": 1}

assert doubled([1]) == [2], "yes"
```
"""
    header = HEADER.replace("kernelspec:", "distlab: {names: [double, doubled]}\nkernelspec:")
    source = read_lab(write_lab(tmp_path, header + text))
    assert [cell.keeps for cell in lab_work(tmp_path, LAB_ID).cells] == [("doubled",), (), ()]

    def of(own: str) -> dict[str, str]:
        notebook = parse_notebook(
            json.dumps({"cells": [*given, {"cell_type": "code", "source": own}]}).encode()
        )
        assert lab_work(tmp_path, LAB_ID, notebook).cells[-1].keeps == ()
        return {**repairs(source, notebook)}

    given = [{"cell_type": "code", "source": cell.source, "metadata": cell.metadata} for cell in source.cells]
    assert (
        of("print(doubled([1]))\ndoubled([2])\ndef mine():\n    helper = doubled == 3\n    return helper")
        == {}
    )
    for own in (
        "def doubled(values): ...",
        "x = 1\nhelper = print",
        "class helper:\n    pass",
        "async def helper(): ...",
    ):
        assert of(own) == {"harness": "replaced"}, own


def test_a_measurement_is_marked_by_the_source(tmp_path: Path) -> None:
    text = """
```{code-cell} ipython3
:nbgrader: {"grade_id": "look", "locked": true}
:tags: [measure]

print(1)
```

```{code-cell} ipython3
:nbgrader: {"grade_id": "t", "grade": true, "points": 1}

assert True, "yes"
```
"""
    write_lab(tmp_path, HEADER.replace("kernelspec:", "distlab: {timed: true}\nkernelspec:") + text)
    work = lab_work(tmp_path, LAB_ID)
    assert [cell.measure for cell in work.cells] == [True, False]
    assert work.timed
    forged = lab_work(tmp_path, LAB_ID, parse_notebook(b'{"cells": []}'))
    assert [cell.measure for cell in forged.cells] == [True, False]


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("distlab: [double]", "must be a mapping"),
        ("distlab: {name: [double]}", "unknown key 'name' under distlab in the header; known: names, timed"),
        ("distlab: {names: double}", "must be a list of Python names, not 'double'"),
        ("distlab: {names: [a b]}", "must be a list of Python names"),
        ("distlab: {timed: 1}", "must be true or false, not 1"),
    ],
)
def test_a_header_of_another_form_is_refused(tmp_path: Path, header: str, why: str) -> None:
    write_lab(tmp_path, HEADER.replace("kernelspec:", f"{header}\nkernelspec:"))
    with pytest.raises(LabError, match=r"lab\.md: ") as refused:
        lab_work(tmp_path, LAB_ID)
    assert why in str(refused.value)
