"""Mutants are real faults in a fixed order; those that tests kill, and those that live, are counted as such."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import pytest

from distlab.course.grade.labwork import focused, lab_work
from distlab.course.grade.work import Cell, Kind, Verdict, Work
from distlab.course.labsource import LabError
from distlab.course.mutants import cell_mutants, mutants_of
from distlab.course.survivors import grouped_tests, read_explanations, survival
from tests.course.small_lab import LAB_ID, write_lab


def cell(body: str, head: str = "def f(x, y):") -> str:
    lines = "\n".join(f"    {line}" for line in body.split("\n"))
    return f"{head}\n    ### BEGIN SOLUTION\n{lines}\n    ### END SOLUTION\n"


def faults(source: str) -> list[str]:
    return [f"{mutant.before} -> {mutant.after}" for mutant in cell_mutants(source, "f")]


FAULTS = {
    "return x + 1": ["return None", "return x - 1", "return x + 2"],
    "return x < y and not x": [
        "return None",
        "return x < y or not x",
        "return x <= y and (not x)",
        "return x < y and x",
    ],
    "x += 1": ["pass", "x += 2", "x -= 1"],
    "if x > y:\n    x = y": ["if x >= y:", "if not x > y:"],
    "if x == y:\n    x = y": ["if x != y:"],
    "x = sorted(y)": ["x = y"],
    "x = y.copy()": ["x = y"],
    "x = pow(x, y)": ["x = x", "x = pow(y, x)"],
    "x = max(x, y)": ["x = x"],
    "x = sorted(y, reverse=True)": ["x = y", "x = sorted(y)", "x = sorted(y, reverse=False)"],
    "x.sort()": ["pass"],
    "x[0] = y": ["pass", "x[1] = y"],
    "x = y[1:]": ["x = y[:]", "x = y[2:]"],
    "x = [i for i in y if i > x]": ["x = [i for i in y if not i > x]", "x = [i for i in y if i >= x]"],
    "x = 'a' if y else 'b'": [
        "x = 'a' if not y else 'b'",
        "x = 'a_' if y else 'b'",
        "x = 'a' if y else 'b_'",
    ],
    "continue_ = x": [],
    'x: "int" = y': [],
    "print('x', 1 + 2)": [],
    "import os": [],
    '"""Text."""': [],
    "raise ValueError('no ' + 'text')": ["pass"],
    "assert x, 'text'": [],
    "x = f'{y} is 1'": [],
    "def g(a: int = 1) -> 'str':\n    return a": ["def g(a: int=2) -> 'str':", "return None"],
    "for i in range(y):\n    break": ["for i in y:", "pass"],
}


@pytest.mark.parametrize("body", FAULTS)
def test_faults(body: str) -> None:
    assert [mutant.after for mutant in cell_mutants(cell(body), "f")] == FAULTS[body]


def test_only_the_solution_is_changed() -> None:
    source = "x = 1\n### BEGIN SOLUTION\nx = 2\n### END SOLUTION\ny = 3 + 4\n"
    assert faults(source) == ["x = 2 -> x = 3"]
    assert cell_mutants("x = 1 + 2", "f") == []


def test_each_is_another_program_that_is_python() -> None:
    source = cell(
        "z = [x, y][::2]\nz = z + [len(z)]\nwhile not z:\n    z.append(1 if x is None else -1)\nreturn z"
    )
    mutants = cell_mutants(source, "f")
    assert len({mutant.source for mutant in mutants}) == len(mutants) > 10
    assert ast.unparse(ast.parse(source)) not in {mutant.source for mutant in mutants}
    for mutant in mutants:
        compile(mutant.source, mutant.id, "exec")


def test_ids_stay_when_other_code_changes() -> None:
    before = cell_mutants(cell("x = x + y\nreturn x"), "f")
    after = cell_mutants(cell("# a comment\ny = y * 2\nx = x + y\nreturn x"), "f")
    assert [mutant.id for mutant in cell_mutants(cell("x = x + y\nreturn x"), "f")] == [m.id for m in before]
    assert {mutant.id for mutant in before} < {mutant.id for mutant in after}
    twice = cell_mutants(cell("x = x + y\nx = x + y"), "f")
    assert twice[1].id == f"{twice[0].id}-2"


def run_here(work: Work) -> Mapping[str, Verdict]:
    """The verdicts of a harmless work's tests, run in this process."""
    learner: dict[str, object] = {}
    verdicts = {}
    for step in work.cells:
        space = {name: learner[name] for name in work.names if name in learner} if step.is_test else learner
        verdict = Verdict.PASSED
        try:
            exec(compile(step.source, step.grade_id, "exec"), space)
        except AssertionError:
            verdict = Verdict.FAILED
        except Exception:
            verdict = Verdict.ERROR
        if step.is_test:
            verdicts[step.grade_id] = verdict
    return verdicts


def test_the_small_lab_kills_its_mutants(tmp_path: Path) -> None:
    write_lab(tmp_path)
    work = lab_work(tmp_path, LAB_ID)
    mutants = mutants_of(work)
    assert [(mutant.grade_id, mutant.after) for mutant in mutants] == [
        ("double", "kestrel_solution_canary = 2 / x"),
        ("double", "kestrel_solution_canary = 3 * x"),
        ("double", "return None"),
        ("triple", "return None"),
        ("triple", "return x - double(x)"),
        ("triple", "return x + x"),
    ]
    told: list[tuple[str, bool]] = []
    result = survival(work, mutants, {}, run_here, lambda mutant, killed: told.append((mutant.id, killed)))
    assert result.killed == tuple(mutant.id for mutant in mutants)
    assert told == [(mutant.id, True) for mutant in mutants]
    assert result.share == 1.0


WEAK = (
    Cell("### BEGIN SOLUTION\ndef f(x):\n    y = x * 1\n    return y + 0\n### END SOLUTION", "f"),
    Cell("assert f(0) == 0", "f-hidden", Kind.HIDDEN, 1.0),
)


def test_survivors_count_unless_they_are_explained() -> None:
    work = Work("mod-1-lab-1", WEAK, ("f",))
    mutants = mutants_of(work)
    after = {mutant.after: mutant.id for mutant in mutants}
    result = survival(work, mutants, {}, run_here)
    alive = ["y = x / 1", "y = x * 2", "return y - 0"]
    assert [mutant.after for mutant in result.unexplained] == alive
    assert result.share == 2 / 5
    why = {after["y = x / 1"]: "Division by one.", after["return y - 0"]: "Nothing taken away."}
    result = survival(work, mutants, why, run_here)
    assert [mutant.after for mutant in result.explained] == ["y = x / 1", "return y - 0"]
    assert result.share == 2 / 3


def test_tests_that_need_one_before_them_run_with_it() -> None:
    cells = (
        Cell("made = []\n\n\ndef f(x):\n    made.append(x)\n\n\ndef last():\n    return made[-1]", "f"),
        Cell("f(3)", "first", Kind.HIDDEN),
        Cell("assert last() == 3", "second", Kind.HIDDEN),
        Cell("f(4)", "third", Kind.HIDDEN),
    )
    work = Work("mod-1-lab-1", cells, ("f", "last"))
    assert grouped_tests(work, run_here) == [["first", "second"], ["third"]]
    with pytest.raises(LabError, match=r"the model answer does not pass second"):
        grouped_tests(Work("mod-1-lab-1", (cells[0], *cells[2:]), ("f", "last")), run_here)


def test_only_what_a_test_needs_is_run() -> None:
    cells = (
        Cell("import math", "imports"),
        Cell("def g(x):\n    return h(x)", "g"),
        Cell("open('file', 'w').close()", "effect"),
        Cell("slow = 1", "slow"),
        Cell("assert g(1)", "visible", Kind.VISIBLE),
        Cell("look = g(2)", "look", measure=True),
        Cell("def h(x):\n    return math.pi * x", "h"),
        Cell("assert g(1)", "hidden", Kind.HIDDEN),
        Cell("after = 1", "after"),
    )
    kept = focused(Work("mod-1-lab-1", cells, ("g",)), ["hidden"])
    assert [step.grade_id for step in kept.cells] == ["imports", "g", "effect", "h", "hidden"]
    assert not kept.display


def test_explanations(tmp_path: Path) -> None:
    assert read_explanations(tmp_path, LAB_ID) == {}
    path = write_lab(tmp_path).parent / "survivors.yaml"
    path.write_text('f/operator-0badcafe: "Nothing changes."\n')
    assert read_explanations(tmp_path, LAB_ID) == {"f/operator-0badcafe": "Nothing changes."}
    for text in ("- a\n", "a: ''\n", "a: [b]\n", "a: [\n"):
        path.write_text(text)
        with pytest.raises(LabError, match=r"survivors\.yaml: "):
            read_explanations(tmp_path, LAB_ID)
