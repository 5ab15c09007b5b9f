"""One learner's questions: numbers drawn, keys computed, options in an order of their own.

What is drawn depends on the course's secret, the user, the assignment and the question's id, and on nothing that a
submission says. A question that is added or changed leaves the draws of the others as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from distlab.course.quiz.bank import Bank, BankError, Question
from distlab.course.quiz.expression import Expression, ExpressionError

T = TypeVar("T")

LETTERS = "ABCDEFGH"
SECRET_BYTES = 32
FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::([^{}]*))?\}")


def make_secret(path: Path) -> None:
    """Make the course's secret (0600) if there is none; of several processes the first one's stays."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mine = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # another process was faster
        os.link(mine, path)
    mine.unlink()


def course_secret(path: Path) -> bytes:
    """The secret in a file. Raises ValueError where there is none: another one would be other questions."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not there; the exchange makes it when a learner fetches a quiz."
        ) from None
    if not re.fullmatch(rf"[0-9a-f]{{{2 * SECRET_BYTES}}}", text):
        raise ValueError(
            f"{path} holds no course secret; restore it from a backup, for learners' numbers need it."
        )
    return bytes.fromhex(text)


def seed_of(secret: bytes, user: str, assignment: str) -> bytes:
    """HMAC-SHA256 of who answers what. The user `""` (nobody's name) is the generic variant, without a secret."""
    key = secret if user else b""
    return hmac.new(key, f"{user}\0{assignment}".encode(), hashlib.sha256).digest()


class Draws:
    """Numbers from a seed: HMAC-SHA256 in counter mode, the same on every machine and in every version."""

    def __init__(self, seed: bytes, purpose: str) -> None:
        self._key = hmac.new(seed, purpose.encode(), hashlib.sha256).digest()
        self._count = 0

    def below(self, end: int) -> int:
        """A number from 0 to `end - 1`; the bias of 256 bits modulo a small number is nothing."""
        self._count += 1
        block = hmac.new(self._key, self._count.to_bytes(8, "big"), hashlib.sha256).digest()
        return int.from_bytes(block, "big") % end

    def one_of(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in values]


@dataclass(frozen=True)
class Case:
    """One call of a learner's function: its arguments, and what it should give."""

    arguments: tuple[Any, ...]
    key: float


@dataclass(frozen=True)
class Variant:
    """A question as one learner has it.

    `key` is a number, a letter, letters in order, or nothing for a function, which has `cases`.
    `wrong` holds the numbers that the bank's wrong answers come to; of a function, those of each case.
    """

    question: Question
    names: Mapping[str, object]
    text: str
    choices: tuple[str, ...] = ()
    key: float | str | None = None
    wrong: tuple[tuple[float, ...], ...] = ()
    cases: tuple[Case, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """From the least to the most that counts as right, of a number."""
        assert isinstance(self.key, int | float)
        return interval(self.question, self.key)


def interval(question: Question, key: float) -> tuple[float, float]:
    """Twelve digits are more than a tolerance needs, and the same on every machine."""
    width = question.tolerance.of(key)
    return float(f"{key - width:.12g}"), float(f"{key + width:.12g}")


def draw_all(bank: Bank, seed: bytes) -> list[Variant]:
    """All questions of the quiz that has this seed. Raises BankError naming the question that cannot be drawn."""
    variants = []
    for question in bank.questions:
        try:
            variants.append(draw(bank, question, seed))
        except (ExpressionError, BankError) as error:
            raise BankError(f"{bank.id}: question {question.id}: {error}") from None
    return variants


def draw(bank: Bank, question: Question, seed: bytes) -> Variant:
    """Raises ExpressionError or BankError where a formula or a text does not come out."""
    draws = Draws(seed, question.id)
    names: dict[str, object] = {**bank.uses}
    names.update({name: draws.one_of(values) for name, values in question.given.items()})
    for name, formula in question.let.items():
        names[name] = formula.value(names)
    text = filled(question.text, names)
    match question.kind:
        case "numeric":
            numbers = tuple((wrong.value.number(names),) for wrong in question.wrong)
            return Variant(question, names, text, key=_key(question).number(names), wrong=numbers)
        case "choice" if question.options:
            return _sentences(question, names, text, draws)
        case "choice":
            return _numbers(question, names, text, draws)
        case "ordering":
            return _ordering(question, names, text, draws)
        case _:
            return _function(question, names, text, draws)


def _key(question: Question) -> Expression:
    assert question.key is not None  # the kind must have one
    return question.key


def _numbers(question: Question, names: Mapping[str, object], text: str, draws: Draws) -> Variant:
    key = _key(question).number(names)
    wrong = [each.value.number(names) for each in question.wrong]
    order = draws.shuffled(range(1 + len(wrong)))
    shown = [f"{_in_digits(number, question.shown)} {question.unit}" for number in (key, *wrong)]
    return Variant(
        *(question, names, text),
        choices=tuple(shown[index] for index in order),
        key=LETTERS[order.index(0)],
        wrong=((key,), *((number,) for number in wrong)),
    )


def _in_digits(number: float, form: str) -> str:
    """`number` as `form` rounds it, without a power of ten: one answer in another notation would stand out."""
    text = f"{number:{form}}"
    return f"{Decimal(text):f}" if "e" in text else text


def _sentences(question: Question, names: Mapping[str, object], text: str, draws: Draws) -> Variant:
    right = [index for index, option in enumerate(question.options) if option.right.value(names) is True]
    if len(right) != 1:
        raise BankError(f"{len(right)} options are right with {_given_of(question, names)}; it must be one")
    order = draws.shuffled(range(len(question.options)))
    choices = tuple(filled(question.options[index].text, names) for index in order)
    return Variant(question, names, text, choices=choices, key=LETTERS[order.index(right[0])])


def _ordering(question: Question, names: Mapping[str, object], text: str, draws: Draws) -> Variant:
    values = [item.value.number(names) for item in question.items]
    order = draws.shuffled(range(len(values)))
    ascending = sorted(range(len(values)), key=lambda place: values[order[place]])
    return Variant(
        *(question, names, text),
        choices=tuple(filled(question.items[index].text, names) for index in order),
        key="".join(LETTERS[place] for place in ascending),
        wrong=(tuple(values),),
    )


def _function(question: Question, names: Mapping[str, object], text: str, draws: Draws) -> Variant:
    assert question.arguments is not None

    cases, wrong = [], []
    for _ in range(question.cases):
        drawn = tuple(draws.one_of(values) for values in question.arguments.values())
        known = {**names, **dict(zip(question.arguments, drawn, strict=True))}
        cases.append(Case(drawn, _key(question).number(known)))
        wrong.append(tuple(each.value.number(known) for each in question.wrong))
    return Variant(question, names, text, cases=tuple(cases), wrong=tuple(zip(*wrong, strict=True)))


def filled(text: str, names: Mapping[str, object]) -> str:
    """`{name}` and `{name:format}` in a text replaced. Raises BankError for a name that is not there."""

    def value(match: re.Match[str]) -> str:
        name, form = match.groups()
        if name not in names or callable(names[name]):
            raise BankError(f"the text has {match.group()}, and nothing of that name is given")
        number = names[name]
        return format(number, form if form is not None else "g" if isinstance(number, float) else "")

    try:
        return FIELD.sub(value, text)
    except (ValueError, TypeError) as error:
        raise BankError(f"a number cannot be shown as the text wants: {error}") from None


def _given_of(question: Question, names: Mapping[str, object]) -> str:
    return ", ".join(f"{name} = {names[name]!r}" for name in question.given) or "nothing given"
