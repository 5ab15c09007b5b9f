"""A lab's tests are tested: what passes, what is found, what a report of it says, and a file graded by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distlab.course.bank import read_wrong_answer
from distlab.course.check_lab import (
    BANK,
    MODEL_S,
    NONSENSE,
    check_lab,
    check_nonsense,
    checks,
)
from distlab.course.deep import Journal, deep_report
from distlab.course.findings import Finding
from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import lab_work
from distlab.course.grade.work import Result, Work
from distlab.course.grade_file import grade_file
from distlab.course.labsource import LabError
from distlab.course.proved import inputs_digest, report_path
from distlab.course.release import learner_notebook
from distlab.course.sandbox import availability
from distlab.errors import SettingError
from tests.course.small_lab import LAB, LAB_ID, Submission, write_lab

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

WRONG = {
    "double-adds": ("Doubling adds two.", "hidden_double", "double", "def double(x):\n    return x + 2"),
    "double-squares": (
        "Doubling is squaring.",
        "hidden_double",
        "double",
        "def double(x):\n    return x * x",
    ),
    "double-same": ("Nothing changes.", "hidden_double", "double", "def double(x):\n    return x"),
    "triple-twice": ("Three is two.", "hidden_triple", "triple", "def triple(x):\n    return double(x)"),
    "triple-adds": ("Tripling adds three.", "hidden_triple", "triple", "def triple(x):\n    return x + 3"),
    "triple-cubes": ("Tripling is cubing.", "hidden_triple", "triple", "def triple(x):\n    return x**3"),
}


def write_wrong(root: Path, name: str, misconception: str, fails: str, cell: str, source: str) -> None:
    path = root / "solutions" / LAB_ID / "wrong" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'---\nmisconception: "{misconception}"\nfails: [{fails}]\n---\n\n'
        f'```python grade_id="{cell}"\n{source}\n```\n'
    )


def write_all(root: Path, text: str = LAB) -> Path:
    write_lab(root, text)
    for name, wrong in WRONG.items():
        write_wrong(root, name, *wrong)
    return root


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


def problems(root: Path, children: Children, seeds: int = 1) -> dict[str, str]:
    found = [check() for _, check in checks(root, LAB_ID, seeds, children)]
    return {finding.what: finding.problem for finding in found if finding.problem}


def test_a_lab_whose_tests_are_right(tmp_path: Path, children: Children) -> None:
    listed = list(checks(write_all(tmp_path), LAB_ID, 2, children))
    findings = [check() for _, check in listed]
    assert [finding.problem for finding in findings] == [""] * len(findings)
    assert [finding.what for finding in findings] == [what for what, _ in listed]
    checked = ["model answer, seed 0", "model answer, seed 1", "untouched starter"]
    checked += [f"nonsense, {kind}" for kind in NONSENSE]
    assert [finding.what for finding in findings] == checked + [f"wrong/{name}" for name in sorted(WRONG)]
    report = deep_report(tmp_path, LAB_ID, Journal(tmp_path, LAB_ID), children)
    assert (report["mutants"], report["killed"], report["share"]) == (6, 6, 1.0)
    assert report["inputs"] == inputs_digest(tmp_path, LAB_ID)


def test_what_is_wrong_with_a_lab(tmp_path: Path, children: Children) -> None:
    text = LAB.replace("assert triple(7) == 21", "assert triple(7) > 20")  # too weak
    text = text.replace('"double(2) is 4"', '"double(2) is 4"\nassert random.random() < 0.7, "unstable"')
    text = text.replace("assert double(2)", "import random\n\nassert double(2)")
    write_wrong(
        write_all(tmp_path, text), "double-raises", "An error.", "hidden_double", "double", "double = None"
    )
    found = problems(tmp_path, children, seeds=2)
    assert found == {
        # 0.84 and 0.13 are the first numbers of seeds 0 and 1.
        "model answer, seed 0": "test_double failed, 0 of 2 points: unstable",
        "wrong/double-raises": "should fail by an assertion: hidden_double failed, 0 of 3 points: "
        "The test could not work with what your code gave.",
        "wrong/triple-cubes": "should fail by an assertion: hidden_triple passed, 5 of 5 points",
    }


def test_a_starter_that_earns_points_is_found(tmp_path: Path, children: Children) -> None:
    text = LAB.replace("assert triple(7) == 21", "assert triple is not None")
    found = problems(write_all(tmp_path, text), children)
    assert found["untouched starter"] == "hidden_triple passed, 5 of 5 points"
    assert all(found[f"nonsense, {kind}"] == "hidden_triple passed, 5 of 5 points" for kind in NONSENSE)
    assert found["wrong/triple-twice"].startswith("should fail by an assertion: hidden_triple passed")


@pytest.mark.parametrize(
    ("assertion", "kind"),
    [
        ("triple(7) is None", "None"),
        ("triple(0) == 0", "zeros"),
        ("all(text == 21 for text in triple(7))", "empty lists"),
        ("isinstance(triple('x'), str)", "echoes"),
        ("limits['low'] <= 0", "echoes"),
    ],
)
def test_nonsense_that_earns_points_is_found(
    assertion: str, kind: str, tmp_path: Path, children: Children
) -> None:
    """The names of the small lab, and one that is no function."""
    text = LAB.replace("assert triple(7) == 21", f"assert {assertion}").replace("triple]", "triple, limits]")
    write_lab(tmp_path, text.replace("import math", "limits = {'low': 1}"))
    model = lab_work(tmp_path, LAB_ID, display=False)
    earned = "hidden_triple passed, 5 of 5 points"
    assert check_nonsense(model, kind, children).problem == ("" if "limits" in assertion else earned)


def test_the_bank_is_checked(tmp_path: Path, children: Children) -> None:
    write_lab(tmp_path)
    write_wrong(tmp_path, "a", "Same.", "hidden_triple, hidden", "treble", "x = 1")
    write_wrong(tmp_path, "b", "Same.", "hidden_triple", "triple", "def triple(x):\n    return x")
    found = [check().problem for what, check in checks(tmp_path, LAB_ID, 0, children) if what == BANK]
    assert found == [
        "2 wrong answers; a lab has at least 6",
        "wrong/a: changes 'treble', which is no code cell of the lab",
        "wrong/a: fails 'hidden', which is no test of the lab",
        "wrong/a: another wrong answer names the same misconception",
        "wrong/b: another wrong answer names the same misconception",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "def f(): ...",
        "---\nfails: [a]\n---\n",
        "---\nmisconception: ''\nfails: [a]\n---\n",
        "---\nmisconception: a\nfails: a\n---\n",
        "---\nmisconception: a\nfails: [a]\n---\nno cell\n",
        "---\na: [\n---\n",
    ],
)
def test_a_wrong_answer_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.md"
    path.write_text(text)
    with pytest.raises(LabError, match=r"wrong\.md: "):
        read_wrong_answer(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_all(tmp_path, LAB.replace("return x + double(x)", "return x + double(x) + 0"))
    assert check_lab(LAB_ID, root) == 0
    assert capsys.readouterr().out.count("as it should be") == 8 + len(NONSENSE)
    assert check_lab(LAB_ID, root, deep=True) == 1  # two mutants in eight live: + 0 and - 0 are the same
    said = capsys.readouterr().out
    assert "lives: triple/operator-" in said
    assert "NOT EXPLAINED" in said
    report = json.loads(report_path(root, LAB_ID).read_text())
    assert report["inputs"] == inputs_digest(root, LAB_ID)
    assert len(report["unexplained"]) == 1
    assert len([name for name in report["seconds"] if name.startswith("model answer")]) == 20
    path = root / "solutions" / LAB_ID / "survivors.yaml"
    path.write_text(f'{report["unexplained"][0]}: "Nothing is taken away."\n')
    assert check_lab(LAB_ID, root, deep=True) == 0  # an explanation is no reason to run anything again
    assert json.loads(report_path(root, LAB_ID).read_text())["explained"] == report["unexplained"]
    with pytest.raises(SettingError, match="there is no lab 'mod-9-lab-9'"):
        check_lab("mod-9-lab-9", root)


def test_a_deep_check_goes_on_where_it_was_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_all(tmp_path)
    graded: list[Work] = []

    def cut(work: Work, children: Children) -> Result:
        if len(graded) == 36:
            raise KeyboardInterrupt
        graded.append(work)
        return grade(work, children)

    monkeypatch.setattr("distlab.course.check_lab.grade", cut)
    monkeypatch.setattr("distlab.course.deep.grade", cut)
    with pytest.raises(KeyboardInterrupt):
        check_lab(LAB_ID, root, deep=True)
    assert "as it should be" in capsys.readouterr().out
    first, graded[:] = len(graded), []
    assert check_lab(LAB_ID, root, deep=True) == 0
    assert len(graded) < first
    report = json.loads(report_path(root, LAB_ID).read_text())
    assert (report["killed"], len([name for name in report["seconds"] if "seed" in name])) == (6, 20)
    (journal,) = (root / "var" / "deep").iterdir()
    assert len(journal.read_text().splitlines()) == 20 + 1 + len(NONSENSE) + len(WRONG) + 6


def test_what_was_late_is_measured_again(tmp_path: Path) -> None:
    write_all(tmp_path)
    late, good = (
        Finding("model answer, seed 0", 61.0, MODEL_S),
        Finding("model answer, seed 0", 59.0, MODEL_S),
    )
    assert Journal(tmp_path, LAB_ID).find(late.what, lambda: late) is late
    assert Journal(tmp_path, LAB_ID).find(late.what, lambda: good) is good
    assert Journal(tmp_path, LAB_ID).find(late.what, lambda: late) == good


def test_slow_answers_are_late() -> None:
    assert str(Finding("model answer, seed 0", 61.04, MODEL_S)).endswith("takes longer than 60 s")
    assert not Finding("model answer, seed 0", 60.0, MODEL_S).late


def test_a_file_is_graded_as_a_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lab(tmp_path)
    released = tmp_path / "released.ipynb"
    released.write_bytes(learner_notebook(tmp_path, LAB_ID))
    submission = Submission(released).honest().answer("triple", "def triple(x):\n    return 4 * x")
    mine = tmp_path / "mine.ipynb"
    mine.write_text(json.dumps(submission.delete("hidden_double").notebook))
    assert grade_file(LAB_ID, mine, tmp_path, json=True) == 0
    assert json.loads(capsys.readouterr().out) == {
        "lab": LAB_ID,
        "verdict": "failed",
        "points": 5.0,
        "max_points": 10.0,
        "cells": [
            {"grade_id": "test_double", "verdict": "passed", "points": 2.0, "max_points": 2.0, "message": ""},
            {
                "grade_id": "hidden_double",
                "verdict": "passed",
                "points": 3.0,
                "max_points": 3.0,
                "message": "",
            },
            {
                "grade_id": "hidden_triple",
                "verdict": "failed",
                "points": 0.0,
                "max_points": 5.0,
                "message": "triple is wrong",
            },
        ],
    }
    for content, says in (
        ("# Read me", r"mine\.ipynb is not a notebook that can be graded: it is not a JSON document"),
        ("{}", "it has no list of cells"),
    ):
        mine.write_text(content)
        with pytest.raises(SettingError, match=says):
            grade_file(LAB_ID, mine, tmp_path)
    with pytest.raises(SettingError, match=r"missing\.ipynb cannot be read"):
        grade_file(LAB_ID, tmp_path / "missing.ipynb", tmp_path)
    for lab, says in (
        ("mod-9-lab-9", r"no lab 'mod-9-lab-9': .*lab\.md is missing; there are mod-1-lab-1"),
        ("my-lab", "'my-lab' is no lab's id; a lab's folder is named like mod-107"),
    ):
        with pytest.raises(SettingError, match=says):
            grade_file(lab, mine, tmp_path)
        with pytest.raises(SettingError, match=says):
            check_lab(lab, tmp_path)
