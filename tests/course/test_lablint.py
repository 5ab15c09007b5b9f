"""A lab's tests keep to builtins, their own names and the declared ones; no other cell needs a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from distlab.course.grade.labwork import lab_work
from distlab.course.grade.work import Work
from distlab.course.lablint import global_names
from distlab.course.labsource import LabError, read_lab
from distlab.course.release import ReleaseError, learner_notebook
from tests.course.small_lab import HEADER, LAB, LAB_ID, write_lab

FREE = {
    "x": {"x"},
    "x = 1\ny = x": set(),
    "[a for a in b if (c := a)]\nprint(c)": {"b", "print"},
    "[a for a in a]": {"a"},
    "{k: v + w for k, v in z.items()}": {"w", "z"},
    "def f(a, b=d, *c, e: g = h, **i) -> j:\n    k = a\n    return k + l": {"d", "g", "h", "j", "l"},
    "def f():\n    def g():\n        nonlocal h\n        return h + i\n    h = 1\n    return g": {"i"},
    "def f():\n    global x\n    x = 1\nf()\nprint(x)": {"print"},
    "def f():\n    global x\n    return x": {"x"},
    "lambda p, q=r: p + s": {"r", "s"},
    "class A(B, metaclass=C):\n    x = y\n    def m(self):\n        return x": {"B", "C", "y", "x"},
    "class A:\n    x = 1\n    y = x": set(),
    "try:\n    a()\nexcept E as e:\n    print(e)": {"a", "E", "print"},
    "del x": set(),
    "match v:\n    case {'a': a, **rest}:\n        a, rest\n    case P(x=[b, *c]) if d:\n        b, c": {
        "v",
        "P",
        "d",
    },
    "import os.path, a.b as c\nfrom d import e as f\nos, c, f, e": {"e"},
    "with open(n) as f:\n    f": {"open", "n"},
    "for i, (j, *k) in m:\n    i, j, k": {"m"},
    "x: T = 1\nx += u": {"T", "u"},
    "f'{a!r:{b}}'": {"a", "b"},
    "@deco\nasync def f():\n    async with g as h:\n        return [await i async for i in h]": {"deco", "g"},
}


@pytest.mark.parametrize("source", FREE, ids=[f"{i}" for i in range(len(FREE))])
def test_free_names(source: str) -> None:
    assert global_names(source).free == FREE[source]


def test_a_name_that_a_class_body_reads_and_makes_may_be_one_from_outside() -> None:
    names = global_names("class A:\n    x = x")
    assert names.perhaps == {"x"}


def lab(*cells: tuple[str, str], names: str = "[double]") -> str:
    """A lab of code cells: (metadata of nbgrader, or what stands in its place; source)."""
    text = HEADER.replace("kernelspec:", f"distlab: {{names: {names}}}\nkernelspec:")
    for options, source in (("", "def double(x):\n    return 2 * x"), *cells):
        text += f"```{{code-cell}} ipython3\n{options}\n\n{source}\n```\n\n"
    return text


def timed(*cells: tuple[str, str], names: str = "[double]") -> str:
    """The same as a timed lab."""
    return lab(*cells, names=names).replace("]}", "], timed: true}", 1)


LOCKED = ':nbgrader: {"grade_id": "l", "locked": true}'
VISIBLE = ':nbgrader: {"grade_id": "t", "grade": true, "points": 1}'
HIDDEN = ':nbgrader: {"grade_id": "h", "grade": true, "points": 1}'
FINE = (VISIBLE, 'assert double(2) == 4, "no"')
REFUSED = {
    "undeclared": (
        lab(("", "tool = 1"), (VISIBLE, "y = 1\nassert double(y) == tool")),
        "cell 3, at 'assert double(y) == tool': this test reads 'tool': it is no builtin",
    ),
    "undeclared in a hidden test's function": (
        lab(
            FINE,
            (
                HIDDEN,
                "### BEGIN HIDDEN TESTS\ndef f():\n    return np.ones(1)\n\nassert f(), 'no'\n### END HIDDEN TESTS",
            ),
        ),
        "cell 3, at '    return np.ones(1)': this test reads 'np'",
    ),
    "added by IPython": (lab((VISIBLE, "display(double(1))")), "this test reads 'display'"),
    "a test makes a declared name": (
        lab((VISIBLE, "double = abs\nassert double(1)")),
        "cell 2, at 'double = abs': this test makes 'double', which the header declares as the learner's",
    ),
    "star import": (
        lab((VISIBLE, "x = 1\nfrom math import *")),
        "cell 2, at 'from math import *': a test imports by name, not 'from math import *'",
    ),
    "a zip that ends with the shortest": (
        lab((VISIBLE, "got = double([1])\nassert all(a == b for a, b in zip(got, [2]))")),
        "cell 2, at 'assert all(a == b for a, b in zip(got, [2]))': a test's zip says strict=True, or strict=False, "
        "unlike 'zip(got, [2])'",
    ),
    "a zip of rows": (
        lab((VISIBLE, "assert list(zip(*double([[1]])))")),
        "cell 2, at 'assert list(zip(*double([[1]])))': a test's zip says strict=True",
    ),
    "baseline in a lab that is not timed": (
        lab(FINE, (VISIBLE.replace('"t"', '"u"'), "assert baseline.double(1) == 2")),
        "this test reads 'baseline'",
    ),
    "baseline of a cell that is not locked": (
        timed((VISIBLE, "assert baseline.double(1) == double(1)")),
        "cell 2, at 'assert baseline.double(1) == double(1)': baseline.double needs 'double', and no cell makes it "
        "that is locked and no solution",
    ),
    "baseline that needs a solution": (
        timed(
            (LOCKED, "def slow(x):\n    return double(x)"),
            (VISIBLE, "assert double(1)\nassert baseline.slow(1)"),
        ),
        "cell 3, at 'assert baseline.slow(1)': baseline.slow needs 'double'",
    ),
    "baseline that the learner makes": (
        timed(("", "baseline = 1"), FINE, names="[double, baseline]"),
        "the header declares 'baseline', which a timed lab has already",
    ),
    "baseline that the test makes": (
        timed((VISIBLE, "baseline = 1\nassert double(1)")),
        "cell 2, at 'baseline = 1': this test makes 'baseline', which a timed lab has already",
    ),
    "magic in a test": (
        lab((VISIBLE, "%timeit double(1)")),
        "cell 2, at '%timeit double(1)': not plain Python",
    ),
    "broken source": (lab(FINE, ("", "x = 1\nif x\n    pass")), "cell 3, at 'if x': not plain Python"),
    "declared builtin": (lab(FINE, names="[double, all]"), "declares 'all', which is Python's own name"),
    "declared dunder": (lab(FINE, names="[double, __name__]"), "declares '__name__'"),
    "declared keyword": (lab(FINE, names="[double, lambda]"), "declares 'lambda'"),
    "declared twice": (lab(FINE, names="[double, double]"), "declares 'double' twice"),
    "declared and made nowhere": (
        lab(FINE, names="[double, triple]"),
        "the header declares 'triple', and no cell makes it",
    ),
    "declared and made by a test": (
        lab(FINE, (HIDDEN, "other = 1\nassert other"), names="[double, other]"),
        "'other', which the header declares as the learner's",
    ),
    "another cell needs a test": (
        lab((VISIBLE, "seen = double(2)\nassert seen == 4"), ("", "print(1)\nprint(seen)")),
        "cell 3, at 'print(seen)': 'seen' is read here, and only a test makes it",
    ),
    "a test needs a measurement": (
        lab(
            (":tags: [measure]", "rate = double(3)"),
            ("", "def speed():\n    return rate"),
            (VISIBLE, "assert speed() == 6"),
            names="[speed]",
        ),
        "cell 2, at 'rate = double(3)': this cell is tagged `measure` and makes 'rate', which a test needs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_cell_line_and_name(case: str, tmp_path: Path) -> None:
    text, why = REFUSED[case]
    path = write_lab(tmp_path, text)
    with pytest.raises(LabError) as refused:
        read_lab(path)
    where, number, what = re.split(r", line (\d+): ", str(refused.value), maxsplit=1)
    line = text.split("\n")[int(number) - 1]
    assert why in f"{where}, at {line!r}: {what}"
    assert where.startswith(f"{path}: cell ")


@pytest.mark.parametrize(
    "cells",
    [
        [FINE],
        [(VISIBLE, "import math as m\n\nfor i in range(2):\n    assert double(i) == 2 * m.floor(i)")],
        [FINE, ("", "%matplotlib inline\n!ls\nx = await double(1)")],
        [(VISIBLE, "seen = 1"), ("", "seen = 2"), ("", "print(seen)")],
        [
            (
                VISIBLE,
                "assert list(zip([1], double([1]), strict=False)) == list(zip([1], [2], strict=True)) == zip([1])",
            )
        ],
        [FINE, (":tags: [measure]", "rate = double(3)"), (":tags: [measure]", "print(rate)")],
    ],
)
def test_not_refused(cells: list[tuple[str, str]], tmp_path: Path) -> None:
    read_lab(write_lab(tmp_path, lab(*cells)))


def test_what_the_baseline_of_a_timed_lab_runs(tmp_path: Path) -> None:
    def locked(name: str) -> str:
        return LOCKED.replace('"l"', f'"{name}"')

    given = [
        "import math, torch",
        "torch.set_num_threads(1)",
        "def slow(x):\n    return math.floor(x) + other",
        "other = 0",
        "not_needed = 1",
        "print(double(1))",
    ]
    cells = [(locked(f"given{i}"), source) for i, source in enumerate(given)]
    solution = (
        ':nbgrader: {"grade_id": "s", "solution": true}',
        "### BEGIN SOLUTION\nother = 2\n### END SOLUTION",
    )
    text = timed(*cells, solution, (VISIBLE, "assert baseline.slow(1) == 1"))
    write_lab(tmp_path, text)
    work = lab_work(tmp_path, LAB_ID)
    assert (work.timed, list(work.baseline)) == (True, given[:4])
    assert Work.from_json(json.loads(json.dumps(work.to_json()))) == work
    write_lab(tmp_path, text.replace(", timed: true", "").replace("baseline.slow", "double"))
    work = lab_work(tmp_path, LAB_ID)
    assert (work.timed, work.baseline) == (False, ())


def test_release_refuses_such_a_lab(tmp_path: Path) -> None:
    write_lab(tmp_path, LAB.replace("names: [double, triple]", "names: [triple]"))
    with pytest.raises(ReleaseError, match=r"lab\.md: cell 4, line \d+: this test reads 'double'"):
        learner_notebook(tmp_path, LAB_ID)
