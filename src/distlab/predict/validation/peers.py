"""The models beside other people's estimators, on the same cells: tables of `distlab.predict.peers`' answers.

answers, missing = peers.ask(cells)
side_by_side(answers).as_rich()         # errors of each peer and of the models, family by family
for table in beside(answers): ...       # cell by cell
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from distlab.predict.peers import PEERS, Answer
from distlab.predict.validation import Scored
from distlab.predict.validation.families import KIND_NAMES
from distlab.predict.validation.tables import Line, Table, number, percent
from distlab.predict.validation.targets import is_small

OURS = "distlab"


def side_by_side(answers: Sequence[Answer]) -> Table:
    """Mean, median and max of absolute errors, on the cells that the peer applies to: its own, then the models'."""
    found: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        cell = answer.cell
        found.setdefault((cell.family, _group(cell), answer.peer), []).append(answer)
    lines = []
    before = ""
    families = list(dict.fromkeys(family for family, _, _ in found))
    for (family, group, peer), theirs in sorted(found.items(), key=lambda item: families.index(item[0][0])):
        cells = (
            "" if family == before else family,
            group,
            peer,
            str(len(theirs)),
            *_errors([answer.signed_error for answer in theirs]),
            *_errors([answer.cell.signed_error for answer in theirs]),
        )
        lines.append(Line(cells, new=before not in ("", family)))
        before = family
    figures = ("mean", "median", "max")
    columns = ("family", "group", "peer", "cells", *figures, *(f"{OURS}: {name}" for name in figures))
    return Table(columns, 3, tuple(lines))


def _group(cell: Scored) -> str:
    if cell.kind != "collective":
        return KIND_NAMES[cell.kind]
    return "up to 1 MiB: mostly noise" if is_small(cell) else "over 1 MiB, one node"


def _errors(signed: Sequence[float]) -> tuple[str, str, str]:
    errors = [abs(error) for error in signed]
    return percent(statistics.fmean(errors)), percent(statistics.median(errors)), percent(max(errors))


def beside(answers: Sequence[Answer]) -> list[Table]:
    """Signed errors cell by cell, a table for each family; collectives are too many for it."""
    families: dict[str, dict[Scored, dict[str, str]]] = {}
    for answer in answers:
        if answer.cell.kind != "collective":
            row = families.setdefault(answer.cell.family, {}).setdefault(answer.cell, {})
            row[answer.peer] = percent(answer.signed_error, "+")
    tables = []
    for family, rows in families.items():
        present = [peer.name for peer in PEERS if any(peer.name in row for row in rows.values())]
        lines = [
            Line(
                (
                    cell.case,
                    f"{number(cell.measured)} {cell.unit}".rstrip(),
                    percent(cell.signed_error, "+"),
                    *(row.get(name, "") for name in present),
                )
            )
            for cell, row in rows.items()
        ]
        tables.append(Table(("case", "measured", OURS, *present), 1, tuple(lines), family))
    return tables


def described(answers: Sequence[Answer]) -> list[str]:
    """Of each peer that answered: what it was given, and what it leaves out."""
    names = {answer.peer for answer in answers}
    return [
        f"{peer.name}: {peer.assumed} Leaves out: {peer.leaves_out}" for peer in PEERS if peer.name in names
    ]
