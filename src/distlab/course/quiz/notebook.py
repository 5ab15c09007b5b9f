"""The cells of a quiz: for each question its text, a cell for the answer, a test of the answer's form, and the test
of the answer itself, which learners do not get.

The whole is text like the source of a lab, so that what holds for labs (`labsource`) holds for quizzes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from distlab.course.quiz.bank import Bank
from distlab.course.quiz.draw import LETTERS, Variant, interval
from distlab.course.quiz.expression import BUILTINS

TEXT, FORM, KEY = "-text", "-form", "-key"
"""What follows the question's id in the grade ids of its text and of its two tests; the answer's has the bare id."""

HEADER = """---
jupyter:
  distlab:
    names: [{names}]
  kernelspec:
    display_name: Python 3 (ipykernel)
    language: python
    name: python3
---

# {title}

{intro}

{count} questions, {points:g} points; you pass with {least:g} points ({share:.0%}). Your numbers are your own: another
learner's answers do not fit them. Write each answer into the cell below its question, in place of `None`,
and run the cell after it. That one looks at the form of your answer alone, and does not say whether it is
right. You may compute answers here, with `distlab.predict` or by hand. Submit when you are done.
"""


def lab_text(bank: Bank, variants: Sequence[Variant]) -> str:
    """The source of the quiz's notebook, keys and all, in the form of a lab's `lab.md`."""
    parts = [
        HEADER.format(
            names=", ".join(question.answer for question in bank.questions),
            title=bank.title,
            intro=bank.intro,
            count=len(bank.questions),
            points=bank.points,
            least=bank.points * bank.pass_mark,
            share=bank.pass_mark,
        )
    ]
    for number, variant in enumerate(variants, start=1):
        question = variant.question
        meta: dict[str, dict[str, Any]] = {
            question.id + TEXT: {"locked": True},
            question.id: {"solution": True},
            question.id + FORM: {"grade": True, "points": 0},
            question.id + KEY: {"grade": True, "points": float(question.points)},
        }
        sources = (
            question_text(number, variant),
            model_answer(variant),
            form_test(variant),
            key_test(variant),
        )
        for (grade_id, flags), source in zip(meta.items(), sources, strict=True):
            header = f"nbgrader={json.dumps({'grade_id': grade_id, **flags})}"
            if grade_id == question.id + TEXT:
                parts.append(f"<!-- #region {header} -->\n{source}\n<!-- #endregion -->\n")
            else:
                parts.append(f"```python {header}\n{source}\n```\n")
    return "\n".join(parts)


def own_cells(variants: Sequence[Variant]) -> dict[str, str]:
    """What differs from learner to learner: the texts and the tests of the keys, by grade id."""
    cells = own_texts(variants)
    cells.update({variant.question.id + KEY: key_test(variant) for variant in variants})
    return cells


def own_texts(variants: Sequence[Variant]) -> dict[str, str]:
    """The part of `own_cells` that the learner gets."""
    return {
        variant.question.id + TEXT: question_text(number, variant)
        for number, variant in enumerate(variants, start=1)
    }


def starters(variants: Sequence[Variant]) -> dict[str, str]:
    """The cells for the answers as learners get them, by grade id: a line to fill in, not an error to be removed."""
    return {v.question.id: starter(v) for v in variants if v.question.kind != "code"}


def question_text(number: int, variant: Variant) -> str:
    question = variant.question
    points = f"{question.points:g} point{'' if question.points == 1 else 's'}"
    parts = [f"## Question {number} ({points})", variant.text]
    if variant.choices:
        lines = zip(LETTERS, variant.choices, strict=False)
        parts.append("\n".join(f"- **{letter}**: {choice}" for letter, choice in lines))
    return "\n\n".join(parts)


def starter(variant: Variant) -> str:
    """`answer_q01 = None`, with what is asked for in a comment."""
    question = variant.question
    match question.kind:
        case "numeric":
            form = f"a number, in {question.unit}; right within {_within(variant)}"
        case "choice":
            form = 'a letter, such as "A"'
        case _:
            form = f'the letters in order, such as "{LETTERS[: len(variant.choices)][::-1]}"'
    return f"{question.answer} = None  # {form}"


def _within(variant: Variant) -> str:
    tolerance = variant.question.tolerance
    return str(tolerance) if tolerance.share else f"{tolerance} {variant.question.unit}"


def model_answer(variant: Variant) -> str:
    """The cell for the answer with the key in it; what nbgrader clears stands between its markers."""
    question = variant.question
    if question.kind == "code":
        head = (
            f'def {question.answer}({", ".join(question.arguments or ())}):\n    """{_returned(variant)}."""'
        )
        lines = "\n".join(f"    {line}" for line in _key_as_code(variant))
        return f"{head}\n    ### BEGIN SOLUTION\n{lines}\n    ### END SOLUTION"
    answer = f"{question.answer} = {variant.key!r}"
    return f"{starter(variant)}\n### BEGIN SOLUTION\n{answer}\n### END SOLUTION"


def _key_as_code(variant: Variant) -> list[str]:
    """The key's formula as the body of a function: imports, what was drawn, the formula itself."""
    question = variant.question
    assert question.key is not None
    imports, values = [], []
    for name in sorted(question.key.names - set(question.arguments or ())):
        value = variant.names.get(name, BUILTINS.get(name))
        if not callable(value):
            values.append(f"{name} = {value!r}")
        elif value.__module__ != "builtins":
            imports.append(f"from {value.__module__} import {name}")
    return [*imports, *values, f"return {question.key.source}"]


def _returned(variant: Variant) -> str:
    return f"A number, in {variant.question.unit}; right within {_within(variant)}"


def form_test(variant: Variant) -> str:
    """A test of the answer's form, the same for every learner."""
    question, name = variant.question, variant.question.answer
    letters = LETTERS[: len(variant.choices)]
    match question.kind:
        case "numeric":
            return _assert(_is_number(name), f"{name} must be a number (of {question.unit})")
        case "choice":
            return _assert(
                f"{name} in {tuple(letters)!r}", f"{name} must be one letter from A to {letters[-1]}"
            )
        case "ordering":
            return _assert(
                f"isinstance({name}, str) and sorted({name}) == {list(letters)!r}",
                f"{name} must hold each letter from A to {letters[-1]} once, in a string",
            )
        case _:
            example = ", ".join(repr(values[0]) for values in (question.arguments or {}).values())
            return f"result = {name}({example})\n" + _assert(
                _is_number("result"), f"{name} must return a number (of {question.unit})"
            )


def key_test(variant: Variant) -> str:
    """The hidden test. Its message is the same for every learner and every wrong answer."""
    question, name = variant.question, variant.question.answer
    message = f"Not the expected answer. Read again: {question.see}."
    match question.kind:
        case "numeric":
            low, high = variant.interval
            test = _assert(f"{_is_number(name)} and {low!r} <= {name} <= {high!r}", message)
        case "code":
            rows = [(case.arguments, *interval(question, case.key)) for case in variant.cases]
            right = _assert(f"{_is_number('result')} and low <= result <= high", message)
            test = f"for arguments, low, high in {rows!r}:\n    result = {name}(*arguments)\n    {right}"
        case _:
            test = _assert(f"{name} == {variant.key!r}", message)
    return (
        f"# Your answer is checked when it is graded.\n### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
    )


def _is_number(name: str) -> str:
    return f"isinstance({name}, (int, float)) and not isinstance({name}, bool)"


def _assert(condition: str, message: str) -> str:
    return f"assert {condition}, {json.dumps(message, ensure_ascii=False)}"
