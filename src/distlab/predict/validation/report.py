"""`distlab scorecard`: how far the models are off measured cases, those of the package or those of a folder.

    distlab scorecard                        # the cases in the package: all groups, and the cells of those that miss
    distlab scorecard --family megatron_530b --all    # every cell of a family
    distlab scorecard --peers                # the same beside other people's estimators
    distlab scorecard --cases FOLDER --json  # CSV files of your own, one row for each measured cell
    distlab scorecard --formats              # their columns

Nothing is fitted here. The book's page shows the same tables, computed when it is built.
"""

from __future__ import annotations

import heapq
import json as jsonlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import UseAppendAction, arg

from distlab.errors import SettingError, printable
from distlab.predict.peers import Answer, ask
from distlab.predict.validation import Scored, shown
from distlab.predict.validation.families import FAMILIES, NO_TARGET
from distlab.predict.validation.files import Problems, score_folder
from distlab.predict.validation.peers import beside, described, side_by_side
from distlab.predict.validation.shipped import score_shipped
from distlab.predict.validation.tables import Table, details, formats_table, summary
from distlab.predict.validation.targets import Group, groups

FAR_OFF_MOST = 500
"""Cells of a group that are listed: nobody reads more, and a table of them takes longer than their predictions."""


def main(
    cases: Path | None = None,
    json: bool = False,
    peers: bool = False,
    family: Annotated[tuple[str, ...], UseAppendAction] = (),
    misses: bool = False,
    every_cell: Annotated[bool, arg(name="all")] = False,
    formats: bool = False,
) -> int:
    """Score the models against measured cases, without any fit; exits 0 however large the errors are.

    Args:
        cases: a folder with CSV files, of which --formats has the columns; without one, the cases that the package
            holds.
        json: print one object for each measured cell: family, case, predicted, measured, signed_error.
        peers: run llm-analysis and the estimators of DeepSpeed, Accelerate and torch on the same cases, too (minutes),
            and print the errors side by side; with json also objects of theirs, which have the peer's name as by.
        family: only this one, as the first table or a file of the folder is called; may be given again.
        misses: only groups that miss their targets.
        every_cell: show every cell, not those alone of groups that miss their targets.
        formats: show the columns that files of a folder need, and those that they may have.
    """
    if formats:
        show(formats_table())
        return 0
    with Console(stderr=True).status("Scoring ..."):
        scored, problems = (score_shipped(), Problems()) if cases is None else score_folder(cases)
        absent = without_cases(scored) if cases is None else []
        scored = chosen(scored, family, absent)
        if misses:
            scored = [cell for group in groups(scored) if group.misses for cell in group.cells]
        answers, missing = ask(scored) if peers else ([], [])
    if json:
        rows = [cell.as_row() for cell in scored] + [answer.as_row() for answer in answers]
        lines = [jsonlib.dumps(row, allow_nan=False) for row in rows]
        print("[" + ",\n".join(lines) + "]")
    else:
        if misses and not scored:
            _line("No group misses its target.")
        else:
            _print(scored, every_cell)
        if absent and not family:
            _line(f"The package has no cases yet of {', '.join(absent)}.")
        _print_peers(answers)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    _say(problems)
    return 0


def without_cases(scored: Sequence[Scored]) -> list[str]:
    """Families that are described and have no cell: nobody has measured them yet."""
    there = {cell.family for cell in scored}
    return [name for name in FAMILIES if name not in there]


def chosen(scored: Sequence[Scored], families: Sequence[str], absent: Sequence[str] = ()) -> list[Scored]:
    """The cells of these families; of all where none is named. SettingError for one without cases (`absent`: known)."""
    known = list(dict.fromkeys(cell.family for cell in scored))
    for name in families:
        there = ", ".join(map(printable, known)) or "none, for nothing was scored"
        if name in absent:
            raise SettingError(
                f"family is {name!r}, of which the package has no cases yet; it is one of {there}."
            )
        if name not in known:
            raise SettingError(f"family is {shown(name)}; it is one of {there}.")
    return [cell for cell in scored if not families or cell.family in families]


def _print_peers(answers: Sequence[Answer]) -> None:
    if answers:
        for table in (*beside(answers), side_by_side(answers)):
            show(table)
        for line in described(answers):
            _line(line)


def _line(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)


def _say(problems: Problems) -> None:
    for sentence in (*problems.sentences, *problems.ignored):
        print(sentence, file=sys.stderr)
    if problems.cells or problems.files:
        print(f"Not scored: {problems.cells} cells, {problems.files} whole files.", file=sys.stderr)


def _print(scored: Sequence[Scored], every_cell: bool) -> None:
    """What all add up to; then the cells of groups that miss their targets, or all cells; then the verdict."""
    found = groups(scored)
    detailed = found if every_cell else [far_off(group) for group in found if group.misses]
    for table in ([summary(found)] if found else []) + details(detailed):
        show(table)
    rest = len(scored) - sum(len(group.cells) for group in detailed)
    if rest:
        cut = any(len(group.cells) == FAR_OFF_MOST for group in detailed) and not every_cell
        most = f", or of a group are not among the {FAR_OFF_MOST} furthest off," if cut else ""
        _line(f"{rest} cells that meet their targets, or have none{most}, are not listed; --all lists them.")
    for line in verdict(scored, found):
        _line(line)


def far_off(group: Group) -> Group:
    """Of a group that misses its target, the cells that do: all of them where only their mean does. Of very many the
    furthest off, which come first."""
    cells = tuple(filter(group.target.missed_by, group.cells)) or group.cells
    if len(cells) > FAR_OFF_MOST:
        cells = tuple(heapq.nlargest(FAR_OFF_MOST, cells, key=lambda cell: abs(cell.signed_error)))
    return replace(group, cells=cells)


def show(table: Table) -> None:
    """Print a table, as wide as it needs to be."""
    console = Console()
    drawn = table.as_rich()
    width = console.measure(drawn, options=console.options.update(max_width=1000)).maximum
    Console(file=console.file, width=max(width, console.width)).print(drawn)


def verdict(scored: Sequence[Scored], found: Sequence[Group]) -> list[str]:
    """Sentences: what was counted, which targets are missed and why."""
    fitted = sum(cell.fitted for cell in scored)
    held = [group for group in found if not group.fitted and group.target != NO_TARGET]
    missed = [group for group in held if group.misses]
    lines = [
        f"{len(scored)} cells, {fitted} of them used in a fit, {len(scored) - fitted} not.",
        f"Targets are for cases that no fit used: missed by {len(missed)} of {len(held)} such groups.",
    ]
    lines += [
        f"{family}, {'; '.join(group.name for group in together)}: {why}"
        for (family, why), together in reasons(missed).items()
        if why
    ]
    lines.append(
        "Errors are (predicted - measured) / measured; mean, median, p95 and max are of absolute ones."
    )
    return lines


def reasons(missed: Sequence[Group]) -> dict[tuple[str, str], list[Group]]:
    """Groups that miss their targets, by family and reason."""
    found: dict[tuple[str, str], list[Group]] = {}
    for group in missed:
        found.setdefault((group.family, group.why), []).append(group)
    return found
