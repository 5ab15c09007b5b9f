"""Two profiles side by side: did it get faster, and where did the time go?

    distlab profile compare before after                 # writes after/comparison.html

The interval of the ratio tells how far the profiled steps of each run differ among themselves. How far two starts of
the same run differ, it cannot know: repeat both before you trust a few percent.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from tyro.conf import Positional

from distlab.bench.significance import difference
from distlab.errors import SettingError
from distlab.files import write_whole
from distlab.observe.profile.analysis import Analysis, read_analysis
from distlab.observe.profile.bottlenecks import Bottleneck, find_bottlenecks
from distlab.observe.profile.dossier import MOST_BARS, PARTS, beside, breakdown_figure

COMPARISON = "comparison.html"
TOP = 12
MOST = 0.5
"""Of the step's change: bottlenecks that went or came and cost as much are its cause."""


@dataclass(frozen=True)
class Change:
    """One part of the mean step, over all ranks, in seconds."""

    name: str
    before_s: float
    after_s: float

    @property
    def change_s(self) -> float:
        return self.after_s - self.before_s


@dataclass(frozen=True)
class Comparison:
    """What changed from one profile to another."""

    step: Change
    ratio: float
    """Mean step after over before."""
    low: float | None
    high: float | None
    """Hold the ratio of geometric means with 95% confidence; None for fewer than three steps on a side."""
    parts: tuple[Change, ...]
    """Their changes add up to the step's."""
    operators: tuple[Change, ...]
    """Self time per step of rank 0's operators, by the size of the change."""
    gone: tuple[str, ...]
    """Titles of bottlenecks that only the first has."""
    new: tuple[str, ...]
    warnings: tuple[str, ...]
    sentence: str


def compare_profiles(before: Analysis, after: Analysis) -> Comparison:
    """SettingError where one of them has no step."""
    for name, analysis in (("first", before), ("second", after)):
        if not _step_times(analysis):
            raise SettingError(f"The {name} profile has no step; profile a run that takes more steps.")
    step = _change("step", before, after, "step_s")
    parts = tuple(_change(label, before, after, name) for name, (label, _) in PARTS.items())
    logs = [[math.log(t) for t in _step_times(analysis)] for analysis in (before, after)]
    known = difference(*logs)
    low, high = known.interval(0.95) if known else (None, None)
    found = [[one for one in find_bottlenecks(analysis) if one.share] for analysis in (before, after)]
    titles = [[one.title for one in side] for side in found]
    gone = [one for one in found[0] if one.title not in titles[1]]
    new = [one for one in found[1] if one.title not in titles[0]]
    return Comparison(
        step=step,
        ratio=step.after_s / step.before_s,
        low=low,
        high=high,
        parts=parts,
        operators=_operators(before, after),
        gone=tuple(one.title for one in gone),
        new=tuple(one.title for one in new),
        warnings=tuple(_warnings(before, after)),
        sentence=_sentence(step, parts, low, high, _cause(step, gone, new)),
    )


def _change(label: str, before: Analysis, after: Analysis, name: str) -> Change:
    return Change(label, _mean(before, name), _mean(after, name))


def _mean(analysis: Analysis, name: str) -> float:
    return fmean(rank.mean()[name] for rank in analysis.ranks if rank.steps)


def _step_times(analysis: Analysis) -> list[float]:
    """Seconds of each step, by the rank that took longest: ranks of one step are no independent draws."""
    times: dict[int, float] = {}
    for rank in analysis.ranks:
        for step in rank.steps:
            times[step.step] = max(times.get(step.step, 0.0), step.step_s)
    return [time_s for time_s in times.values() if time_s > 0]


def _operators(before: Analysis, after: Analysis) -> tuple[Change, ...]:
    sides = []
    for analysis in (before, after):
        rank = next(rank for rank in analysis.ranks if rank.steps)
        sides.append({one.name: one.self_s / len(rank.steps) for one in rank.operators})
    # Only the top ones are kept; what one side lacks may be just below its list.
    names = [name for name in sides[0] if name in sides[1]]
    changes = [Change(name, sides[0][name], sides[1][name]) for name in names]
    return tuple(sorted(changes, key=lambda one: -abs(one.change_s))[:TOP])


def _warnings(before: Analysis, after: Analysis) -> list[str]:
    found = []
    if before.tier != after.tier:
        found.append(f"The first is of tier {before.tier}, the second of tier {after.tier}.")
    for name in ("hardware", "cores", "backend", "torch"):
        first, second = before.stamp.get(name), after.stamp.get(name)
        if first != second:
            found.append(f"{name}: {first} in the first, {second} in the second.")
    if before.world_size != after.world_size:
        found.append(f"The first has {before.world_size} ranks, the second {after.world_size}.")
    for name, analysis in (("first", before), ("second", after)):
        if analysis.missing_ranks:
            missing = ", ".join(map(str, analysis.missing_ranks[:16]))
            found.append(f"The {name} has no trace of rank {missing}.")
    return found


def _cause(step: Change, gone: Sequence[Bottleneck], new: Sequence[Bottleneck]) -> str:
    """The bottleneck that went or came, where those explain most of the change; "" where they do not.

    The parts tell where the time shows, and waiting for a straggler shows as communication of the others.
    """
    explained_s = sum(one.cost_s or 0.0 for one in new) - sum(one.cost_s or 0.0 for one in gone)
    longer = step.change_s > 0
    if (explained_s if longer else -explained_s) < MOST * abs(step.change_s):
        return ""
    # The dearest comes first; there is one, as the change is not 0.
    first = new[0] if longer else gone[0]
    return f"{'new' if longer else 'gone'}: {first.title} ({(first.cost_s or 0.0) * 1e3:,.2f} ms a step)"


def _sentence(
    step: Change, parts: Sequence[Change], low: float | None, high: float | None, cause: str
) -> str:
    how = "longer" if step.change_s > 0 else "shorter"
    percent = 100 * abs(step.change_s) / step.before_s
    certain = low is not None and high is not None and not low <= 1 <= high
    if not certain:
        return (
            f"A step takes {step.before_s * 1e3:,.2f} ms before and {step.after_s * 1e3:,.2f} ms after: no change "
            "beyond the steps' own noise."
        )
    took = f"{step.before_s * 1e3:,.2f} ms before, {step.after_s * 1e3:,.2f} ms after"
    if cause:
        return f"A step is {percent:.0f}% {how}: {took}; {cause}."
    leading = max(parts, key=lambda part: part.change_s * (1 if step.change_s > 0 else -1))
    return f"A step is {percent:.0f}% {how}: {took}; most of it is {leading.name} ({leading.change_s * 1e3:+,.2f} ms)."


def compare(
    before: Positional[Path], after: Positional[Path], out: Path | None = None, json: bool = False
) -> int:
    """Set two profiles side by side in one HTML page, and print what changed.

    Args:
        before: folder of the first profile.
        after: folder of the second.
        out: the HTML file; by default comparison.html in the second folder, of a recorded profile
            FOLDER_comparison.html here.
        json: print the comparison as JSON.
    """
    sides = [read_analysis(before), read_analysis(after)]
    compared = compare_profiles(*sides)
    path = out or beside(after, COMPARISON)
    try:
        write_whole(path, page(compared, sides, [str(before), str(after)]).encode())
    except OSError as error:
        raise SettingError(f"Cannot write {path}: {error.strerror}; set --out to another file.") from None
    if json:
        print(jsonlib.dumps(dataclasses.asdict(compared) | {"page": str(path)}, indent=1))
        return 0
    print_comparison(compared)
    print(f"Side by side: {path}")
    return 0


def print_comparison(compared: Comparison) -> None:
    """For a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    console = Console()
    for warning in compared.warnings:
        console.print(f"[yellow]Mind:[/] {escape(warning)}")
    console.print(f"[bold]{escape(compared.sentence)}[/]")
    if compared.low is not None and compared.high is not None:
        console.print(
            f"Ratio {compared.ratio:.3f} (95% of the steps' noise: {compared.low:.3f} to {compared.high:.3f})"
        )
    table = Table("ms per step", *(Column(name, justify="right") for name in ("before", "after", "change")))
    for one in (compared.step, *compared.parts):
        table.add_row(
            one.name, *(f"{t * 1e3:,.2f}" for t in (one.before_s, one.after_s)), f"{one.change_s * 1e3:+,.2f}"
        )
    console.print(table)
    for heading, titles in (("No longer a bottleneck", compared.gone), ("New", compared.new)):
        if titles:
            console.print(f"{heading}: {escape('; '.join(titles))}.")


def page(compared: Comparison, sides: Sequence[Analysis], names: Sequence[str]) -> str:
    """The HTML page."""
    from distlab.observe.profile.pages import render

    ranks = [[rank for rank in analysis.ranks if rank.steps][:MOST_BARS] for analysis in sides]
    longest_s = max(rank.mean()["step_s"] for side in ranks for rank in side)
    figures = [breakdown_figure(side, a.tier, longest_s) for side, a in zip(ranks, sides, strict=True)]
    lists: list[list[Bottleneck]] = [find_bottlenecks(analysis) for analysis in sides]
    return render(
        "comparison.html", compared=compared, sides=sides, names=names, figures=figures, lists=lists
    )
