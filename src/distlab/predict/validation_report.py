"""`distlab scorecard`: how far the models are off measured cases, those of the package or those of a folder.

    distlab scorecard                        # the cases in the package
    distlab scorecard --peers                # the same beside other people's estimators
    distlab scorecard --cases FOLDER --json  # CSV files of your own, one row for each measured cell

Nothing is fitted here. Formats and models: `distlab.predict.validation_formats`. The book's page shows the same tables,
computed when it is built.
"""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distlab.predict.peers import Answer, ask
from distlab.predict.validation import Scored
from distlab.predict.validation_families import NO_TARGET
from distlab.predict.validation_files import Problems, score_folder
from distlab.predict.validation_peers import beside, described, side_by_side
from distlab.predict.validation_shipped import score_shipped
from distlab.predict.validation_tables import Table, details, summary
from distlab.predict.validation_targets import Group, groups


def main(cases: Path | None = None, json: bool = False, peers: bool = False) -> int:
    """Score the models against measured cases, without any fit; exits 0 however large the errors are.

    Args:
        cases: a folder with CSV files in the formats of `distlab.predict.validation_formats`; without one, the cases
            that the package holds.
        json: print one object for each measured cell: family, case, predicted, measured, signed_error.
        peers: run llm-analysis and the estimators of DeepSpeed, Accelerate and torch on the same cases, too (minutes),
            and print the errors side by side; with json also objects of theirs, which have the peer's name as by.
    """
    with Console(stderr=True).status("Scoring ..."):
        scored, problems = (score_shipped(), Problems()) if cases is None else score_folder(cases)
        answers, missing = ask(scored) if peers else ([], [])
    if json:
        rows = [cell.as_row() for cell in scored] + [answer.as_row() for answer in answers]
        print(jsonlib.dumps(rows, indent=1, allow_nan=False))
    else:
        _print(scored)
        _print_peers(answers)
    for sentence in missing:
        print(sentence, file=sys.stderr)
    _say(problems)
    return 0


def _print_peers(answers: Sequence[Answer]) -> None:
    if answers:
        for table in (*beside(answers), side_by_side(answers)):
            show(table)
        for line in described(answers):
            Console().print(line, highlight=False, markup=False, soft_wrap=True)


def _say(problems: Problems) -> None:
    for sentence in problems.sentences:
        print(sentence, file=sys.stderr)
    if problems.cells or problems.files:
        print(f"Not scored: {problems.cells} cells, {problems.files} whole files.", file=sys.stderr)


def _print(scored: Sequence[Scored]) -> None:
    """Cells first, so that what they add up to is what one sees."""
    found = groups(scored)
    if found:
        for table in (*details(found), summary(found)):
            show(table)
    for line in verdict(scored, found):
        Console().print(line, highlight=False, markup=False, soft_wrap=True)


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
