"""Which groups of cells are judged together, by which target, and whether they miss it.

for group in groups(score_shipped()): print(group.family, group.name, group.misses)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distlab.errors import printable
from distlab.predict.units import MIB
from distlab.predict.validation import Scored
from distlab.predict.validation.families import (
    ACROSS_MEAN,
    ANY,
    FAMILIES,
    INSIDE_MEAN,
    KIND_NAMES,
    NO_TARGET,
    OF_INTERPOLATION,
    TARGETS,
    WHY_MISSED,
    Target,
)

SMALL_MOST_BYTES = MIB
"""Up to here measured collectives are mostly noise: no target."""


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
        return statistics.fmean(self.errors) > self.target.mean or any(map(self.target.missed_by, self.cells))

    @property
    def why(self) -> str:
        """Why it misses its target, where that is known."""
        if not self.misses:
            return ""
        return WHY_MISSED.get((self.family, self.name)) or WHY_MISSED.get((self.family, ANY), "")


def is_small(cell: Scored) -> bool:
    """A collective below the noise floor."""
    return cell.kind == "collective" and cell.payload_bytes <= SMALL_MOST_BYTES


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
    lines = {cell: error for run in runs.values() for cell, error in interpolated(run)}
    return [
        Group(family, name, tuple(cells), _target(cells, lines)) for (family, name, _), cells in found.items()
    ]


def _group_name(cell: Scored) -> str:
    if cell.kind != "collective":
        return KIND_NAMES[cell.kind]
    if is_small(cell):
        return "up to 1 MiB: mostly noise"
    name, gpus, per_node = cell.run
    return f"{printable(name)}, {gpus // per_node} x {per_node}"


def _target(cells: Sequence[Scored], lines: dict[Scored, float]) -> Target:
    first = cells[0]
    family = FAMILIES.get(first.family)
    if family and family.target:
        return family.target
    if first.kind != "collective":
        return TARGETS.get(first.kind, NO_TARGET)
    if is_small(first):
        return NO_TARGET
    plain = INSIDE_MEAN if first.run[1] == first.run[2] else ACROSS_MEAN
    between = [lines[cell] for cell in cells if cell in lines]
    return Target(mean=max(plain, OF_INTERPOLATION * statistics.fmean(between) if between else 0.0))


def interpolated(run: Sequence[Scored]) -> list[tuple[Scored, float]]:
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
