"""Are a lab's tests right? They are tested like any program.

distlab course check-lab mod-107-lab-3              model answer, untouched starter, nonsense, known-wrong answers
distlab course check-lab mod-107-lab-3 --seeds 20   the model answer under twenty seeds of the tests' own randomness
distlab course check-lab mod-107-lab-3 --deep       twenty seeds, and mutants of the model answer; writes the report

All of it runs as submissions do: same sandboxes, same tests. The report of a deep check lies in `benchmarks/deep/`
and names the digest of what it was made from, so that a report of another lab than today's is found out. A deep
check that was cut goes on where it was (`deep.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tyro.conf import Positional

from distlab.course.atomic import write_atomic
from distlab.course.bank import WrongAnswer, check_bank, wrong_answers
from distlab.course.deep import DEEP_SEEDS, Journal, deep_report
from distlab.course.findings import Finding
from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import focused, lab_work
from distlab.course.grade.submission import parse_notebook
from distlab.course.grade.work import OWN_FAULT, Cell, Graded, Result, Verdict, Work
from distlab.course.lablint import defined
from distlab.course.labsource import LabError, cell_place, hidden_messages
from distlab.course.proved import report_path
from distlab.course.release import ReleaseError, check_lab_exists, learner_notebook, source_path
from distlab.course.survivors import LEAST_KILLED
from distlab.errors import SettingError

MODEL_S, WRONG_S = 60.0, 15.0
"""Seconds within which the tests of a model answer, and those that a wrong answer fails, must be through."""

BANK = "bank of wrong answers"

NONSENSE = {
    "None": ("None", "None"),
    "zeros": ("0", "0"),
    "NaN": ("float('nan')", "float('nan')"),
    "true": ("True", "True"),
    "empty texts": ("''", "''"),
    "empty lists": ("[]", "[]"),
    "lists of empty lists": ("[[], [], [], []]", "[[], [], [], []]"),
    "empty tables": ("{}", "{}"),
    "empty tensors": ("__import__('torch').empty(0)", "__import__('torch').empty(0)"),
    "echoes": ("given[0] if given else named", "{}"),
    "objects that have everything": ("Everything()", "Everything()"),
}
"""What learners' names may be though nothing was done: what a function gives, and what any other name is."""

EVERYTHING = """
class Everything:
    __call__ = __getitem__ = lambda self, *given, **named: self
    __len__ = lambda self: 0
    __iter__ = lambda self: iter(())
    __contains__ = lambda self, item: True
    def __getattr__(self, name):
        return self
"""

Check = Callable[[], Finding]


def check_lab(lab: Positional[str], root: Path = Path("."), seeds: int = 1, deep: bool = False) -> int:
    """Are a lab's tests right: model answer, untouched starter, nonsense, wrong answers, seeds, mutants?

    Args:
        lab: its id, such as mod-107-lab-3.
        root: the repository.
        seeds: how many seeds of the tests' own randomness the model answer must pass.
        deep: twenty seeds, and mutants; writes the report into benchmarks/deep/.
    """
    check_lab_exists(root, lab)
    problems = 0
    started = time.perf_counter()
    try:
        with Children() as children:
            children.get_ready()  # the first check's time is its own
            journal = Journal(root, lab) if deep else None
            for what, check in checks(root, lab, max(seeds, DEEP_SEEDS if deep else 1), children):
                finding = journal.find(what, check) if journal else check()
                problems += bool(finding.problem or finding.late)
                print(finding, flush=True)
            if journal and not problems:
                report = deep_report(root, lab, journal, children)
                path = report_path(root, lab)
                write_atomic(path, (json.dumps(report, indent=1) + "\n").encode(), 0o644)
                print(f"{path}: {report['killed']} of {report['mutants']} mutants killed, ", end="")
                print(f"{len(report['explained'])} explained: {report['share']:.1%}")
                problems += report["share"] < LEAST_KILLED
    except (LabError, ReleaseError) as error:
        raise SettingError(str(error)) from error
    print(f"{lab}: {problems or 'no'} problem{'s' * (problems != 1)} ({time.perf_counter() - started:.0f} s)")
    return 1 if problems else 0


def checks(root: Path, lab: str, seeds: int, children: Children) -> Iterator[tuple[str, Check]]:
    """Every check but the mutants, by name. Raises `LabError` where the source itself is wrong."""
    model = lab_work(root, lab, display=False)
    answers = wrong_answers(root, lab)
    for problem in check_bank(answers, model):
        yield BANK, partial(Finding, BANK, problem=problem)
    for seed in range(seeds):
        yield f"model answer, seed {seed}", partial(check_model, model, seed, children)
    yield "untouched starter", partial(check_starter, root, lab, children)
    for kind in NONSENSE:
        yield f"nonsense, {kind}", partial(check_nonsense, model, kind, children)
    for answer in answers:
        yield f"wrong/{answer.name}", partial(check_wrong, model, answer, children)


def check_model(model: Work, seed: int, children: Children) -> Finding:
    """The model answer passes every test."""
    result, seconds = _graded(replace(model, seed=seed), children)
    problems = [_said(cell) for cell in result.cells if cell.verdict != Verdict.PASSED]
    return Finding(f"model answer, seed {seed}", seconds, MODEL_S, "; ".join(problems))


def check_starter(root: Path, lab: str, children: Children) -> Finding:
    """What learners get earns nothing."""
    notebook = parse_notebook(learner_notebook(root, lab))
    result, seconds = _graded(lab_work(root, lab, notebook, display=False), children)
    problems = [_said(cell) for cell in result.cells if cell.points or cell.verdict == Verdict.NOT_GRADABLE]
    return Finding("untouched starter", seconds, problem="; ".join(problems))


def check_nonsense(model: Work, kind: str, children: Children) -> Finding:
    """Declared names that are all nonsense of a kind, some of it of the right type, earn nothing.

    What is a function in the model answer is one that gives nonsense.
    """
    given, value = NONSENSE[kind]
    functions = {name for cell in model.cells if not cell.is_test for name in defined(cell.source)}
    lines = [
        f"{name} = lambda *given, **named: {given}" if name in functions else f"{name} = {value}"
        for name in model.names
    ]
    tests = [cell for cell in model.cells if cell.is_test]
    result, seconds = _graded(replace(model, cells=(Cell("\n".join([EVERYTHING, *lines])), *tests)), children)
    problems = [_said(cell) for cell in result.cells if cell.points or cell.verdict == Verdict.NOT_GRADABLE]
    return Finding(f"nonsense, {kind}", seconds, problem="; ".join(problems))


def check_wrong(model: Work, answer: WrongAnswer, children: Children) -> Finding:
    """Each test that must fail does, by an assertion of its own; the time is of the slowest of them."""
    changed = answer.put_into(model)
    tests = {cell.grade_id: cell for cell in model.cells if cell.is_test}
    problems, seconds = [], 0.0
    for name in answer.fails:
        if name not in tests:
            continue  # the check of the bank says so
        result, each_s = _graded(focused(changed, [name]), children)
        seconds = max(seconds, each_s)
        (cell,) = result.cells
        if cell.verdict != Verdict.FAILED or cell.message not in hidden_messages(tests[name].source):
            problems.append(f"should fail by an assertion: {_said(cell)}")
    return Finding(f"wrong/{answer.name}", seconds, WRONG_S, "; ".join(problems))


def _graded(work: Work, children: Children) -> tuple[Result, float]:
    started = time.perf_counter()
    return grade(work, children), time.perf_counter() - started


def _said(cell: Graded) -> str:
    points = f"{cell.points:g} of {cell.max_points:g} points"
    return f"{cell.grade_id} {cell.verdict}, {points}{': ' * bool(cell.message)}{cell.message}"


def refuse_failing_model(root: Path, lab: str) -> None:
    """Raises `ReleaseError`, naming the cell of a test that the model answer does not pass.

    Raises `SandboxFailed` where a fault of the machine left one ungraded: that says nothing about the lab.
    """
    with Children() as children:
        result, _ = _graded(lab_work(root, lab, display=False), children)
    for cell in result.cells:
        if cell.verdict == Verdict.NOT_GRADABLE and cell.message != OWN_FAULT:
            raise SandboxFailed(f"{cell.grade_id}: {cell.message}")
        if cell.verdict != Verdict.PASSED:
            place = cell_place(source_path(root, lab), cell.grade_id)
            error = place.error(
                f"the test {cell.grade_id!r} does not pass on the model answer: {_said(cell)}"
            )
            raise ReleaseError(str(error))
