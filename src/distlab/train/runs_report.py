"""A comparative report of runs: was the work equal, how long is a step, and which differences are more than noise?

    distlab runs report runs/ddp-* runs/fsdp-* --out report.html

Runs of one configuration are *turns* of each other. What a framework moves between its own turns is the noise that a
difference between two frameworks has to exceed; with fewer than three turns it is not known. Before any clock, the
losses: work is equal where every step of every run has the loss that the first framework's run has.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.files import read_limited, write_whole
from distlab.train.records import LogLine, RunInfo, by_step, read_info, read_log
from distlab.train.runs import RunSummary, summarise

WORK = ("model", "data", "optimizer", "steps", "seed")
"""Settings that say what is computed; `memory.precision` does, too."""
MACHINE = ("tier", "hardware", "cores", "world_size", "threads_per_rank", "torch")
"""Of the stamp: where these differ, times may differ for that reason alone."""
WARMUP = 4
"""Steps that pay for what later ones do not: buckets laid out anew, caches, connections."""
TURNS_LEAST = 3
TOLERANCE = 1e-2
"""Relative, of each step's loss: sums in another order, grown over some tens of steps."""
MOST_TEXT = 2**20

Verdict = Literal["faster", "slower", "no difference", "unknown"]


@dataclass(frozen=True)
class Group:
    """The turns of one configuration."""

    label: str
    runs: tuple[RunSummary, ...]
    steps_s: tuple[float, ...]
    """Of each turn: the median over its steady steps of the slowest rank."""
    losses: tuple[float, ...]
    """Of each step of the first turn."""
    gap: float
    """The furthest that a loss of any turn is from the first group's, relative; infinite for other lengths."""
    ratio: float | None
    """Median over the turns of this step's time over the first group's; None for the first group itself."""
    verdict: Verdict | None
    """Against the first group, beyond noise."""
    start_s: float | None
    """What lay around the steps, where somebody measured it."""

    @property
    def step_s(self) -> float:
        return median(self.steps_s)

    @property
    def noise(self) -> float:
        """The slowest turn's step over the fastest one's."""
        return max(self.steps_s) / min(self.steps_s)

    @property
    def communication_s(self) -> float:
        return self.step_s * median(run.communication_s / run.step_s for run in self.runs)

    @property
    def samples_per_s(self) -> float:
        return median(run.samples_per_s for run in self.runs)

    @property
    def peak_ram_bytes(self) -> int:
        return max(run.peak_ram_bytes for run in self.runs)

    @property
    def peak_vram_bytes(self) -> int | None:
        known = [run.peak_vram_bytes for run in self.runs if run.peak_vram_bytes is not None]
        return max(known, default=None)


@dataclass(frozen=True)
class RunsComparison:
    """Groups of runs; the first is what the others are compared with."""

    groups: tuple[Group, ...]
    warnings: tuple[str, ...]
    """Why times may not be comparable."""
    equal: bool
    """Is the work of all runs equal, by their settings and by their losses?"""
    sentence: str
    work: dict[str, Any]
    """The settings of the first run that say what is computed."""
    stamps: dict[str, dict[str, Any]]
    """The environment of each run, by its name."""


def compare_runs(
    folders: Sequence[str],
    labels: Mapping[str, str] | None = None,
    starts_s: Mapping[str, float] | None = None,
    warmup: int = WARMUP,
) -> RunsComparison:
    """Compare runs by their logs; those of one label are turns of each other, in the order in which they are named.

    folders: `<folder>/<name>` of each. labels: a run's name to what it is called; by default runs of equal settings
    share a label, the strategy's name where that tells them apart. starts_s: what lay around the steps, by label.

    SettingError where a run has no log, or no steady step.
    """
    if not folders:
        raise SettingError("No run is named; name the folder of at least one, such as runs/fsdp_2gpu.")
    infos = [read_info(folder) for folder in folders]
    named = labels or _labels(infos)
    turns: dict[str, list[int]] = defaultdict(list)
    for i, info in enumerate(infos):
        turns[named.get(info.config["name"], info.config["strategy"])].append(i)
    logs = [read_log(folder) for folder in folders]
    steps_s = [_steady_step_s(log, warmup, str(folder)) for log, folder in zip(logs, folders, strict=True)]
    losses = [_losses(log) for log in logs]
    first = next(iter(turns.values()))
    reference = losses[first[0]]
    groups = []
    for label, places in turns.items():
        ratio, verdict = _judged([steps_s[i] for i in first], [steps_s[i] for i in places])
        groups.append(
            Group(
                label=label,
                runs=tuple(summarise(folders[i]) for i in places),
                steps_s=tuple(steps_s[i] for i in places),
                losses=tuple(losses[places[0]]),
                gap=max(_gap(losses[i], reference) for i in places),
                ratio=None if places is first else ratio,
                verdict=None if places is first else verdict,
                start_s=(starts_s or {}).get(label),
            )
        )
    warnings = _warnings(infos, groups)
    equal = all(_work(info) == _work(infos[0]) for info in infos) and all(g.gap <= TOLERANCE for g in groups)
    return RunsComparison(
        groups=tuple(groups),
        warnings=tuple(warnings),
        equal=equal,
        sentence=_sentence(groups, equal),
        work=_work(infos[0]),
        stamps={info.config["name"]: info.stamp for info in infos},
    )


def report(
    folders: Positional[tuple[str, ...]],
    out: Path = Path("report.html"),
    recommendations: Path | None = None,
    title: str = "Runs compared",
) -> int:
    """Write a comparative report of runs into one HTML file.

    Runs that compute different things (model, data, optimizer, steps, seed, precision) get a section each.

    Args:
        folders: folders of runs, `<folder>/<name>` each; paths or URLs. The first is what others are compared with.
        out: the HTML file.
        recommendations: a text file with what you conclude; its paragraphs go into the report.
        title: of the report.
    """
    sections: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        sections[json.dumps(_work(read_info(folder)), sort_keys=True)].append(folder)
    comparisons = [compare_runs(runs) for runs in sections.values()] or [compare_runs(())]
    text = ""
    if recommendations is not None:
        try:
            text = read_limited(recommendations, MOST_TEXT).decode("utf-8", "replace")
        except OSError as error:
            raise SettingError(f"Cannot read {recommendations}: {error.strerror or error}.") from None
    write_report(out, comparisons, text, title)
    for comparison in comparisons:
        print(printable(comparison.sentence))
    print(f"The report: {out}")
    return 0


def write_report(out: Path, comparisons: Sequence[RunsComparison], text: str, title: str) -> None:
    """Write the HTML file, which loads nothing and holds no script. SettingError where it cannot be written.

    text: recommendations; paragraphs are separated by empty lines.
    """
    from distlab.bench.stamp import Stamp
    from distlab.observe.profile.pages import render

    sections = [(one, _figures(one)) for one in comparisons]
    stamps = {name: str(Stamp(**stamp)) for one in comparisons for name, stamp in one.stamps.items()}
    paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    page = render("runs.html", title=title, sections=sections, paragraphs=paragraphs, stamps=stamps)
    try:
        write_whole(out, page.encode())
    except OSError as error:
        raise SettingError(f"Cannot write {out}: {error.strerror}; choose another file.") from None


def _work(info: RunInfo) -> dict[str, Any]:
    return {name: info.config[name] for name in WORK} | {"precision": info.config["memory"]["precision"]}


def _labels(infos: Sequence[RunInfo]) -> dict[str, str]:
    """A name for each run: its strategy's, or, where settings of one strategy differ, that of their first run."""
    kinds: dict[str, list[str]] = defaultdict(list)
    strategy = {}
    for info in infos:
        settings = {key: value for key, value in info.config.items() if key not in ("name", "folder", "log")}
        kind = json.dumps(settings, sort_keys=True)
        kinds[kind].append(info.config["name"])
        strategy[kind] = info.config["strategy"]
    several = list(strategy.values())
    return {
        name: strategy[kind] if several.count(strategy[kind]) == 1 else names[0]
        for kind, names in kinds.items()
        for name in names
    }


def _losses(log: Sequence[LogLine]) -> list[float]:
    return [ranks[0].loss for ranks in by_step(log).values()]


def _steady_step_s(log: Sequence[LogLine], warmup: int, folder: str) -> float:
    """The median over steps with a whole batch; SettingError where there is none after the warm-up."""
    steps = list(by_step(log).values())
    samples = [sum(line.samples for line in ranks) for ranks in steps]
    seconds = [max(line.step_s for line in ranks) for ranks in steps]
    steady = [s for s, n in list(zip(seconds, samples, strict=True))[warmup:] if n == max(samples)]
    if not steady:
        raise SettingError(f"{folder} has no step after the first {warmup}; compare runs of more steps.")
    return median(steady)


def _gap(losses: Sequence[float], reference: Sequence[float]) -> float:
    if len(losses) != len(reference):
        return float("inf")
    gaps = [abs(a - b) / abs(b) if b else abs(a) for a, b in zip(losses, reference, strict=True)]
    return float("inf") if any(gap != gap for gap in gaps) else max(gaps)


def _judged(first: Sequence[float], other: Sequence[float]) -> tuple[float, Verdict]:
    """The other's step over the first's, turn by turn where there are as many, and whether that is beyond noise."""
    if len(first) == len(other):
        ratio = median(b / a for a, b in zip(first, other, strict=True))
    else:
        ratio = median(other) / median(first)
    if min(len(first), len(other)) < TURNS_LEAST:
        return ratio, "unknown"
    noise = max(max(first) / min(first), max(other) / min(other))
    return ratio, "slower" if ratio > noise else "faster" if 1 / ratio > noise else "no difference"


def _warnings(infos: Sequence[RunInfo], groups: Sequence[Group]) -> list[str]:
    found = []
    for name in _work(infos[0]):
        values = {json.dumps(_work(info)[name], sort_keys=True) for info in infos}
        if len(values) > 1:
            found.append(f"{name} is not the same in all runs: the work is not equal.")
    for name in MACHINE:
        values = {str(info.stamp.get(name)) for info in infos}
        if len(values) > 1:
            found.append(f"{name} differs between runs: {printable(', '.join(sorted(values)))}.")
    for group in groups:
        if group.gap > TOLERANCE:
            how = "has another number of steps" if group.gap == float("inf") else f"is off by {group.gap:.1e}"
            found.append(f"The losses of {group.label} are not {groups[0].label}'s: one {how}.")
    if any(len(group.steps_s) < TURNS_LEAST for group in groups):
        found.append(
            f"Fewer than {TURNS_LEAST} turns of a kind: the noise is not known. Run each three times."
        )
    return found


def _sentence(groups: Sequence[Group], equal: bool) -> str:
    if not equal:
        return "The work was not equal; the times say nothing about the frameworks."
    first, others = groups[0], groups[1:]
    if not others:
        return f"{first.label}: {first.step_s * 1e3:,.2f} ms a step."
    proof = f"Equal work: every loss within {max(g.gap for g in groups):.0e} of {first.label}'s."
    said = {
        "faster": "faster than it",
        "slower": "slower than it",
        "no difference": "no difference beyond noise",
        "unknown": "too few turns to tell",
    }
    told = [f"{g.label} {g.ratio:.2f} times ({said[g.verdict or 'unknown']})" for g in others]
    return f"{proof} {first.label}'s step takes {first.step_s * 1e3:,.2f} ms; {', '.join(told)}."


def _figures(one: RunsComparison) -> list[Any]:
    from distlab.figures import Series, frameworks, plot

    bars = {g.label: (g.step_s * 1e3, g.communication_s * 1e3) for g in one.groups}
    words = ", ".join(f"{label} {total:.2f} ms" for label, (total, _) in bars.items())
    steps = frameworks.bars(
        bars, "ms", f"Bars of step times: {words}.", "Median step; dashed: waiting for other ranks."
    )
    turns = [
        Series(g.label, list(range(1, len(g.steps_s) + 1)), [s * 1e3 for s in g.steps_s], "both")
        for g in one.groups
    ]
    spread = ", ".join(f"{g.label} {g.noise:.2f}" for g in one.groups)
    noise = plot(
        turns, x="turn", y="step (ms)", y_from=0,
        alt=f"Step time of each turn. Slowest over fastest turn: {spread}.",
        caption="What each moves between its own turns.",
    )  # fmt: skip
    curves = [Series(g.label, list(range(len(g.losses))), list(g.losses)) for g in one.groups]
    ends = ", ".join(f"{g.label} {g.losses[-1]:.3g}" for g in one.groups)
    proof = plot(
        curves, x="step", y="loss", y_from=0,
        alt=f"Loss against step; at the end {ends}.",
        caption="Losses of the first turns: one line where the work is equal.",
    )  # fmt: skip
    return [steps, noise, proof]
