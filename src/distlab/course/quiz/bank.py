"""Read a question bank: `assessments/<quiz-id>.yaml`.

What a bank may say stands in the instructors' part of the book (`book/instructor/quizzes.md`). Read here is the form;
whether keys are right, and wrong answers wrong, is for `lint`, which draws them.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distlab.course.quiz.expression import Expression, ExpressionError, functions
from distlab.course.site import QUIZ_ID

QUESTION_ID = re.compile(r"q[0-9]{2}[a-z]?")
NAME = re.compile(r"[a-z][A-Za-z0-9_]*")
COMMON = ("id", "kind", "points", "text", "explanation", "see")
PARAMETERS = ("given", "let")
KINDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # kind: what it must have, what it may have
    "numeric": (("unit", "key", "tolerance", "bounds", "wrong"), ("check", *PARAMETERS)),
    "choice": ((), ("unit", "key", "shown", "tolerance", "bounds", "wrong", "check", "options", *PARAMETERS)),
    "ordering": (("items",), PARAMETERS),
    "code": (("unit", "key", "tolerance", "bounds", "wrong", "arguments", "cases"), ("check", *PARAMETERS)),
}
NUMBERS = ("unit", "key", "shown", "tolerance", "bounds", "wrong")
"""What a choice among numbers has; one among sentences has `options`."""


class BankError(Exception):
    """A bank is not as it should be: file, question, what is wrong."""


@dataclass(frozen=True)
class Wrong:
    """A wrong answer, and the misconception that leads to it."""

    value: Expression
    why: str


@dataclass(frozen=True)
class Option:
    """A sentence to choose. `right` may depend on what was drawn."""

    text: str
    right: Expression
    why: str


@dataclass(frozen=True)
class Item:
    """Something to put in order: ascending by `value`."""

    text: str
    value: Expression


@dataclass(frozen=True)
class Tolerance:
    """How far from the key an answer may lie: `share` of the key, or `absolute` in its unit."""

    share: float = 0.0
    absolute: float = 0.0

    def of(self, key: float) -> float:
        return self.absolute or abs(key) * self.share

    def __str__(self) -> str:
        return f"{100 * self.share:g}%" if self.share else f"{self.absolute:g}"


@dataclass(frozen=True)
class Question:
    """One question of a bank; what a kind does not have is empty."""

    id: str
    kind: str
    points: float
    text: str
    explanation: str
    """How the answer comes about; for instructors, and for learners once all have submitted."""
    see: str
    """Where to read again: all that a wrong answer is told."""
    given: Mapping[str, tuple[Any, ...]]
    """Each name with the values that are drawn from."""
    let: Mapping[str, Expression]
    unit: str = ""
    key: Expression | None = None
    check: Expression | None = None
    bounds: tuple[float, float] = (0.0, 0.0)
    tolerance: Tolerance = Tolerance()
    wrong: tuple[Wrong, ...] = ()
    shown: str = ""
    options: tuple[Option, ...] = ()
    items: tuple[Item, ...] = ()
    arguments: Mapping[str, tuple[Any, ...]] | None = None
    cases: int = 0

    @property
    def answer(self) -> str:
        """The name that holds the learner's answer."""
        return f"answer_{self.id}"


@dataclass(frozen=True)
class Bank:
    """A quiz. `uses` are the functions that its formulas may call."""

    id: str
    title: str
    intro: str
    pass_mark: float
    uses: Mapping[str, object]
    questions: tuple[Question, ...]

    @property
    def points(self) -> float:
        return sum(question.points for question in self.questions)


def bank_paths(root: Path) -> list[Path]:
    """The banks of a repository, in order; a file with another name is an error."""
    paths = sorted((root / "assessments").glob("*.yaml"))
    for path in paths:
        if not QUIZ_ID.fullmatch(path.stem):
            raise BankError(f"{path}: a bank's file is named like mod-107-quiz.yaml")
    return paths


def read_bank(path: Path) -> Bank:
    """The bank in a file, as it is now. Raises BankError for the first thing that is wrong in its form."""
    try:
        state = path.stat()
    except OSError as error:
        raise BankError(f"{path}: cannot be read: {error.strerror}") from None
    return _read(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=16)
def _read(path: Path, _mtime_ns: int, _size: int) -> Bank:
    try:
        return _bank(path.stem, yaml.load(path.read_text(encoding="utf-8"), Loader=_OneOfEachKey))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BankError(f"{path}: line {line} is not YAML: {error.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BankError(f"{path}: not a text in YAML: {error}") from None
    except (BankError, ExpressionError) as error:
        raise BankError(f"{path}: {error}") from None


class _OneOfEachKey(yaml.SafeLoader):
    """YAML lets the last of two equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for name in names:
            if names.count(name) > 1:
                raise BankError(f"line {node.start_mark.line + 1}: {name!r} is there twice")
        return super().construct_mapping(node, deep)


def _bank(quiz_id: str, raw: Any) -> Bank:
    values = _mapping("the bank", raw, ("title", "intro", "pass_mark", "uses", "questions"))
    mark = values["pass_mark"]
    if isinstance(mark, bool) or not isinstance(mark, int | float) or not 0 < mark <= 1:
        raise BankError(f"pass_mark is {mark!r}; it is a share of the points, such as 0.8")
    uses = functions(_list("uses", values["uses"]))
    questions = []
    for number, each in enumerate(_list("questions", values["questions"]), start=1):
        try:
            questions.append(_question(each))
        except (BankError, ExpressionError) as error:
            name = each.get("id", f"number {number}") if isinstance(each, dict) else f"number {number}"
            raise BankError(f"question {name}: {error}") from None
    text = {name: _text(name, values[name]) for name in ("title", "intro")}
    return Bank(quiz_id, text["title"], text["intro"], float(mark), uses, tuple(questions))


def _question(raw: Any) -> Question:
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise BankError(f"kind is {kind!r}; known: {', '.join(KINDS)}")
    must, may = KINDS[kind]
    if kind == "choice":
        must = ("options",) if "options" in raw else NUMBERS
        may = PARAMETERS if "options" in raw else ("check", *PARAMETERS)
    values = _mapping("the question", raw, (*COMMON, *must), may)
    if not QUESTION_ID.fullmatch(str(values["id"])):
        raise BankError(f"id is {values['id']!r}; it is q and two digits, such as q07")
    points = values["points"]
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 < points < 1000:
        raise BankError(f"points is {points!r}; it is a number above 0")
    made: dict[str, Any] = {name: _text(name, values[name]) for name in ("text", "explanation", "see")}
    made["given"] = _given(values.get("given", {}))
    made["let"] = {_name(n): Expression.parse(f) for n, f in _dict("let", values.get("let", {})).items()}
    made.update({name: Expression.parse(values[name]) for name in ("key", "check") if name in values})
    made.update({name: _text(name, values[name]) for name in ("unit", "shown") if name in values})
    if "tolerance" in values:
        made["tolerance"] = _tolerance(values["tolerance"])
    if "bounds" in values:
        made["bounds"] = _bounds(values["bounds"])
    for name, of, parts in (
        ("wrong", Wrong, ("value", "why")),
        ("options", Option, ("text", "right", "why")),
        ("items", Item, ("text", "value")),
    ):
        if name in values:
            made[name] = tuple(_part(name, each, of, parts) for each in _list(name, values[name]))
    if "arguments" in values:
        made["arguments"] = _given(values["arguments"])
        made["cases"] = values["cases"]
        if not made["arguments"] or type(made["cases"]) is not int or not 2 <= made["cases"] <= 20:
            raise BankError("a function has arguments to draw, and is tried on 2 to 20 cases")
    return Question(id=values["id"], kind=kind, points=float(points), **made)


def _part(name: str, raw: Any, of: type[Any], parts: Sequence[str]) -> Any:
    values = _mapping(f"each of {name}", raw, parts, ())
    return of(
        **{p: Expression.parse(v) if p in ("value", "right") else _text(p, v) for p, v in values.items()}
    )


def _given(raw: Any) -> dict[str, tuple[Any, ...]]:
    """Names with the values to draw from: a list, or `{from, to, step}` with both ends."""
    given: dict[str, tuple[Any, ...]] = {}
    for name, values in _dict("given", raw).items():
        if isinstance(values, dict):
            ends = _mapping(name, values, ("from", "to", "step"))
            first, last, step = ends["from"], ends["to"], ends["step"]
            if (
                not all(type(end) in (int, float) for end in (first, last, step))
                or not first < last
                or step <= 0
            ):
                raise BankError(f"{name}: a range has numbers, from below to, and a step above 0")
            count = int((last - first) / step + 1e-9) + 1
            values = [round(first + index * step, 12) for index in range(count)]
        if not isinstance(values, list) or len(values) < 2:
            raise BankError(f"{name}: give a list of two or more values, or a range {{from, to, step}}")
        if not all(type(value) in (int, float, str) for value in values):
            raise BankError(f"{name}: values are numbers and strings, not {values!r}")
        given[_name(name)] = tuple(values)
    return given


def _name(raw: Any) -> str:
    if not NAME.fullmatch(str(raw)):
        raise BankError(f"{raw!r} is no name; names are like payload_MB")
    return str(raw)


def _tolerance(raw: Any) -> Tolerance:
    share = isinstance(raw, str) and raw.endswith("%")
    try:
        number = float(raw.removesuffix("%")) if share else float(raw)
    except (TypeError, ValueError):
        number = 0
    if isinstance(raw, bool) or not 0 < number < (50 if share else 1e300):
        raise BankError(f"tolerance is {raw!r}; it is a share such as 2%, or a number in the key's unit")
    return Tolerance(share=number / 100) if share else Tolerance(absolute=number)


def _bounds(raw: Any) -> tuple[float, float]:
    ends = _list("bounds", raw)
    if len(ends) != 2 or not all(type(end) in (int, float) for end in ends) or not ends[0] < ends[1]:
        raise BankError(f"bounds is {raw!r}; it is the least and the most that a key can be, such as [1, 50]")
    return float(ends[0]), float(ends[1])


def _mapping(what: str, raw: Any, must: Iterable[str], may: Iterable[str] = ()) -> dict[str, Any]:
    values, known = _dict(what, raw), [*must, *may]
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0)
            raise BankError(f"{what} has an unknown {name!r}; the nearest is {near[0]!r}")
    for name in must:
        if name not in values:
            raise BankError(f"{what} has no {name}")
    return values


def _dict(what: str, raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise BankError(f"{what} must be a mapping, not {raw!r:.60}")
    return raw


def _list(what: str, raw: Any) -> list[Any]:
    if not isinstance(raw, list) or not raw:
        raise BankError(f"{what} must be a list that is not empty, not {raw!r:.60}")
    return raw


def _text(what: str, raw: Any) -> str:
    if not isinstance(raw, str) or not raw.strip():
        raise BankError(f"{what} must be a text, not {raw!r:.60}")
    return raw.strip()
