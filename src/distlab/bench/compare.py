"""`distlab bench compare before.json after.json`: slower beyond noise, or not.

    distlab bench collectives --launches 5 --out before.json
    ... change something ...
    distlab bench collectives --launches 5 --out after.json
    distlab bench compare before.json after.json          # exit code 1 where a row is slower beyond noise

Reads what any benchmark of the package writes with `--out`. What counts as noise, and why starts are the unit of
evidence where there are several: see `distlab.bench.significance`.
"""

from __future__ import annotations

import json as jsonlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from distlab.bench.printing import print_report
from distlab.bench.results import Identity, Results, read_results
from distlab.bench.significance import (
    BLOCKS,
    LAUNCHES_LEAST,
    Difference,
    blocks,
    difference,
    holm,
    launches_of,
    noise_between_starts,
)
from distlab.errors import SettingError, printable

MACHINE = ("tier", "hardware", "cores", "world_size", "backend", "threads_per_rank", "network", "topology")
"""Fields of the stamp that must agree: times of different machines differ for that reason alone."""
VERSIONS = ("torch", "python", "system", "driver", "cuda", "nccl")
"""Fields whose change may be what is tested: it is said."""
CONFIDENCE = 0.95
WHAT_TIMES = (
    "Before and after are the geometric mean of the medians of each launch (with fewer than "
    f"{LAUNCHES_LEAST} launches: of each of up to {BLOCKS} stretches of the times), which noise is told from; the "
    "median of all calls, in the benchmark's own table, may differ by a little."
)

Verdict = Literal["slower", "faster", "same", "unknown"]


@dataclass(frozen=True)
class Compared:
    """One row of both files."""

    identity: Identity
    before_s: float
    """Geometric mean of the medians of the launches (stretches, where there were few), as `after_s`."""
    after_s: float
    ratio: float | None
    """`after_s` over `before_s`; None where there are too few times to know their noise."""
    low: float | None
    """The interval that holds the true ratio with 95% confidence, each row for itself."""
    high: float | None
    p_slower: float | None
    """Adjusted for the number of rows: slower beyond noise where at most alpha."""
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    """All rows that two files share."""

    kind: str
    alpha: float
    rows: list[Compared]
    notes: list[str]
    missing: int = 0
    """Rows of the first file that the second lacks."""
    wrong: int = 0
    """Rows of the second file that delivered wrong elements: their times say nothing."""

    @property
    def unknown(self) -> list[Compared]:
        return [row for row in self.rows if row.verdict == "unknown"]

    @property
    def slower(self) -> list[Compared]:
        return [row for row in self.rows if row.verdict == "slower"]


def compare(
    before: Positional[Path],
    after: Positional[Path],
    alpha: float = 0.01,
    across_machines: bool = False,
    allow_missing: bool = False,
    json: bool = False,
) -> int:
    """Compare two result files; exit code 1 where a row of the second is slower beyond noise.

    The same code where a row cannot be judged: it is missing in the second file, has too few times, or delivered
    wrong elements.

    Noise is measured, not assumed: the times of a row vary from launch to launch, or, where there was one launch, along
    the run and between rows. Where nothing has changed, an alarm on any row at all has a probability of `alpha`.

    Args:
        before: What `distlab bench ... --out` wrote.
        after: The same, later.
        alpha: Probability of a false alarm that is accepted, over all rows together.
        across_machines: Compare results of different machines, too.
        allow_missing: Accept that the second file lacks rows of the first.
        json: Print the comparison as JSON in place of the table.
    """
    if not 0 < alpha < 0.5:
        raise SettingError(
            f"alpha is {alpha}; a probability of false alarms is more than 0 and less than 0.5."
        )
    comparison = compared(read_results(before), read_results(after), alpha, across_machines)
    print(as_json(comparison)) if json else print_comparison(comparison)
    missing = comparison.missing and not allow_missing
    return 1 if comparison.slower or comparison.unknown or comparison.wrong or missing else 0


def compared(
    before: Results, after: Results, alpha: float = 0.01, across_machines: bool = False
) -> Comparison:
    """Compare the rows that both have.

    SettingError where they are of different benchmarks or machines, or share no row.
    """
    if before.kind != after.kind or tuple(before.identity) != tuple(after.identity):
        raise SettingError(
            f"The first file holds results of {printable(before.kind)!r}, the second of {printable(after.kind)!r}, or "
            "of another version of it; compare files of the same benchmark."
        )
    notes = _machine_notes(before.stamp, after.stamp, across_machines)
    old = {before.named(row): row for row in before.rows}
    new = {after.named(row): row for row in after.rows}
    shared = [identity for identity in old if identity in new]
    if not shared:
        raise SettingError("The two files share no row; measure the same operations and sizes.")
    for where, lone in (("first", len(old) - len(shared)), ("second", len(new) - len(shared))):
        if lone:
            notes.append(
                f"{_rows(lone)} of the {where} file {'is' if lone == 1 else 'are'} not in the other."
            )
    for where, one, other in (("first", before, after), ("second", after, before)):
        notes += [
            f"The {where} file alone: {printable(note)}" for note in one.notes if note not in other.notes
        ]
    wrong = sum(bool(new[name].get("wrong")) for name in shared)
    if wrong:
        notes.append(f"{_rows(wrong)} of the second file delivered wrong elements: the times say nothing.")
    rows, notes = _decided(shared, [(old[name], new[name]) for name in shared], alpha, notes)
    return Comparison(before.kind, alpha, rows, notes, missing=len(old) - len(shared), wrong=wrong)


def _machine_notes(before: Mapping[str, Any], after: Mapping[str, Any], across: bool) -> list[str]:
    def change(name: str) -> str:
        return f"{name} {_shown(before.get(name))} before, {_shown(after.get(name))} after"

    differing = [name for name in MACHINE if before.get(name) != after.get(name)]
    if differing and not across:
        raise SettingError(
            f"The files are of different machines or set-ups ({'; '.join(map(change, differing))}): times differ for "
            "that reason alone. Measure both on one machine, or compare with --across-machines."
        )
    notes = [f"Different set-ups: {change(name)}." for name in differing]
    return notes + [f"Changed: {change(name)}." for name in VERSIONS if before.get(name) != after.get(name)]


def _shown(value: Any) -> str:
    return printable(str(value if value not in (None, "", []) else "nothing"))[:120]


def _decided(
    names: Sequence[Identity],
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    alpha: float,
    notes: list[str],
) -> tuple[list[Compared], list[str]]:
    evidence = [(blocks(old), blocks(new)) for old, new in pairs]
    differences = [difference(old, new) for old, new in evidence]
    lone = [min(launches_of(old), launches_of(new)) < LAUNCHES_LEAST for old, new in pairs]
    known = [found for found, alone in zip(differences, lone, strict=True) if found is not None and alone]
    noise = noise_between_starts(known)
    if any(lone):
        notes.append(_start_note(noise))
    certain = [
        found.with_noise(noise or 0.0) if found is not None and alone else found
        for found, alone in zip(differences, lone, strict=True)
    ]
    decided = [found for found in certain if found is not None]
    slower = iter(holm([found.p_longer() for found in decided]))
    faster = iter(holm([found.p_shorter() for found in decided]))
    rows = []
    for name, (old_logs, new_logs), found in zip(names, evidence, certain, strict=True):
        medians = math.exp(statistics.fmean(old_logs)), math.exp(statistics.fmean(new_logs))
        if found is None:
            rows.append(Compared(name, *medians, None, None, None, None, "unknown"))
        else:
            rows.append(_row(name, medians, found, next(slower), next(faster), alpha))
    if unknown := len(rows) - len(decided):
        notes.append(f"{_rows(unknown)} had too few times to tell noise; measure with more iterations.")
    return rows, notes


def _row(
    name: Identity,
    medians: tuple[float, float],
    found: Difference,
    p_slower: float,
    p_faster: float,
    alpha: float,
) -> Compared:
    verdict: Verdict = "slower" if p_slower <= alpha else "faster" if p_faster <= alpha else "same"
    low, high = found.interval(CONFIDENCE)
    return Compared(name, *medians, found.ratio, low, high, p_slower, verdict)


def _start_note(noise: float | None) -> str:
    advice = f"Measure with --launches 5 (at least {LAUNCHES_LEAST}) to see it."
    if noise is None:
        return (
            "One launch, and few rows: the noise between two starts of the processes is not in these files, so a "
            f"difference may be the luck of a start. {advice}"
        )
    return (
        f"One launch: the noise between two starts is taken from the spread over the rows, {noise**0.5:.1%} of a "
        f"time. {advice}"
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def as_json(comparison: Comparison) -> str:
    """Plain data."""
    rows = [asdict(row) | {"identity": dict(row.identity)} for row in comparison.rows]
    content = {
        "kind": comparison.kind,
        "alpha": comparison.alpha,
        "slower": len(comparison.slower),
        "unknown": len(comparison.unknown),
        "missing": comparison.missing,
        "wrong": comparison.wrong,
        "rows": rows,
        "notes": comparison.notes,
    }
    return jsonlib.dumps(content, indent=1)


def print_comparison(comparison: Comparison) -> None:
    """A table, the notes, and the verdict. What is the same in all rows stands in the title."""
    values = {
        name: {dict(row.identity)[name] for row in comparison.rows} for name, _ in comparison.rows[0].identity
    }
    fixed = ", ".join(f"{name} {value}" for name, (value, *more) in values.items() if not more)
    varying = [name for name, found in values.items() if len(found) > 1]
    table = Table(
        title=escape(printable(f"{comparison.kind}: {fixed}")), box=box.SIMPLE_HEAD, title_justify="left"
    )
    for name in varying:
        table.add_column(escape(printable(name)), no_wrap=True)
    for heading in (
        "before (us),\nof medians",
        "after (us),\nof medians",
        "after /\nbefore",
        "its 95%\ninterval",
        "p of slower\n(adjusted)",
        "",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        what = [escape(printable(str(dict(row.identity)[name]))) for name in varying]
        table.add_row(*what, f"{1e6 * row.before_s:.5g}", f"{1e6 * row.after_s:.5g}", *_figures(row))
    print_report([table], [WHAT_TIMES, *comparison.notes, verdict(comparison)])


def _figures(row: Compared) -> list[str]:
    if row.ratio is None or row.low is None or row.high is None or row.p_slower is None:
        return ["-", "-", "-", "unknown"]
    colour = {"slower": "bold red", "faster": "green"}.get(row.verdict)
    word = f"[{colour}]{row.verdict}[/]" if colour else row.verdict
    return [f"{row.ratio:.3f}", f"{row.low:.3g} to {row.high:.3g}", f"{row.p_slower:.2g}", word]


def verdict(comparison: Comparison) -> str:
    """One sentence."""
    counts = {word: sum(row.verdict == word for row in comparison.rows) for word in ("slower", "faster")}
    if counts["slower"]:
        return (
            f"Slower beyond noise: {counts['slower']} of {_rows(len(comparison.rows))} (probability of any false alarm "
            f"{comparison.alpha:g})."
        )
    faster = f"; faster beyond noise: {counts['faster']}" if counts["faster"] else ""
    unjudged = len(comparison.unknown) + comparison.wrong + comparison.missing
    open_ = f"; not judged: {_rows(unjudged)}, see above" if unjudged else ""
    return f"No row of {len(comparison.rows)} is slower beyond noise{faster}{open_}."
