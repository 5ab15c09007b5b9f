"""Mutants of a lab's model answer: one small fault each, which some hidden test should see.

Only what stands between BEGIN SOLUTION and END SOLUTION is changed. The order is the source's; a mutant's id is a
digest of the statement before and after the change, and stays the same while other code changes.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from distlab.course.grade.work import Kind, Work
from distlab.course.labsource import MARKER

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SPEAKING = {"print", "warn", "debug", "info", "warning", "error", "exception"}
"""Functions that only tell people something."""

SYMMETRIC = {"max", "min", "isclose", "allclose", "equal", "gcd", "lcm"}
"""Functions whose first two arguments can change places."""


@dataclass(frozen=True)
class Mutant:
    """One fault: the cell it is in, that cell's whole text, and what was changed in which line of it."""

    id: str
    grade_id: str
    line: int
    before: str
    after: str
    source: str

    def put_into(self, work: Work) -> Work:
        """The work with this mutant in place of the cell that it is made of."""
        return replace(
            work,
            cells=tuple(
                replace(cell, source=self.source) if cell.grade_id == self.grade_id else cell
                for cell in work.cells
            ),
        )


def mutants_of(work: Work) -> list[Mutant]:
    """All mutants of a model answer, in the order of its cells and lines."""
    return [
        mutant
        for cell in work.cells
        if cell.kind == Kind.CODE and cell.grade_id
        for mutant in cell_mutants(cell.source, cell.grade_id)
    ]


def cell_mutants(source: str, grade_id: str) -> list[Mutant]:
    """The mutants of one cell; none where it has no solution region."""
    lines = _solution_lines(source)
    if not lines:
        return []
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    counted: dict[str, int] = {}
    mutants = []
    for path, statement in _statements(tree, lines):
        for kind, changed in _faults(statement):
            whole = copy.deepcopy(tree)
            _put(whole, path, changed)
            text = ast.unparse(ast.fix_missing_locations(whole))
            if text in seen:
                continue
            seen.add(text)
            before, after = _head(statement), _head(changed)
            digest = hashlib.sha256(f"{before}\0{after}".encode()).hexdigest()[:8]
            name = f"{grade_id}/{kind}-{digest}"
            counted[name] = counted.get(name, 0) + 1
            if counted[name] > 1:  # the same statement stands in the cell again
                name = f"{name}-{counted[name]}"
            mutants.append(Mutant(name, grade_id, statement.lineno, before, after, text))
    return mutants


def _solution_lines(source: str) -> set[int]:
    """The numbers, from 1, of the lines between solution markers."""
    lines, inside = set(), False
    for number, line in enumerate(source.split("\n"), start=1):
        match = MARKER.fullmatch(line)
        if match:
            inside = match.groups() == ("BEGIN", "SOLUTION")
        elif inside:
            lines.add(number)
    return lines


Way = tuple[tuple[str, int | None], ...]
"""From the root of a tree to a node: fields, with an index where the field is a list."""


def _statements(tree: ast.AST, lines: set[int], at: Way = ()) -> Iterator[tuple[Way, ast.stmt]]:
    """The statements that begin in some of the lines, with the way to each from the root."""
    for field, value in ast.iter_fields(tree):
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST):
                continue
            here = (*at, (field, index if isinstance(value, list) else None))
            if isinstance(child, ast.stmt) and child.lineno in lines and not _is_text(child):
                yield here, child
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield from _statements(child, lines, here)


def _put(tree: ast.AST, path: Way, changed: ast.stmt) -> None:
    node: Any = tree
    for field, index in path[:-1]:
        node = getattr(node, field) if index is None else getattr(node, field)[index]
    field, index = path[-1]
    getattr(node, field)[index] = changed


def _head(statement: ast.stmt) -> str:
    """A statement's first line, which is where the faults of a compound one are."""
    return ast.unparse(statement).split("\n")[0] if hasattr(statement, "body") else ast.unparse(statement)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _faults(statement: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    """Every fault of one statement, without those of the statements in its body: a name and the changed one."""
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Pass | ast.Global | ast.Nonlocal | ast.Assert):
        return
    if _only_speaks(statement):
        return
    dropped = _dropped(statement)
    if dropped is not None:
        yield dropped
    places = list(_expressions(statement))
    for number, place in enumerate(places):
        if isinstance(statement, ast.Expr) and place is statement.value:
            continue  # its result is thrown away: as good as dropped
        for kind, change in _changes(place):
            changed = copy.deepcopy(statement)
            yield kind, _applied(changed, number, change)
    if isinstance(statement, ast.If | ast.While) and not _negatable(statement.test):
        negated = copy.deepcopy(statement)
        negated.test = ast.UnaryOp(ast.Not(), negated.test)
        yield "condition", negated
    if isinstance(statement, ast.AugAssign) and type(statement.op) in ARITHMETIC:
        other = copy.deepcopy(statement)
        other.op = ARITHMETIC[type(statement.op)]()
        yield "operator", other


def _only_speaks(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return False
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and _called(statement.value) in SPEAKING
    )


def _dropped(statement: ast.stmt) -> tuple[str, ast.stmt] | None:
    """The statement left out, where leaving it out is not simply an unknown name."""
    match statement:
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            return "return", ast.copy_location(ast.Return(ast.Constant(None)), statement)
        case (
            ast.Expr(value=ast.Call())
            | ast.AugAssign()
            | ast.Continue()
            | ast.Break()
            | ast.Raise()
            | ast.Delete()
        ):
            return "drop", ast.copy_location(ast.Pass(), statement)
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return "drop", ast.copy_location(ast.Pass(), statement)
    return None


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """What can be changed in a statement itself, in a fixed order: not its body, annotations or messages."""
    skipped: list[ast.AST | None] = []
    match statement:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            skipped += [statement.returns, *statement.decorator_list]
            skipped += [arg.annotation for arg in ast.walk(statement.args) if isinstance(arg, ast.arg)]
        case ast.AnnAssign():
            skipped.append(statement.annotation)
        case ast.Raise(exc=ast.Call() as error):
            skipped.append(error)
    yield from _inside(statement, [node for node in skipped if node is not None])


def _inside(node: ast.AST, skipped: list[ast.AST]) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            continue
        if any(child is other for other in skipped) or isinstance(child, ast.JoinedStr):
            continue
        yield child
        yield from _inside(child, skipped)


Change = Callable[[Any], ast.AST]
"""Makes the changed node of a copy of the node that it was thought of for."""


def _changes(node: ast.AST) -> Iterator[tuple[str, Change]]:
    """The faults of one node, each with a name."""
    match node:
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            yield "operator", _set(op=ARITHMETIC[type(node.op)]())
        case ast.Compare(ops=[op]) if type(op) in COMPARISON:
            yield "comparison", _set(ops=[COMPARISON[type(op)]()])
        case ast.BoolOp():
            yield "boolean", _set(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield "negation", lambda n: n.operand
        case ast.Constant():
            for value in _constants(node.value):
                yield "constant", _set(value=value)
        case ast.IfExp() if not _negatable(node.test):
            yield "condition", lambda n: _with(n, test=ast.UnaryOp(ast.Not(), n.test))
        case ast.comprehension(ifs=[test, *_]) if not _negatable(test):
            yield "condition", lambda n: _with(n, ifs=[ast.UnaryOp(ast.Not(), n.ifs[0]), *n.ifs[1:]])
        case ast.Slice():
            for field in ("lower", "upper", "step"):
                if getattr(node, field) is not None:
                    yield "slice", _set(**{field: None})
        case ast.Call() if _called(node) not in SPEAKING:
            yield from _call_changes(node)


def _call_changes(call: ast.Call) -> Iterator[tuple[str, Change]]:
    plain = not any(isinstance(arg, ast.Starred) for arg in call.args)
    if call.args and plain:
        if not isinstance(call.args[0], ast.GeneratorExp):
            yield "call", lambda n: n.args[0]
    elif isinstance(call.func, ast.Attribute) and not call.args:
        yield "call", lambda n: n.func.value
    if len(call.args) >= 2 and plain and _called(call) not in SYMMETRIC:
        yield "swap", lambda n: _with(n, args=[n.args[1], n.args[0], *n.args[2:]])
    for number, word in enumerate(call.keywords):
        if word.arg is not None:
            yield "argument", _without_keyword(number)


def _without_keyword(number: int) -> Change:
    return lambda n: _with(n, keywords=[*n.keywords[:number], *n.keywords[number + 1 :]])


def _negatable(test: ast.expr) -> bool:
    """Is the condition's contrary a fault of another kind already (`==` for `!=`, a `not` left out)?"""
    if isinstance(test, ast.UnaryOp):
        return isinstance(test.op, ast.Not)
    exact = ast.Eq | ast.NotEq | ast.Is | ast.IsNot | ast.In | ast.NotIn
    return isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], exact)


def _constants(value: Any) -> list[Any]:
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [2 * value + 1]
        case str():
            return [f"{value}_"]
    return []


def _called(call: ast.Call) -> str:
    match call.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _set(**fields: Any) -> Change:
    return lambda node: _with(node, **fields)


def _with(node: Any, **fields: Any) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    changed: ast.AST = node
    return changed


def _applied(statement: ast.stmt, number: int, change: Change) -> ast.stmt:
    """`statement` with its expression of that number (as `_expressions` counts) changed."""
    target = list(_expressions(statement))[number]
    for parent in ast.walk(statement):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, change(target))
                return statement
            if isinstance(value, list):
                for index, item in enumerate(value):
                    if item is target:
                        value[index] = change(target)
                        return statement
    raise AssertionError("an expression is somewhere in its statement")
