"""Prove that the question banks are right.

distlab course check-quizzes              all banks in assessments/, with 200 learners' numbers each
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from distlab.course.labsource import LabError
from distlab.course.quiz.bank import Bank, BankError, Question, bank_paths, read_bank
from distlab.course.quiz.draw import LETTERS, Variant, draw
from distlab.course.quiz.expression import BUILTINS, Expression, ExpressionError, is_formula
from distlab.course.quiz.own import generic_notebook

SEEDS = 200
APART = 1.02
"""Numbers to choose from differ by 2% at the least, whatever they are rounded to."""
LEAST_KEYS = 4
"""So many different keys a number that is asked for must have among the seeds."""


def check_quizzes(root: Path = Path("."), seeds: int = SEEDS) -> int:
    """Are the question banks in `assessments/` right: keys, wrong answers, units, explanations, points?

    Args:
        root: the repository.
        seeds: of how many learners the numbers are drawn.
    """
    try:
        paths = bank_paths(root)
        for path in paths:
            problems = problems_of(path, seeds)
            for problem in problems:
                print(f"{path}: {problem}", file=sys.stderr)
            if problems:
                return 1
            bank = read_bank(path)
            print(
                f"{path}: {len(bank.questions)} questions, {bank.points:g} points, right for {seeds} learners"
            )
    except BankError as error:
        print(f"distlab course check-quizzes: {error}", file=sys.stderr)
        return 2
    return 0


def problems_of(path: Path, seeds: int = SEEDS) -> list[str]:
    """What is wrong with a bank, one line each, the first of each kind and question; empty if nothing is.

    Raises BankError where the file is no bank.
    """
    bank = read_bank(path)
    problems = list(_of_the_bank(bank))
    for question in bank.questions:
        found = _of_the_form(bank, question) or _of_the_draws(bank, question, seeds)
        problems += [f"question {question.id}: {problem}" for problem in found]
    if not problems:
        try:
            generic_notebook(path)
        except LabError as error:
            problems.append(f"its notebook would be refused: {error}")
    return problems


def _of_the_bank(bank: Bank) -> Iterator[str]:
    for question_id, count in Counter(question.id for question in bank.questions).items():
        if count > 1:
            yield f"{count} questions have the id {question_id}"
    if bank.points != 100:
        yield f"the points add up to {bank.points:g}; a quiz has 100"
    used = {name for question in bank.questions for formula in _formulas(question) for name in formula.names}
    for name in bank.uses:
        if name not in used:
            yield f"no formula uses {name}"


def _formulas(question: Question) -> list[Expression]:
    parts = [question.key, question.check, *question.let.values()]
    parts += [wrong.value for wrong in question.wrong] + [option.right for option in question.options]
    parts += [item.value for item in question.items]
    return [part for part in parts if part is not None]


def _of_the_form(bank: Bank, question: Question) -> list[str]:
    """What can be said without drawing."""
    problems = []
    known = {*bank.uses, *BUILTINS, *question.given, *question.let, *(question.arguments or {})}
    for formula in _formulas(question):
        if formula.names - known:
            problems.append(f"{formula.source!r} uses {', '.join(sorted(formula.names - known))}: not given")
        if formula.calls - {*bank.uses, *BUILTINS}:
            problems.append(f"{formula.source!r} calls what is no function of the bank")
    for name in {*question.given, *question.let, *(question.arguments or {})} & {*bank.uses, *BUILTINS}:
        problems.append(f"{name} is given and a function")
    if question.key is not None:
        calls = _formulas_called(bank, question, question.key)
        if not calls:
            problems.append(
                f"the key {question.key.source!r} is typed: it calls no function of distlab.predict"
            )
        if question.check is not None:
            both = calls & _formulas_called(bank, question, question.check)
            if both:
                problems.append(f"check is no second way: it calls {', '.join(sorted(both))} as the key does")
        if question.kind != "choice" and not question.wrong:
            problems.append("it names no wrong answer")
    answers = len(question.wrong) + 1 if question.kind == "choice" and question.key else len(question.options)
    if question.kind == "choice" and not 3 <= answers <= len(LETTERS):
        problems.append(f"it has {answers} answers to choose from; 3 to {len(LETTERS)} make a question")
    if question.kind == "ordering" and not 3 <= len(question.items) <= len(LETTERS):
        problems.append(f"it has {len(question.items)} items to order; 3 to {len(LETTERS)} make a question")
    return problems


def _formulas_called(bank: Bank, question: Question, expression: Expression) -> set[str]:
    """The course's formulas that an expression calls, itself or in what its names stand for."""
    found, new = [expression], [expression]
    while new:
        names = {name for each in new for name in each.names}
        new = [let for name, let in question.let.items() if name in names and let not in found]
        found += new
    return {name for each in found for name in each.calls if is_formula(bank.uses.get(name))}


def _of_the_draws(bank: Bank, question: Question, seeds: int) -> list[str]:
    """What shows when it is drawn; of each kind of problem the first."""
    problems: dict[str, str] = {}
    keys, texts, right = set(), set(), set()
    for number in range(seeds):
        seed = hashlib.sha256(f"check-quizzes {number}".encode()).digest()
        try:
            variant = draw(bank, question, seed)
            for kind, problem in _of_a_variant(variant):
                given = ", ".join(f"{name} = {variant.names[name]!r}" for name in question.given)
                problems.setdefault(kind, f"{problem}{f' (with {given})' if given else ''}")
        except (BankError, ExpressionError) as error:
            return [str(error)]
        keys.add(variant.key if question.kind != "code" else variant.cases)
        texts.add((variant.text, variant.choices))
        right |= {option.text for option in question.options if option.right.value(variant.names)}
    if question.kind in ("numeric", "code") and len(keys) < min(LEAST_KEYS, seeds):
        problems["same"] = f"{seeds} learners have {len(keys)} different keys; give it more to draw from"
    if len(texts) < 2 <= seeds and question.kind != "code":
        problems["same"] = "all learners have the same text"
    for option in question.options:
        if option.right.source != "False" and option.text not in right:
            problems[option.text] = f"{option.text!r} is never right; say `right: false` if it is not to be"
    return list(problems.values())


def _of_a_variant(variant: Variant) -> Iterator[tuple[str, str]]:
    question = variant.question
    match question.kind:
        case "numeric":
            assert isinstance(variant.key, int | float)
            yield from _of_a_key(
                variant, variant.names, variant.key, [numbers[0] for numbers in variant.wrong]
            )
        case "code":
            assert question.arguments is not None
            for case in variant.cases:
                names = {**variant.names, **dict(zip(question.arguments, case.arguments, strict=True))}
                yield from _of_a_key(variant, names, case.key, [])
            if len({case.arguments for case in variant.cases}) < 2:
                yield "cases", "all cases have the same arguments"
            for wrong, numbers in zip(question.wrong, variant.wrong, strict=True):
                caught = (
                    abs(number - case.key) > question.tolerance.of(case.key)
                    for number, case in zip(numbers, variant.cases, strict=True)
                )
                if not any(caught):
                    yield "wrong", f"no case tells {wrong.value.source!r} from the key"
        case "choice":
            if len(set(variant.choices)) < len(variant.choices):
                yield "shown", f"two of the answers look the same: {' | '.join(variant.choices)}"
            if question.key is not None:
                key, *others = (numbers[0] for numbers in variant.wrong)
                yield from _of_a_key(variant, variant.names, key, others)
                yield from _apart(key, others)
        case "ordering":
            values = sorted(variant.wrong[0])
            if any(one == other for one, other in pairwise(values)):
                yield "order", f"two items have the same value {values}"
            if len(set(variant.choices)) < len(variant.choices):
                yield "shown", "two of the items look the same"


def _of_a_key(
    variant: Variant, names: Mapping[str, object], key: float, wrong: list[float]
) -> Iterator[tuple[str, str]]:
    question = variant.question
    low, high = question.bounds
    if not low <= key <= high:
        yield "bounds", f"the key {key:g} {question.unit} is outside its bounds {low:g} to {high:g}"
    if question.check is not None:
        second = question.check.number(names)
        if not math.isclose(key, second, rel_tol=1e-9, abs_tol=1e-12):
            yield "check", f"the key is {key!r} and the check {second!r}"
    for each, number in zip(question.wrong, wrong, strict=False):
        if abs(number - key) <= 2 * question.tolerance.of(key):
            yield "wrong", f"the wrong answer {each.value.source!r} is {number:g}, too near the key {key:g}"


def _apart(key: float, wrong: list[float]) -> Iterator[tuple[str, str]]:
    numbers = sorted((key, *wrong))
    for one, other in pairwise(numbers):
        if abs(other - one) < (APART - 1) * max(abs(one), abs(other)):
            yield "apart", f"{one:g} and {other:g} are too near each other to choose between"
