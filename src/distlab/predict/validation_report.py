"""`distlab scorecard`: how far the models are off measured cases, those of the package or those of a folder.

    distlab scorecard                        # the cases in the package
    distlab scorecard --cases FOLDER --json  # CSV files of your own, one row for each measured cell

Nothing is fitted here. Formats and models: `distlab.predict.validation`.
"""

from __future__ import annotations

import json as jsonlib
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.errors import printable
from distlab.predict.units import MIB
from distlab.predict.validation import Scored, score_shipped
from distlab.predict.validation_files import Problems, score_folder

SMALL_MOST_BYTES = MIB
"""Up to here measured collectives are mostly noise: no target."""

CASES_SHOWN = 20
"""Families of at most so many cells are listed cell by cell."""


@dataclass(frozen=True)
class Target:
    """What absolute errors may be at most: their mean, and each."""

    mean: float = math.inf
    each: float = math.inf


@dataclass(frozen=True)
class Group:
    """Cells that are judged together: all of them used in a fit, or none."""

    family: str
    name: str
    cells: tuple[Scored, ...]
    target: Target

    @property
    def errors(self) -> list[float]:
        return [abs(cell.signed_error) for cell in self.cells]

    @property
    def fitted(self) -> bool:
        return self.cells[0].fitted

    @property
    def misses(self) -> bool:
        return statistics.fmean(self.errors) > self.target.mean or max(self.errors) > self.target.each


ACTIVATIONS = Target(each=0.05)
STEPS = Target(mean=0.035, each=0.09)
"""Calculon's own validation: 3.65% and 8.87%."""
INSIDE_MEAN, ACROSS_MEAN, OF_INTERPOLATION = 0.04, 0.10, 1.25


def percentile_95(errors: Sequence[float]) -> float:
    """The least error that 95% of them do not exceed. ValueError for none."""
    if not errors:
        raise ValueError("there are no errors")
    return sorted(errors)[math.ceil(0.95 * len(errors)) - 1]


def groups(scored: Iterable[Scored]) -> list[Group]:
    """By family; collectives also by size and run; fitted cells apart from those held out."""
    everything = list(scored)
    runs: dict[tuple[str, object], list[Scored]] = {}
    found: dict[tuple[str, str, bool], list[Scored]] = {}
    for cell in everything:
        if cell.kind == "collective":
            runs.setdefault((cell.family, cell.run), []).append(cell)
        found.setdefault((cell.family, _group_name(cell), cell.fitted), []).append(cell)
    lines = {cell: error for run in runs.values() for cell, error in _interpolated(run)}
    return [
        Group(family, name, tuple(cells), _target(name, cells, lines))
        for (family, name, _), cells in found.items()
    ]


def _group_name(cell: Scored) -> str:
    if cell.kind != "collective":
        return "step time" if cell.kind == "step" else "activations"
    if cell.payload_bytes <= SMALL_MOST_BYTES:
        return "up to 1 MiB: mostly noise"
    name, gpus, per_node = cell.run
    return f"{printable(name)}, {gpus // per_node} x {per_node}"


def _target(name: str, cells: Sequence[Scored], lines: dict[Scored, float]) -> Target:
    first = cells[0]
    if first.kind != "collective":
        return STEPS if first.kind == "step" else ACTIVATIONS
    if first.payload_bytes <= SMALL_MOST_BYTES:
        return Target()
    plain = INSIDE_MEAN if first.run[1] == first.run[2] else ACROSS_MEAN
    between = [lines[cell] for cell in cells if cell in lines]
    return Target(mean=max(plain, OF_INTERPOLATION * statistics.fmean(between) if between else 0.0))


def _interpolated(run: Sequence[Scored]) -> list[tuple[Scored, float]]:
    """Of each cell of a run between two other sizes: how far the line between them (of logarithms) is off."""
    cells = sorted(run, key=lambda cell: cell.payload_bytes)
    found = []
    for below, cell, above in zip(cells, cells[1:], cells[2:], strict=False):
        if below.payload_bytes < cell.payload_bytes < above.payload_bytes:
            low, at, high = (math.log(c.payload_bytes) for c in (below, cell, above))
            share = (at - low) / (high - low)
            line = (1 - share) * math.log(below.measured) + share * math.log(above.measured)
            found.append((cell, abs(math.expm1(min(line - math.log(cell.measured), 700.0)))))
    return found


def main(cases: Path | None = None, json: bool = False) -> int:
    """Score the models against measured cases, without any fit; exits 0 however large the errors are.

    Args:
        cases: a folder with CSV files in the formats of `distlab.predict.validation`; without one, the cases that the
            package holds.
        json: print one object for each measured cell: family, case, predicted, measured, signed_error.
    """
    with Console(stderr=True).status("Scoring ..."):
        scored, problems = (score_shipped(), Problems()) if cases is None else score_folder(cases)
    if json:
        print(jsonlib.dumps([cell.as_row() for cell in scored], indent=1, allow_nan=False))
    else:
        _print(scored)
    _say(problems)
    return 0


def _say(problems: Problems) -> None:
    for sentence in problems.sentences:
        print(sentence, file=sys.stderr)
    if problems.cells or problems.files:
        print(f"Not scored: {problems.cells} cells, {problems.files} whole files.", file=sys.stderr)


def _print(scored: Sequence[Scored]) -> None:
    console = Console()
    found = groups(scored)
    tables = [_summary(found), *_details(found)] if found else []
    for table in tables:
        width = console.measure(table, options=console.options.update(max_width=1000)).maximum
        Console(file=console.file, width=max(width, console.width)).print(table)
    fitted = sum(cell.fitted for cell in scored)
    missed = sum(group.misses for group in found if not group.fitted)
    held = sum(not group.fitted and group.target != Target() for group in found)
    for line in (
        f"{len(scored)} cells, {fitted} of them used in a fit (network.systems, cluster), {len(scored) - fitted} not.",
        f"Targets are for cases that no fit used: missed by {missed} of {held} such groups.",
        "Errors are (predicted - measured) / measured; mean, median, p95 and max are of their absolute values.",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _summary(found: Sequence[Group]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("family", "group", "in a fit"):
        table.add_column(name)
    for name in ("cells", "mean", "median", "p95", "max", "signed mean", "target"):
        table.add_column(name, justify="right")
    family = ""
    for group in found:
        if family not in ("", group.family):
            table.add_section()
        shown, family = ("" if group.family == family else group.family), group.family
        errors = group.errors
        figures = (statistics.fmean(errors), statistics.median(errors), percentile_95(errors), max(errors))
        table.add_row(
            escape(printable(shown)),
            escape(group.name),
            "yes" if group.fitted else "no",
            str(len(errors)),
            *(_percent(figure) for figure in figures),
            _percent(statistics.fmean(cell.signed_error for cell in group.cells), "+"),
            _limits(group.target) + (", missed" if group.misses else ""),
            style="red" if group.misses else None,
        )
    return table


def _percent(fraction: float, sign: str = "") -> str:
    return f"{fraction:{sign}.1%}" if abs(fraction) < 1000 else f"{100 * fraction:{sign}.2g}%"


def _limits(target: Target) -> str:
    parts = [
        f"{what} {limit:.1%}"
        for what, limit in (("mean", target.mean), ("max", target.each))
        if limit < math.inf
    ]
    return ", ".join(parts) or "none"


def _details(found: Sequence[Group]) -> list[Table]:
    """Cell by cell, of the families that are small."""
    families: dict[str, list[tuple[Scored, Target]]] = {}
    for group in found:
        families.setdefault(group.family, []).extend((cell, group.target) for cell in group.cells)
    small = [(name, cells) for name, cells in families.items() if len(cells) <= CASES_SHOWN]
    if not small:
        return []
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("family", "case", "in a fit"):
        table.add_column(column)
    for column in ("predicted", "measured", "signed error"):
        table.add_column(column, justify="right")
    for name, cells in small:
        for cell, target in cells:
            table.add_row(
                escape(printable(name)),
                escape(cell.case),
                "yes" if cell.fitted else "no",
                f"{cell.predicted:.4g}",
                f"{cell.measured:.4g}",
                _percent(cell.signed_error, "+"),
                style="red" if abs(cell.signed_error) > target.each else None,
            )
        table.add_section()
    return [table]
