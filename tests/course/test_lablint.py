"""A lab's tests keep to builtins, their own names and the declared ones; no other cell needs a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
        [FINE, (":tags: [measure]", "rate = double(3)"), (":tags: [measure]", "print(rate)")],
    ],
)
def test_not_refused(cells: list[tuple[str, str]], tmp_path: Path) -> None:
    read_lab(write_lab(tmp_path, lab(*cells)))


def test_release_refuses_such_a_lab(tmp_path: Path) -> None:
    write_lab(tmp_path, LAB.replace("names: [double, triple]", "names: [triple]"))
    with pytest.raises(ReleaseError, match=r"lab\.md: cell 4, line \d+: this test reads 'double'"):
        learner_notebook(tmp_path, LAB_ID)
