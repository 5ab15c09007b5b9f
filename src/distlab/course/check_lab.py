"""Are a lab's tests right? They are tested like any program.

distlab course check-lab mod-107-lab-3              model answer, untouched starter, nonsense, known-wrong answers
distlab course check-lab mod-107-lab-3 --seeds 20   the model answer under twenty seeds of the tests' own randomness
distlab course check-lab mod-107-lab-3 --deep       twenty seeds, and mutants of the model answer; writes the report

All of it runs as submissions do: same sandboxes, same tests. The report of a deep check lies in `benchmarks/deep/`
and names the digest of what it was made from, so that a report of another lab than today's is found out.
"""

from __future__ import annotations

import ast
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from distlab.course.atomic import write_atomic
from distlab.course.bank import WrongAnswer, check_bank, wrong_answers
from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import focused, lab_work
from distlab.course.grade.submission import parse_notebook
from distlab.course.grade.work import OWN_FAULT, Cell, Graded, Kind, Limits, Result, Verdict, Work
from distlab.course.lablint import as_python
from distlab.course.labsource import LabError, cell_place, hidden_messages
from distlab.course.mutants import Mutant, mutants_of
from distlab.course.proved import inputs_digest, report_path
from distlab.course.release import ReleaseError, learner_notebook, source_path
from distlab.course.survivors import LEAST_KILLED, read_explanations, survival
from distlab.errors import SettingError

MODEL_S, WRONG_S = 60.0, 15.0
"""Seconds within which the tests of a model answer, and those that a wrong answer fails, must be through."""

DEEP_SEEDS = 20

NONSENSE = {
    "None": ("None", "None"),
    "zeros": ("0", "0"),
    "empty texts": ("''", "''"),
    "empty lists": ("[]", "[]"),
    "echoes": ("given[0] if given else named", "{}"),
}
"""What learners' names may be though nothing was done: what a function gives, and what any other name is."""

MUTANT = Limits(cell_s=60.0, wall_s=120.0)
"""A mutant may loop for ever: it need not do so for long."""


@dataclass(frozen=True)
class Finding:
    """One check: what was checked, the seconds that it took and may take, and what is wrong, if anything is."""

    what: str
    seconds: float = 0.0
    limit_s: float = math.inf
    problem: str = ""

    def __str__(self) -> str:
        said = [self.problem] if self.problem else []
        if self.late:
            said.append(f"takes longer than {self.limit_s:g} s")
        return f"{self.seconds:6.1f} s  {self.what}: {'; '.join(said) or 'as it should be'}"

    @property
    def late(self) -> bool:
        return self.seconds > self.limit_s


def check_lab(lab: Positional[str], root: Path = Path("."), seeds: int = 1, deep: bool = False) -> int:
    """Are a lab's tests right: model answer, untouched starter, nonsense, wrong answers, seeds, mutants?

    Args:
        lab: its id, such as mod-107-lab-3.
        root: the repository.
        seeds: how many seeds of the tests' own randomness the model answer must pass.
        deep: twenty seeds, and mutants; writes the report into benchmarks/deep/.
    """
    problems = 0
    started = time.perf_counter()
    findings: list[Finding] = []
    try:
        with Children() as children:
            for finding in findings_of(root, lab, max(seeds, DEEP_SEEDS if deep else 1), children):
                findings.append(finding)
                problems += bool(finding.problem or finding.late)
                print(finding, flush=True)
            if deep and not problems:
                report = deep_report(root, lab, findings, children)
                path = report_path(root, lab)
                write_atomic(path, (json.dumps(report, indent=1) + "\n").encode(), 0o644)
                print(f"{path}: {report['killed']} of {report['mutants']} mutants killed, ", end="")
                print(f"{len(report['explained'])} explained: {report['share']:.1%}")
                problems += report["share"] < LEAST_KILLED
    except (LabError, ReleaseError) as error:
        raise SettingError(str(error)) from error
    print(f"{lab}: {problems or 'no'} problem{'s' * (problems != 1)} ({time.perf_counter() - started:.0f} s)")
    return 1 if problems else 0


def findings_of(root: Path, lab: str, seeds: int, children: Children) -> Iterator[Finding]:
    """Every check but the mutants, as they come. Raises `LabError` where the source itself is wrong."""
    if not (root / "solutions" / lab / "lab.md").is_file():
        raise LabError(f"there is no lab {lab!r}: {root / 'solutions' / lab}/lab.md is missing")
    model = lab_work(root, lab, display=False)
    answers = wrong_answers(root, lab)
    yield from (Finding("bank of wrong answers", problem=problem) for problem in check_bank(answers, model))
    for seed in range(seeds):
        yield check_model(model, seed, children)
    yield check_starter(root, lab, children)
    for kind in NONSENSE:
        yield check_nonsense(model, kind, children)
    for answer in answers:
        yield check_wrong(model, answer, children)


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
    """Declared names that are all nonsense of a kind, some of it of the right type, earn nothing in hidden tests.

    What is a function in the model answer is one that gives nonsense.
    """
    given, value = NONSENSE[kind]
    functions = {name for cell in model.cells if not cell.is_test for name in _functions(cell.source)}
    lines = [
        f"{name} = lambda *given, **named: {given}" if name in functions else f"{name} = {value}"
        for name in model.names
    ]
    hidden = [cell for cell in model.cells if cell.kind == Kind.HIDDEN]
    result, seconds = _graded(replace(model, cells=(Cell("\n".join(lines)), *hidden)), children)
    problems = [_said(cell) for cell in result.cells if cell.points or cell.verdict == Verdict.NOT_GRADABLE]
    return Finding(f"nonsense, {kind}", seconds, problem="; ".join(problems))


def _functions(source: str) -> set[str]:
    """The functions and classes that a cell defines."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.parse(as_python(source)).body if isinstance(node, kinds)}


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


def deep_report(root: Path, lab: str, findings: list[Finding], children: Children) -> dict[str, Any]:
    """Run the mutants; the report with them and with what was found before. Prints each survivor."""
    work = lab_work(root, lab, display=False, limits=MUTANT)
    explanations = read_explanations(root, lab)
    all_mutants = mutants_of(work)
    done = 0

    def run(part: Work) -> dict[str, Verdict]:
        return {cell.grade_id: cell.verdict for cell in grade(part, children).cells}

    def each(mutant: Mutant, killed: bool) -> None:
        nonlocal done
        done += 1
        print(f"[{done}/{len(all_mutants)}] {'killed' if killed else 'lives'}: {mutant.id}", flush=True)
        if not killed:
            why = explanations.get(mutant.id, "NOT EXPLAINED")
            print(f"    line {mutant.line}: {mutant.before}\n    as {mutant.after}\n    {why}", flush=True)

    result = survival(work, all_mutants, explanations, run, each)
    for name in sorted(explanations.keys() - {mutant.id for mutant in result.explained}):
        print(
            f"survivors.yaml explains {name}, which {'is killed' if name in result.killed else 'is no mutant'}"
        )
    return {
        "lab": lab,
        "inputs": inputs_digest(root, lab),
        "seconds": {finding.what: round(finding.seconds, 1) for finding in findings},
        "mutants": len(all_mutants),
        "killed": len(result.killed),
        "explained": [mutant.id for mutant in result.explained],
        "unexplained": [mutant.id for mutant in result.unexplained],
        "share": round(result.share, 4),
    }
