"""The test process: what each test comes to, and what stops a run."""

import time
from pathlib import Path

import pytest

from distlab.course.grade.testing import Stop, complete, reports
from distlab.course.grade.wire import Closed
from distlab.course.grade.work import Cell, Graded, Kind, Limits, Verdict, Work
from tests.course import forks_rig
from tests.course.testing_rig import (
    BRIEF,
    CHECK,
    COULD_NOT,
    LIMITS,
    NOTEBOOK,
    OWN_FAULT,
    RAISED,
    E,
    F,
    N,
    P,
    driving,
    graded,
    hidden,
    message,
    work,
)

ENDINGS: list[tuple[str, Verdict, str]] = [
    ("assert value == 3, 'no'", P, ""),
    ("", P, ""),
    ("# nothing\n", P, ""),
    ("assert value == 4, 'value is not 4'", F, "value is not 4"),
    ("assert value == 4", F, CHECK),
    ("assert value == 4, value", F, CHECK),
    ("assert value == 4, text", F, CHECK),
    ("assert value == 4, f'it is {value}, not {2 + 2!r:>5}!'", F, "it is …, not …!"),
    ("assert value == 4, 'it is ' + str(value)", F, "it is …"),
    ("assert value == 4, f'{value}'", F, "…"),
    ("assert value == 4, ('two '\n  'lines')", F, "two lines"),
    ("assert (\n  value\n  == 4\n), (\n  'over lines'\n)", F, "over lines"),
    ("assert value == 3, 'one'; assert value == 4, 'two'; assert value == 5, 'three'", F, "two"),
    ("for i in range(3):\n    if i == 2:\n        assert double(i) == 0, 'inside'", F, "inside"),
    ("def check(x):\n    assert x == 4, 'in a function'\ncheck(value)", F, "in a function"),
    ("def check(x):\n    assert x == 4, 'inner'\n\nassert check(value), 'outer'", F, "inner"),
    ("check = lambda x: x == 4\nassert check(value), 'lambda'", F, "lambda"),
    ("assert all(x < 3 for x in numbers), 'generator'", F, "generator"),
    ("raise AssertionError('raised')", F, "raised"),
    ("raise AssertionError(f'raised {value}')", F, "raised …"),
    ("raise AssertionError", F, CHECK),
    ("raise AssertionError(text)", F, CHECK),
    ("error = AssertionError('kept')\nraise error", F, CHECK),
    ("try:\n    raises('ValueError')\nexcept Exception:\n    raise AssertionError('fails') from None", F, "fails"),
    ("try:\n    raises('KeyError')\nexcept KeyError:\n    pass\nelse:\n    assert False, 'no error'", P, ""),
    ("try:\n    raises('KeyError')\nexcept ValueError:\n    pass", E, RAISED),
    ("try:\n    double(1)\nexcept KeyError:\n    pass\nelse:\n    assert False, 'no error'", F, "no error"),
    ("import numpy\nnumpy.testing.assert_allclose(array, [0, 1, 3], err_msg='not close')", F, "not close"),
    ("import numpy\nnumpy.testing.assert_allclose(array, [0, 1, 3])", F, CHECK),
    ("import torch\ntorch.testing.assert_close(tensor, tensor + 1, msg='not close')", F, "not close"),
    ("assert value == 4, f'{nothing:.2f} is wrong'", F, "… is wrong"),
    ("assert value == 4, 'x' * 10**6", F, CHECK),
    ("raises('ValueError')", E, RAISED),
    ("raises('SystemExit')", E, RAISED),
    ("raises('Exception')", E, RAISED),
    ("raises('BufferError')", E, RAISED),
    ("raises('AssertionError')", E, RAISED),
    ("raises_own()", E, RAISED),
    ("double()", E, RAISED),
    ("for x in none(3): pass", F, COULD_NOT),
    ("assert none(3) > 4, 'compared'", F, COULD_NOT),
    ("assert table['b'] == 1, 'no b'", F, COULD_NOT),
    ("assert numbers[7] == 1, 'too short'", F, COULD_NOT),
    ("assert lie(3), 'truth'", F, COULD_NOT),
    ("assert lie(3) == 6, 'equal'", F, "equal"),
    ("assert lie(3) < 6, 'less'", F, COULD_NOT),
    ("assert 6 == lie(3), 'equal'", F, "equal"),
    ("class Own(Exception): pass\nraise Own('x')", F, COULD_NOT),
    ("raise SystemExit", F, COULD_NOT),
    ("exit()", F, COULD_NOT),
    ("assert undefined == 3, 'never'", F, "Your notebook does not define undefined."),
    ("def f(): return undefined\nf()", F, "Your notebook does not define undefined."),
    ("try:\n    undefined\nexcept NameError:\n    pass", P, ""),
    ("assert undeclared == 3, 'never'", F, COULD_NOT),
    ("import nothing_of_this_name", N, OWN_FAULT),
    ("from math import nothing_of_this_name", N, OWN_FAULT),
    ("assert (", N, OWN_FAULT),
    ("await double(3)", N, OWN_FAULT),
    ("return 3", N, OWN_FAULT),
    ("import ast\nast.parse('def')", F, COULD_NOT),
    ("double(print)", F, COULD_NOT),
    ("double(lambda: 3)", F, COULD_NOT),
    ("assert double(5) == 10 and double([1]) == [1, 1], 'double'", P, ""),
    ("assert [*items()] == [0, 1, 2], 'items'", P, ""),
    ("assert tensor.tolist() == [0, 1, 2] and array.sum() == 3, 'arrays'", P, ""),
    ("import torch\nassert torch.equal(double(tensor), 2 * tensor), 'tensors'", P, ""),
    # Names: builtins, own definitions and imports win; each test has a namespace of its own.
    ("assert all([True]) and print is not None and not all([False]), 'builtins'", P, ""),
    ("value = 7\nassert value == 7, 'own'", P, ""),
    ("def double(x): return 7\nassert double(1) == 7, 'own'", P, ""),
    ("import math as double\nassert double.pi > 3, 'own'", P, ""),
    ("left_behind = 3", P, ""),
    ("left_behind", F, COULD_NOT),
    ("numbers.append(4)\nassert numbers == [1, 2, 3, 4], 'append'", P, ""),
    ("assert numbers == [1, 2, 3], 'as it is over there'", P, ""),
    ("looks.append(1); assert looks == [1] == looks, 'one look'", P, ""),
    ("assert look() == 1 and look() == 2, 'each call is one'", P, ""),
    ("from dataclasses import dataclass\n@dataclass\nclass D:\n    x: 'int'\nassert D(1).x == 1, 'dataclass'", P, ""),
    ("def f(x: int): pass\nassert f.__annotations__ == {'x': int}, 'no flags of another module'", P, ""),
    ("import warnings\nwarnings.simplefilter('error')", P, ""),
    ("import warnings\nwarnings.warn('of a test before')", P, ""),
    # What a test prints goes nowhere, wherever from.
    ("import sys, os, warnings\nprint(value); print(value, file=sys.stderr); warnings.warn('x')", P, ""),
]  # fmt: skip


def test_how_tests_end(tmp_path: Path) -> None:
    """All in one run: no test has any effect on those after it."""
    tests = [hidden(source, f"t{number}") for number, (source, _, _) in enumerate(ENDINGS)]
    found, stop = graded(tmp_path, work(Cell(NOTEBOOK), *tests))
    assert stop is None
    assert [report.grade_id for report in found] == [test.grade_id for test in tests]
    for (source, verdict, said), report in zip(ENDINGS, found, strict=True):
        assert message(report) == (verdict, said), source
    assert "SECRET" not in "".join(report.message for report in found)


def test_no_later_cell_takes_the_place_of_what_a_cell_keeps(tmp_path: Path) -> None:
    """What it calls is the learner's own, as late as the test."""
    given = Cell("def double(x): return twice(x)", "harness", keeps=("double", "not_made"))
    own = Cell("def twice(x): return 2 * x")
    forged = Cell("def double(x): return 6 if x == 3 else 'echo'\ndef items(): return 'mine'\ndel twice")
    test = hidden("assert double(5) == 10, 'of the given cell'")
    for cells, verdict in (([own], P), ([own, forged], E), ([forged, own], P)):
        found, _ = graded(tmp_path, work(given, *cells, test))
        assert found[0].verdict == verdict
    found, _ = graded(tmp_path, work(given, own, forged, hidden("assert items() == 'mine', 'their own'")))
    assert found[0].verdict == P


CHOOSER = """
import builtins, itertools, time
def raising(error):
    def choice(): raise error
    return choice
errors = [kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
errors = [kind for kind in errors if not issubclass(kind, (UnicodeError, BaseExceptionGroup))]
errors += [type(name, (kind,), {}) for name, kind in [("A", ValueError), ("B", Exception), ("C", BaseException)]]
values = [21, 22, 0, -1, float("nan"), None, True, "", "21", b"", [], [21], {}, (), object(), len, 10**400, 1j]
choices = [lambda value=value: value for value in values] + [raising(kind()) for kind in errors]
choices += [lambda: "x" * 10**8, lambda: time.sleep(1000), lambda: globals().pop("double")]
left = iter(choices)
def double(x): return next(left)()
"""
"""What the learner's code can do about a hidden argument, once per test; in the end its name is gone."""


@pytest.mark.parametrize("kind", [Kind.HIDDEN, Kind.VISIBLE])
def test_how_much_a_test_can_tell(tmp_path: Path, kind: Kind) -> None:
    """The endings among which the learner's code chooses, but for those that end the run: 2.8 bits."""
    tests = [Cell("assert 20 < double(10.5) < 22, 'wrong'", f"t{number}", kind, 4) for number in range(120)]
    found, stop = graded(tmp_path, work(Cell(CHOOSER), *tests, limits=BRIEF))
    assert stop is None
    assert {message(report) for report in found} == {
        (P, ""),
        (F, "wrong"),
        (F, COULD_NOT),
        (F, "Your notebook does not define double."),
        (E, RAISED),
        (Verdict.TIMEOUT, "Your code took too long."),
        (Verdict.OUTPUT, "Your code gave back too much data."),
    }


@pytest.mark.parametrize("kind", [Kind.HIDDEN, Kind.VISIBLE])
def test_the_last_expression_is_partial_credit(tmp_path: Path, kind: Kind) -> None:
    partial = Verdict.PARTIAL
    cases: list[tuple[str, Verdict, float]] = [
        ("4", P, 4),
        ("4.0", P, 4),
        ("2.5", partial, 2.5),
        ("1", partial, 1),
        ("0", F, 0),
        ("0.0", F, 0),
        ("x = 1", P, 4),
        ("1\nx = 3", P, 4),
        ("None", P, 4),
        ("True", F, 0),
        ("False", F, 0),
        ("'1'", F, 0),
        ("[1]", F, 0),
        ("double", F, 0),
        ("lie()", F, 0),
        ("5", F, 0),
        ("-1", F, 0),
        ("float('nan')", F, 0),
        ("4 * fraction(9)", F, 0),
        ("4 * fraction(float('nan'))", F, 0),
        ("4 * fraction(0.25)", partial, 1),
        ("import numpy\nnumpy.float32(0.5)", partial, 0.5),
        ("import torch\ntorch.tensor(3)", partial, 3),
        ("tensor.sum()", partial, 3),
        ("tensor", F, 0),
        ("assert value == 3, 'no'\n2", partial, 2),
        ("assert value == 4, 'no'\n2", F, 0),
        ("def f(): return 3\nf()", partial, 3),
    ]
    tests = [Cell(source, f"t{number}", kind, 4) for number, (source, _, _) in enumerate(cases)]
    found, _ = graded(tmp_path, work(Cell(NOTEBOOK), *tests))
    for (source, verdict, points), report in zip(cases, found, strict=True):
        assert (report.verdict, report.points, report.max_points) == (verdict, points, 4), source


def test_tests_have_a_seed_of_their_own(tmp_path: Path) -> None:
    drawn = "import random, numpy, torch\n[random.random(), numpy.random.rand(), torch.rand(1).item()]"
    check = f"{drawn}\nassert _drawn({drawn.splitlines()[1]}) is None, 'seed'"
    learner = "def _drawn(x): drawn.append(x)\ndrawn = []"
    given = Work(
        "lab",
        (
            Cell(learner),
            *[hidden(check, f"t{n}") for n in range(2)],
            hidden("assert drawn[0] == drawn[1], 'same'"),
        ),
        names=("_drawn", "drawn"),
        limits=LIMITS,
        seed=2**40,
    )
    found, _ = graded(tmp_path, given)
    assert [report.verdict for report in found] == [P, P, P]


def test_cells_run_in_order_and_measurements_do_not(tmp_path: Path) -> None:
    given = work(
        Cell("value = 1"),
        hidden("assert value == 1, 'one'", "a"),
        Cell("value = 2"),
        Cell("value = 3", measure=True),
        Cell("1 / 0\nvalue = 4"),
        hidden("assert value == 2, 'two'", "b"),
        Cell("import pathlib; text = pathlib.Path('x.txt').read_text()"),
        hidden("assert text == 'hi', 'file'", "c"),
        files={"x.txt": "aGk="},
    )
    found, stop = graded(tmp_path, given)
    assert [report.verdict for report in found] == [P, P, P]
    assert stop is None


def test_time_is_up_for_calls_and_for_tests_and_the_run_goes_on(tmp_path: Path) -> None:
    too_long, test_too_long = "Your code took too long.", "The test took too long with what your code gave."
    cases = [
        ("slow()", too_long),
        ("try:\n    slow()\nexcept Exception:\n    pass", too_long),
        ("try:\n    slow()\nexcept BaseException:\n    pass", too_long),
        ("try:\n    slow()\nfinally:\n    raise AssertionError('other')", too_long),
        ("while True: pass", test_too_long),
        ("while True:\n    try:\n        while True: pass\n    except Exception: pass", test_too_long),
        ("import time\nwhile True: time.sleep(1000)", test_too_long),
        ("try:\n    while True: pass\nexcept BaseException:\n    pass", test_too_long),
    ]
    tests = [hidden(source, f"t{number}") for number, (source, _) in enumerate(cases)]
    given = work(
        Cell("import time\ndef slow(): time.sleep(1000)"), *tests, hidden("1 + 1", "last", 2), limits=BRIEF
    )
    found, stop = graded(tmp_path, given)
    assert stop is None
    for (source, said), report in zip(cases, found[:-1], strict=True):
        if "BaseException" in source and "while" in source:
            assert report.verdict in (Verdict.TIMEOUT, P), source  # ended in time, whatever it made of that
        else:
            assert message(report) == (Verdict.TIMEOUT, said), source
    assert found[-1].verdict == P


def test_too_much_data_is_a_verdict_and_the_run_goes_on(tmp_path: Path) -> None:
    found, stop = graded(tmp_path, work(Cell(NOTEBOOK), hidden("huge()", "a"), hidden("4", "b")))
    assert message(found[0]) == (Verdict.OUTPUT, "Your code gave back too much data.")
    assert found[1].verdict == P
    assert stop is None


@pytest.mark.parametrize(
    ("cell", "verdict", "said"),
    [
        ("while True: pass", Verdict.TIMEOUT, "Your code took too long."),
        ("import os; os._exit(0)", Verdict.ERROR, "Your code's process ended."),
    ],
)
def test_a_cell_that_does_not_come_back_stops_the_run(
    tmp_path: Path, cell: str, verdict: Verdict, said: str
) -> None:
    given = work(
        Cell("x = 1"), hidden("4", "a"), Cell(cell), hidden("4", "b"), hidden("4", "c"), limits=BRIEF
    )
    found, stop = graded(tmp_path, given)
    assert [report.grade_id for report in found] == ["a"]
    assert stop == Stop(2, verdict, said)
    cells = complete(given, found, stop)
    assert [(report.grade_id, report.verdict, report.points) for report in cells] == [
        ("a", P, 4), ("b", verdict, 0), ("c", verdict, 0),
    ]  # fmt: skip


def test_a_call_that_ends_the_process_stops_the_run(tmp_path: Path) -> None:
    source = "def end():\n    import os\n    os._exit(0)"
    given = Work(
        "lab",
        (Cell(source), hidden("4", "a"), hidden("end()", "b"), hidden("4", "c")),
        ("end",),
        limits=LIMITS,
    )
    found, stop = graded(tmp_path, given)
    assert [report.grade_id for report in found] == ["a"]
    assert stop is not None
    assert (stop.step, stop.verdict) == (2, Verdict.ERROR)


def test_the_run_stops_where_the_display_pass_did(tmp_path: Path) -> None:
    given = work(Cell("x = 1"), hidden("4", "a"), Cell("1"), hidden("4", "b"))
    before = Stop(2, Verdict.MEMORY, "Your code needed more than 1 MiB of memory.")
    found, stop = graded(tmp_path, given, before)
    assert [report.grade_id for report in found] == ["a"]
    assert stop == before


def test_all_cells_together_have_a_limit(tmp_path: Path) -> None:
    limits = Limits(cell_s=100.0, wall_s=3.0, start_s=100.0)
    given = work(
        Cell("import time"), hidden("4", "a"), Cell("time.sleep(1000)"), hidden("4", "b"), limits=limits
    )
    found, stop = graded(tmp_path, given)
    assert [report.grade_id for report in found] == ["a"]
    assert stop is not None
    assert (stop.step, stop.verdict) == (2, Verdict.TIMEOUT)


def test_what_was_reported_stands_when_the_test_process_dies(tmp_path: Path) -> None:
    given = work(Cell("x = 1"), hidden("4", "a"), hidden("import os; os._exit(1)", "b"), hidden("4", "c"))
    with forks_rig.session(tmp_path) as learner, driving(learner) as control:
        found = reports(control, given, None, time.monotonic() + 600)
        assert next(found) == Graded("a", P, 4, 4)
        with pytest.raises(Closed):
            next(found)
