"""The grader's verdicts and points beside stock nbgrader's own, on the same submissions; differences with reasons."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook
from nbgrader.preprocessors import Execute
from nbgrader.utils import determine_grade

from distlab.course.bank import wrong_answers
from distlab.course.grade.batch import Batch
from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import focused, lab_work
from distlab.course.grade.queue import Queue
from distlab.course.grade.records import Record
from distlab.course.grade.submission import parse_notebook
from distlab.course.grade.work import Cell, Limits, Result, Verdict, Work
from distlab.course.release import learner_notebook, release_all
from distlab.course.sandbox import availability
from distlab.course.site import COURSE_ID, Site
from tests.course.batch_rig import gradebook, quick_folder
from tests.course.small_lab import HEADER, LAB_ID, Submission, write_lab

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

REPO = Path(__file__).parents[2]

CELL_S = 8
"""What both give a cell before they stop it; nbgrader's default is 30."""

SOLUTIONS = {
    "double": "def double(x):\n    return 2 * x",
    "table": "def table(n):\n    return {i: double(i) for i in range(n)}",
    "check": "def check(n):\n    if n < 0:\n        raise ValueError('negative')\n    return n",
    "words": "class Words:\n    def __init__(self, text):\n        self.words = text.split()\n"
    "    def __len__(self):\n        return len(self.words)",
}

TESTS = {
    "test_double": (2, "double", 'assert double(2) == 4, "double(2) is 4"'),
    "hidden_double": (
        3, "double",
        'for x in (0, -1, 2.5, 10**30):\n    assert double(x) == 2 * x, "double is wrong"',
    ),
    "test_table": (1, "table", 'assert table(3) == {0: 0, 1: 2, 2: 4}, f"table(3) is not {table(3)}"'),
    "hidden_array": (
        2, "table",
        "import numpy as np\nfound = np.array(list(table(5).values()))\n"
        'np.testing.assert_allclose(found, np.arange(5) * 2, err_msg="the values are wrong")',
    ),
    "test_check": (
        1, "check",
        'try:\n    check(-1)\n    assert False, "no ValueError"\nexcept ValueError:\n    pass',
    ),
    "hidden_check": (2, "check", 'assert check(3) == 3, "check gives n back"'),
    "hidden_words": (1, "words", 'words = Words("a b c")\nassert len(words) == 3, "three words"\n'
                     'assert words.words[-1] == "c", "the last word"'),
    "hidden_share": (4, "words", "right = [double(x) == 2 * x for x in range(4)]\nsum(right)"),
    "hidden_scale": (2, "words", "double(1)"),
}  # fmt: skip
"""Points, the answer that it follows, and its text."""


def _lab() -> str:
    names = "distlab: {names: [double, table, check, Words]}\nkernelspec:"
    text = HEADER.replace("kernelspec:", names) + "# Truth\n"
    for answer, solution in SOLUTIONS.items():
        first, _, body = solution.partition("\n")
        marked = f"{first}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
        text += _cell(f'{{"grade_id": "{answer}", "solution": true}}', marked)
        for name, (points, after, source) in TESTS.items():
            if after != answer:
                continue
            if name.startswith("hidden"):
                source = f"### BEGIN HIDDEN TESTS\n{source}\n### END HIDDEN TESTS"
            text += _cell(f'{{"grade_id": "{name}", "grade": true, "points": {points}}}', source)
    return text


def _cell(meta: str, source: str) -> str:
    return f"\n```{{code-cell}} ipython3\n:nbgrader: {meta}\n\n{source}\n```\n"


FULL = {name: float(points) for name, (points, _, _) in TESTS.items()}
NONE = dict.fromkeys(FULL, 0.0)

ANSWERS: dict[str, dict[str, str]] = {
    "model": {},
    "wrong-values": {
        "double": "def double(x):\n    return x",
        "table": "def table(n):\n    return {i: i for i in range(n)}",
        "check": "def check(n):\n    return n",
        "words": "class Words:\n    def __init__(self, text):\n        self.words = list(text)\n"
        "    def __len__(self):\n        return 3",
    },
    "wrong-kinds": {
        "double": "def double(x):\n    return str(2 * x)",
        "table": "def table(n):\n    return [0, 2, 4][:n]",
        "check": "def check(n):\n    raise KeyError(n)",
        "words": "Words = list",
    },
    "raising": {
        "double": "def double(x):\n    return 2 * x if type(x) is int and x < 3 else 1 / 0",
        "table": "def table():\n    return {}",
        "check": "def check(n):\n    assert n > 3, 'too small'\n    return n",
        "words": "def Words(text):\n    return None",
    },
    "half": {"double": "def double(x):\n    return x + 2 if x > 2 else 2 * x"},
    "no-syntax": {"double": "def double(x) return 2 * x", "check": "def check(n):\n  return n\n return 0"},
    "global-state": {
        "double": "calls = []\ndef double(x):\n    calls.append(x)\n    return 2 * x if len(calls) < 9 else 0",
    },
    "printing": {
        "double": "def double(x):\n    print('doubling', x)\n    display(x)\n    return 2 * x",
        "table": "%time 1\n!true\ndef table(n):\n    return {i: 2 * i for i in range(n)}",
    },
    "warning": {
        "double": "import sys\ndef double(x):\n    print('slow', file=sys.stderr)\n    return 2 * x",
        "check": "import warnings\ndef check(n):\n    warnings.warn('old')\n    if n < 0:\n        raise ValueError\n"
        "    return n",
    },
    "loop": {"check": SOLUTIONS["check"] + "\nwhile True:\n    pass"},
    "array-for-a-number": {
        "double": "import numpy as np\ndef double(x):\n    return np.array([x, x])",
    },
    "too-many-points": {"double": "def double(x):\n    return 4"},
    "no-asserts": {
        "double": "import ast\nclass Drop(ast.NodeTransformer):\n    def visit_Assert(self, node):\n"
        "        return ast.Pass()\nget_ipython().ast_transformers.append(Drop())\ndef double(x):\n    return 0",
    },
}  # fmt: skip
"""What each submission answers other than the model. The starter is a submission, too."""

NOT_GRADED = ("too-many-points",)
"""Whom nbgrader does not grade at all, with a traceback: a number of points beyond the test's."""

DIFFERENCES = {
    "text on stderr, such as a warning, fails a test in nbgrader, whatever the test says": {
        ("warning", test): (0.0, FULL[test]) for test in FULL if test != "hidden_words"
    },
    "nbgrader interrupts an endless cell and goes on: what was defined before it counts as if it had ended": {
        ("loop", test): (FULL[test], 0.0)
        for test in ("test_check", "hidden_check", "hidden_words", "hidden_share", "hidden_scale")
    },
    "nbgrader gives all points where a test's last expression is to be points and is no single number": {
        ("array-for-a-number", "hidden_share"): (4.0, 0.0),
        ("array-for-a-number", "hidden_scale"): (2.0, 0.0),
        ("wrong-kinds", "hidden_scale"): (2.0, 0.0),
    },
    "nbgrader runs tests in the learner's kernel, which can take their asserts out": {
        ("no-asserts", "test_double"): (2.0, 0.0),
        ("no-asserts", "hidden_double"): (3.0, 0.0),
        ("no-asserts", "test_table"): (1.0, 0.0),
    },
}
"""Why, by student and test nbgrader's points and ours. Whom nbgrader does not grade is not among them."""

VERDICTS = {
    "model": Verdict.PASSED,
    "starter": Verdict.FAILED,
    "printing": Verdict.PASSED,
    "warning": Verdict.PASSED,
    "half": Verdict.FAILED,
    "loop": Verdict.TIMEOUT,
    "too-many-points": Verdict.FAILED,
}


@dataclass
class Graded:
    """The same submissions, graded both ways: points by student and test."""

    stock: dict[str, dict[str, float | None]]
    ours: dict[str, dict[str, float | None]]
    results: dict[str, Result]


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as made:
        yield made


@pytest.fixture(scope="module")
def graded(children: Children) -> Iterator[Graded]:
    with quick_folder() as folder:
        site = Site(folder)
        write_lab(site.root, _lab())
        release_all(site)
        for student, answers in {"starter": None, **ANSWERS}.items():
            submission = Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb")
            for answer, source in {} if answers is None else {**SOLUTIONS, **answers}.items():
                submission.answer(answer, source)
            submission.submit(site.course, student)
        stock = folder / "stock"
        shutil.copytree(site.course, stock)
        _nbgrader_autograde(stock, folder / "home")
        results = _grade(site.course, children)
        yield Graded(_points(stock, results), _points(site.course, results), results)


def _nbgrader_autograde(course: Path, home: Path) -> None:
    """Stock nbgrader, with no configuration but the time for a cell."""
    home.mkdir()
    env = {"PATH": f"{sys.prefix}/bin:{os.environ['PATH']}", "HOME": str(home)}
    command = [
        "nbgrader", "autograde", LAB_ID, f"--course={COURSE_ID}", f"--CourseDirectory.root={course}",
        f"--Execute.timeout={CELL_S}",
    ]  # fmt: skip
    done = subprocess.run(command, env=env, cwd=course, capture_output=True, text=True, check=False)
    failed = re.findall(r"There was an error processing assignment .* for student '(.*)'", done.stderr)
    assert failed == list(NOT_GRADED), done.stderr[-3000:]


def _grade(course: Path, children: Children) -> dict[str, Result]:
    limits = Limits(cell_s=CELL_S, wall_s=120)
    with Queue(course) as queue:
        grader = functools.partial(grade, children=children)
        batch = Batch(course, queue, grader, assignment=LAB_ID, workers=2, limits=limits)
        batch.ask(LAB_ID, batch.lab(LAB_ID).students(), by="teacher", reason="test")
        batch.run()
        records = {job.student: Record.from_json(str(job.record)) for job in queue.jobs(LAB_ID)}
    return {student: record.result for student, record in records.items()}


def _points(course: Path, students: dict[str, Result]) -> dict[str, dict[str, float | None]]:
    found: dict[str, dict[str, float | None]] = {}
    with gradebook(course) as book:
        for student in students:
            if student in NOT_GRADED and course.name == "stock":
                continue
            grades = book.find_submission_notebook(LAB_ID, LAB_ID, student).grades
            found[student] = {grade.name: grade.auto_score for grade in grades}
    return found


def test_points_are_nbgraders_but_for_what_is_listed(graded: Graded) -> None:
    different = {
        (student, test): (points, graded.ours[student][test])
        for student, tests in graded.stock.items()
        for test, points in tests.items()
        if points != graded.ours[student][test]
    }
    listed = {key: points for cases in DIFFERENCES.values() for key, points in cases.items()}
    assert different == listed
    assert len(graded.stock) * len(FULL) > 5 * len(listed)


def test_the_model_gets_all_and_the_starter_nothing_either_way(graded: Graded) -> None:
    for points in (graded.stock, graded.ours):
        assert (points["model"], points["starter"]) == (FULL, NONE)


def test_who_is_not_graded_by_nbgrader_is_graded(graded: Graded) -> None:
    assert graded.ours["too-many-points"] == {
        **NONE, "test_double": 2, "test_check": 1, "hidden_check": 2, "hidden_words": 1, "hidden_share": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("student", "verdict"), VERDICTS.items(), ids=VERDICTS)
def test_verdicts_say_how_it_ended(graded: Graded, student: str, verdict: Verdict) -> None:
    result = graded.results[student]
    assert result.verdict == verdict
    for cell in result.cells:
        by_points = {cell.max_points: {Verdict.PASSED}, 0.0: set(Verdict) - {Verdict.PASSED, Verdict.PARTIAL}}
        assert cell.verdict in by_points.get(cell.points, {Verdict.PARTIAL})


# The course's own labs

LAUNCHED = {"mod-107-lab-3": ("average-visible", "average-hidden", "by-hand-visible", "by-hand-hidden")}
"""Tests that start ranks and are compared all the same: a few seconds each."""

NOT_COMPARED = {
    "they train several times over: most of a minute, in each of the two": {
        "mod-107-lab-3": ("run-visible", "run-hidden"),
    },
    "they train, are killed and train again: most of a minute, in each of the two": {
        "mod-14-lab-1": ("crash-visible", "crash-hidden"),
    },
}
"""Why, by lab the tests of which nothing is said here."""


def _variations(lab: str) -> Work:
    """The model, the starter and all known-wrong answers one after the other, each with those of its tests that are
    compared; wrong answers without those that start ranks."""
    model = lab_work(REPO, lab, display=False)
    starter = lab_work(REPO, lab, parse_notebook(learner_notebook(REPO, lab)), display=False)
    tests = {cell.grade_id for cell in model.cells if cell.is_test}
    light = {
        test for test in tests if not any("launch(" in cell.source for cell in focused(model, [test]).cells)
    }
    compared = light.union(LAUNCHED.get(lab, ()))
    left_out = [test for labs in NOT_COMPARED.values() for test in labs.get(lab, ())]
    assert sorted(tests - compared) == sorted(left_out)
    cells = [*focused(model, compared).cells, *_named(focused(starter, compared), "the starter")]
    for answer in wrong_answers(REPO, lab):
        if failing := light & set(answer.fails):
            cells += _named(focused(answer.put_into(model), failing), answer.name)
    return replace(model, cells=tuple(cells))


def _named(work: Work, answer: str) -> list[Cell]:
    return [replace(cell, grade_id=f"{cell.grade_id} of {answer}") for cell in work.cells]


def _points_in_one_kernel(work: Work, folder: Path) -> dict[str, float]:
    """By nbgrader's own preprocessor, in a kernel of its own, and its own rule for points."""
    notebook = new_notebook()
    for cell in work.cells:
        meta = {"grade_id": cell.grade_id, "grade": cell.is_test, "solution": False, "points": cell.points}
        notebook.cells.append(new_code_cell(cell.source, metadata={"nbgrader": meta}))
    Execute(timeout=120).preprocess(notebook, {"metadata": {"path": str(folder)}})
    graded = [cell for cell in notebook.cells if cell.metadata.nbgrader.grade]
    return {cell.metadata.nbgrader.grade_id: determine_grade(cell)[0] for cell in graded}


@pytest.mark.parametrize("lab", ["mod-107-lab-3", "mod-14-lab-1"])
def test_the_labs_tests_come_to_the_same(
    lab: str, children: Children, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTLAB_SCALE", "grading")  # as in the sandboxes
    work = _variations(lab)
    ours = {cell.grade_id: cell.points for cell in grade(work, children).cells}
    assert _points_in_one_kernel(work, tmp_path) == ours
    wrong = [points for test, points in ours.items() if " of " in test]
    assert len(wrong) > 8
    assert not any(wrong)
    assert all(points for test, points in ours.items() if " of " not in test)
