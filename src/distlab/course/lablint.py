"""Which names a lab's cells read and make, and whether its tests keep to what the header declares.

A test runs apart from the learner's process: it sees builtins, its own imports and definitions, and the names
that the lab declares. The learner's notebook, in turn, runs without the tests. So, before a release:

- a test, visible or hidden, reads nothing else, and makes none of the declared names itself;
- a declared name is no builtin, and some cell that is no test makes it;
- no other cell reads what only a test makes;
- no test needs what only a measurement makes (a cell tagged `measure`: it does not run with the tests);
- a test's `zip` says `strict=`: without it, whatever is too short passes as far as it goes;
- in a timed lab, tests also see `baseline`: what `baseline.NAME` needs is made by cells that are locked and no
  solution, which alone run in the baseline's sandbox.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import symtable
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from nbformat.notebooknode import NotebookNode

from distlab.course.grade.work import BASELINE

if TYPE_CHECKING:
    from distlab.course.labsource import Place

ADDED = {"_", "copyright", "credits", "display", "exit", "get_ipython", "help", "license", "quit"}
"""What an interactive Python puts among the builtins: a test process has none of these."""

MEASURE = "measure"
"""The tag of a cell that only measures: no test depends on it."""

BUILTINS = frozenset(dir(builtins)) - ADDED


@dataclass(frozen=True)
class Names:
    """The global names of a piece of code: what it makes, and what it reads and does not make itself.

    `perhaps` are reads in a class body of names that the body makes, too: Python looks outside where the body
    has not made them yet (`class A: x = x`).
    """

    made: frozenset[str]
    free: frozenset[str]
    perhaps: frozenset[str] = frozenset()


def global_names(source: str) -> Names:
    """The names of a module's worth of plain Python. SyntaxError where it is none."""
    made: set[str] = set()
    read: set[str] = set()
    perhaps: set[str] = set()
    for table in _tables(symtable.symtable(source, "<cell>", "exec")):
        at_module = table.get_type() == "module"
        for symbol in table.get_symbols():
            name = symbol.get_name()
            outside = at_module or symbol.is_global()
            if outside and (symbol.is_assigned() or symbol.is_imported()):
                made.add(name)
            if outside and symbol.is_referenced():
                read.add(name)
            elif table.get_type() == "class" and symbol.is_assigned() and symbol.is_referenced():
                perhaps.add(name)
    return Names(frozenset(made), frozenset(read - made), frozenset(perhaps - made))


def needed_names(pieces: Sequence[Names], wanted: Iterable[str]) -> set[str]:
    """`wanted`, and all names that the pieces which make any of them read, and so on.

    An upper bound: a piece that makes several names is taken to need for each what it needs for one.
    """
    needed = set(wanted)
    while True:
        more = {
            name
            for piece in pieces
            if piece.made & needed
            for name in piece.free | piece.perhaps
            if name not in BUILTINS
        }
        if more <= needed:
            return needed
        needed |= more


def baseline_sources(cells: Iterable[NotebookNode]) -> list[str]:
    """What the baseline's sandbox runs: of the locked cells those that its tests need, and no learner's code.

    A cell that makes no name (it may set a number of threads) runs where it reads nothing else.
    """
    code = [cell for cell in cells if cell.cell_type == "code"]
    used = {name for cell in code if is_test(cell) for name, _ in _used_of_baseline(cell.source)}
    given = [(cell.source, global_names(as_python(cell.source))) for cell in code if is_given(cell)]
    needed = needed_names([names for _, names in given], used)
    there = BUILTINS.union(ADDED, *(names.made for _, names in given if names.made & needed))
    return [
        source
        for source, names in given
        if used and (names.made & needed or (not names.made and names.free <= there))
    ]


def check_names(
    cells: Sequence[NotebookNode], places: Sequence[Place], declared: Sequence[str], timed: bool
) -> None:
    """Raises `LabError` for the first name that breaks the rules, with file, cell and line."""
    _check_declared(places, declared, timed)
    code = [(cell, place) for cell, place in zip(cells, places, strict=True) if cell.cell_type == "code"]
    tests = [_check_test(cell.source, place, declared, timed) for cell, place in code if is_test(cell)]
    others: list[tuple[NotebookNode, Place, Names]] = []
    for cell, place in code:
        if not is_test(cell):
            others.append((cell, place, _names(as_python(cell.source), place)))
    made = {name for _, _, names in others for name in names.made}
    for name in declared:
        if name not in made:
            raise places[0].error(
                f"the header declares {name!r}, and no cell makes it; strike it off distlab's names, or make it "
                "in a cell that is no test"
            )
    made_by_tests = {name for names in tests for name in names.made}
    for cell, place, names in others:
        for name in sorted(names.free & (made_by_tests - made)):
            raise place.error(
                f"{name!r} is read here, and only a test makes it; make it in a cell of its own",
                first_line(as_python(cell.source), name) - 1,
            )
    needed = needed_names([names for *_, names in others], {name for names in tests for name in names.free})
    lasting = {name for cell, _, names in others if not is_measure(cell) for name in names.made}
    for _cell, place, names in others:
        for name in sorted(names.made & needed - lasting):
            raise place.error(
                f"this cell is tagged `{MEASURE}` and makes {name!r}, which a test needs; take the tag away"
            )
    if timed:
        _check_baseline(code)


def is_test(cell: NotebookNode) -> bool:
    """Is it a code cell that is graded by running it?"""
    meta = cell.metadata.get("nbgrader", {})
    return bool(cell.cell_type == "code" and meta.get("grade") and not meta.get("solution"))


def is_measure(cell: NotebookNode) -> bool:
    """Is it a cell that only measures, and runs for its outputs alone?"""
    return MEASURE in cell.metadata.get("tags", ())


def is_given(cell: NotebookNode) -> bool:
    """Is it the course's own code, the same in every notebook?"""
    meta = cell.metadata.get("nbgrader", {})
    return bool(meta.get("locked") and not (meta.get("grade") or meta.get("solution") or is_measure(cell)))


def defined(source: str) -> set[str]:
    """The functions and classes that a cell of the course's defines."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.parse(as_python(source)).body if isinstance(node, kinds)}


def as_python(source: str) -> str:
    """A cell's text with IPython's magics and shell commands as the calls that they are. Lines keep their number
    where no magic spans several."""
    try:
        ast.parse(source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # slow to import, and seldom needed

        empty_lines = source[: len(source) - len(source.lstrip("\n"))]  # it drops them
        return empty_lines + str(TransformerManager().transform_cell(source))  # type: ignore[no-untyped-call]
    return source


def first_line(source: str, name: str) -> int:
    """The first line, from 1, that reads `name`."""
    return min(
        (
            node.lineno
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Store)
        ),
        default=1,
    )


def _check_declared(places: Sequence[Place], declared: Sequence[str], timed: bool) -> None:
    for name in declared:
        if timed and name == BASELINE:
            raise places[0].error(
                f"the header declares {name!r}, which a timed lab has already; take another"
            )
        dunder = name.startswith("__") and name.endswith("__")
        if name in BUILTINS | ADDED or dunder or keyword.iskeyword(name):
            raise places[0].error(f"the header declares {name!r}, which is Python's own name; take another")
    if len(set(declared)) < len(declared):
        twice = next(name for name in declared if declared.count(name) > 1)
        raise places[0].error(f"the header declares {twice!r} twice")


def _check_test(source: str, place: Place, declared: Sequence[str], timed: bool) -> Names:
    """The names of a test; raises where it reads one that it has not."""
    names = _names(source, place)
    for node in ast.walk(ast.parse(source)):
        if _is_lenient_zip(node):
            raise place.error(
                f"a test's zip says strict=True, or strict=False, unlike {ast.unparse(node)!r}: it would pass "
                "whatever is too short",
                node.lineno - 1,
            )
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            raise place.error(
                f"a test imports by name, not {ast.unparse(node)!r}: it would hide what it reads",
                node.lineno - 1,
            )
    for name in sorted(names.made & set(declared)):
        raise place.error(f"this test makes {name!r}, which the header declares as the learner's; rename it")
    given = {BASELINE} if timed else set()
    for name in sorted(names.made & given):
        raise place.error(f"this test makes {name!r}, which a timed lab has already; rename it")
    for name in sorted(names.free - BUILTINS - set(declared) - given):
        raise place.error(
            f"this test reads {name!r}: it is no builtin, the test does not make it, and the header's distlab "
            "names do not declare it",
            first_line(source, name) - 1,
        )
    return names


def _is_lenient_zip(node: ast.AST) -> TypeGuard[ast.Call]:
    """Is it a zip of several that ends silently with the shortest?"""
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "zip"
        and (len(node.args) > 1 or any(isinstance(argument, ast.Starred) for argument in node.args))
        and all(word.arg != "strict" for word in node.keywords)
    )


def _used_of_baseline(source: str) -> Iterator[tuple[str, int]]:
    """The names NAME of each `baseline.NAME`, with the line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == BASELINE:
            yield node.attr, node.lineno


def _check_baseline(code: Sequence[tuple[NotebookNode, Place]]) -> None:
    """Raises where the baseline's sandbox would not have what a test asks of it."""
    given = [_names(as_python(cell.source), place) for cell, place in code if is_given(cell)]
    there = {name for names in given for name in names.made} | BUILTINS | ADDED
    for cell, place in code:
        for name, line in _used_of_baseline(cell.source) if is_test(cell) else ():
            for missing in sorted(needed_names(given, [name]) - there):
                raise place.error(
                    f"{BASELINE}.{name} needs {missing!r}, and no cell makes it that is locked and no solution",
                    line - 1,
                )


def _names(source: str, place: Place) -> Names:
    try:
        return global_names(source)
    except SyntaxError as error:
        raise place.error(f"not plain Python: {error.msg}", (error.lineno or 1) - 1) from error


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)
