"""Formulas in a question bank: a small part of Python, so that no key is ever typed and no bank can run code.

Arithmetic, comparisons, `a if b else c`, the bank's names, and calls of the functions that it declares under `uses`.
"""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import CodeType, MappingProxyType

ALLOWED = ("distlab.predict.", "distlab.course.quiz.formulas.")
"""What a bank may use lies below these."""

BUILTINS: Mapping[str, object] = MappingProxyType(
    {
        **{name: getattr(math, name) for name in ("sqrt", "floor", "ceil", "log2", "exp")},
        **{function.__name__: function for function in (abs, min, max, round, sum)},
    }
)

_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Tuple, ast.List, ast.keyword),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.UnaryOp, ast.UAdd, ast.USub, ast.Not, ast.BoolOp, ast.And, ast.Or, ast.IfExp),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.Call, ast.Attribute),
)


class ExpressionError(Exception):
    """A formula is not as it should be, or cannot be computed."""


@dataclass(frozen=True)
class Expression:
    """One formula, checked and compiled."""

    source: str
    names: frozenset[str]
    calls: frozenset[str]
    _code: CodeType = field(repr=False, compare=False)

    @classmethod
    def parse(cls, source: object) -> Expression:
        """Raises ExpressionError for anything but a formula."""
        text = str(source)
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError) as error:
            raise ExpressionError(f"{text!r} is no formula: {error}") from None
        for node in ast.walk(tree):
            if not isinstance(node, _NODES):
                raise ExpressionError(f"{text!r}: formulas have no {type(node).__name__}")
            if isinstance(node, ast.Call) and not isinstance(node.func, ast.Name):
                raise ExpressionError(f"{text!r}: only functions named under `uses` can be called")
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                raise ExpressionError(f"{text!r}: {node.attr} is private")
        names = frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        calls = frozenset(
            node.func.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        )
        return cls(text, names, calls, compile(tree, "<formula>", "eval"))

    def value(self, names: Mapping[str, object]) -> object:
        """What the formula comes to. Raises ExpressionError where it does not."""
        try:
            return eval(self._code, {"__builtins__": {}}, {**BUILTINS, **names})
        except Exception as error:  # whatever the bank's functions refuse
            raise ExpressionError(f"{self.source!r} cannot be computed: {error!r}") from error

    def number(self, names: Mapping[str, object]) -> float:
        """The same, where it must be a finite number."""
        value = self.value(names)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ExpressionError(f"{self.source!r} is {value!r}, no finite number")
        return value


def functions(paths: Iterable[str]) -> dict[str, object]:
    """What the import paths under `uses` name, by their last part. Raises ExpressionError for others."""
    found: dict[str, object] = {}
    for path in paths:
        module, _, name = str(path).rpartition(".")
        if not str(path).startswith(ALLOWED) or name.startswith("_"):
            raise ExpressionError(f"a bank uses functions of {' and '.join(ALLOWED)} alone, not {path!r}")
        try:
            found[name] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            raise ExpressionError(f"there is no {path!r}") from None
    return found


def is_formula(used: object) -> bool:
    """Whether it is a function of the course that does more than to look up a constant."""
    return callable(used) and getattr(used, "__module__", "") != "distlab.predict.registry"
