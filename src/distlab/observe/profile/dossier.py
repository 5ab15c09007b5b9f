"""The profiling dossier: one HTML file that says what to change first, with the evidence for it.

    distlab profile report profile                       # writes profile/dossier.html
    distlab profile compare before after                 # writes after/comparison.html

The page holds no script and loads nothing: it opens anywhere, and it can be sent by mail. Whatever comes from a trace
is escaped. If the folder also holds flight records or Nsight's exports, they are read, too.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from distlab.errors import SettingError
from distlab.figures.figure import BLUE, GREEN, PURPLE, RED, Figure
from distlab.files import write_whole
from distlab.observe.profile.analysis import MERGED, Analysis, RankProfile, read_analysis
from distlab.observe.profile.bottlenecks import Bottleneck, find_bottlenecks, straggler
from distlab.observe.profile.flight_report import judge, read_flights
from distlab.observe.profile.ncu_report import read_ncu
from distlab.observe.profile.nsys_report import read_nsys

DOSSIER = "dossier.html"
PARTS = {
    "compute_s": ("compute", BLUE),
    "exposed_s": ("exposed communication", RED),
    "data_s": ("data", GREEN),
    "idle_s": ("idle", PURPLE),
}
"""What a step is made of, in the order and the colours in which it is drawn."""

MOST_BARS = 16
"""Ranks that a figure shows; a table has all."""
MOST_SHOWN_STEPS = 40


def report(folder: Positional[Path], out: Path | None = None, json: bool = False) -> int:
    """Write the dossier of a profile, and print the ranked bottlenecks.

    Args:
        folder: what `distlab profile run` wrote.
        out: the HTML file; by default dossier.html in the folder, of a recorded profile FOLDER_dossier.html here.
        json: print the bottlenecks as JSON.
    """
    analysis = read_analysis(folder)
    bottlenecks = find_bottlenecks(analysis)
    path = out or beside(folder, DOSSIER)
    try:
        write_whole(path, dossier(analysis, bottlenecks, folder).encode())
    except OSError as error:
        raise SettingError(f"Cannot write {path}: {error.strerror}; set --out to another file.") from None
    if json:
        rows = [dataclasses.asdict(one) | {"severity": one.severity} for one in bottlenecks]
        print(jsonlib.dumps({"dossier": str(path), "bottlenecks": rows}, indent=1))
        return 0
    print_bottlenecks(bottlenecks)
    print(f"The dossier: {path}")
    return 0


def beside(folder: Path, name: str) -> Path:
    """Where a page on a profile goes: into its folder; of a recording, which stays as it was recorded, to here."""
    from distlab.record.recordings import MANIFEST

    recorded = (folder.resolve().parent / MANIFEST).is_file()
    return Path(f"{folder.resolve().name}_{name}") if recorded else folder / name


def print_bottlenecks(bottlenecks: Sequence[Bottleneck]) -> None:
    """The list for a terminal."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    if not bottlenecks:
        console.print("No step was profiled, so there is nothing to rank.")
    for number, one in enumerate(bottlenecks, 1):
        console.print(f"[bold]{number}. {escape(one.title)}[/]{escape(_cost(one))}")
        for line in one.evidence:
            console.print(f"   {escape(line)}", highlight=False)
        for line in one.remedies:
            console.print(f"   -> {escape(line)}", highlight=False)


def _cost(one: Bottleneck) -> str:
    if one.cost_s is None or one.share is None:
        return ""
    return f": {one.cost_s * 1e3:,.2f} ms a step, {100 * one.share:.0f}% of it"


def dossier(analysis: Analysis, bottlenecks: Sequence[Bottleneck], folder: Path) -> str:
    """The page."""
    from distlab.observe.profile.pages import render

    return render(
        "dossier.html",
        analysis=analysis,
        bottlenecks=bottlenecks,
        cost=_cost,
        parts={name: label for name, (label, _) in PARTS.items()},
        figures=_figures(analysis),
        files=[name for name in (MERGED, "nsys.nsys-rep", "ncu.ncu-rep") if (folder / name).is_file()],
        shown=_shown(analysis),
        flame=_flame(analysis, folder),
        more=_more(folder),
    )


def _shown(analysis: Analysis) -> list[RankProfile]:
    """The ranks of which operators and collectives are listed: the first, and the one that holds the others back."""
    ranks = [rank for rank in analysis.ranks if rank.operators or rank.collectives]
    slowest = straggler(analysis)
    return [*ranks[:1], *(rank for rank in ranks[1:] if slowest is not None and rank.rank == slowest.rank)]


def _figures(analysis: Analysis) -> dict[str, Any]:
    ranks = [rank for rank in analysis.ranks if rank.steps]
    if not ranks:
        return {}
    found: dict[str, Any] = {"breakdown": breakdown_figure(ranks[:MOST_BARS], analysis.tier)}
    slowest = straggler(analysis)
    chosen = next((rank for rank in ranks if slowest is not None and rank.rank == slowest.rank), ranks[0])
    found["steps"] = steps_figure(chosen, analysis.tier)
    lines = [(rank, line) for rank in ranks for line in rank.memory if len(line.points) > 1]
    if lines:
        found["memory"] = memory_figure(lines[0][0], analysis.tier)
    return found


def breakdown_figure(ranks: Sequence[RankProfile], tier: str, longest_s: float | None = None) -> Figure:
    """Mean step of each rank, as stacked bars; `longest_s`: how far the axis goes, for figures side by side."""
    from distlab.figures.plots import drawing, finished

    means = [rank.mean() for rank in ranks]
    alt = "Mean step of each rank, in parts. " + " ".join(
        f"Rank {rank.rank}: "
        + ", ".join(f"{label} {mean[name] * 1e3:.2f} ms" for name, (label, _) in PARTS.items())
        + "."
        for rank, mean in zip(ranks, means, strict=True)
    )
    with drawing(alt, height=1.2 + 0.32 * len(ranks)) as canvas:
        axes = canvas.add_subplot()
        left = [0.0] * len(ranks)
        for name, (label, colour) in PARTS.items():
            width = [mean[name] * 1e3 for mean in means]
            axes.barh(
                [f"rank {r.rank}" for r in ranks], width, left=left, color=colour, alpha=0.6, label=label
            )
            left = [start + more for start, more in zip(left, width, strict=True)]
        axes.invert_yaxis()
        axes.set(xlabel="ms per step", xlim=(0, None if longest_s is None else 1.02e3 * longest_s))
        axes.legend(frameon=False, fontsize=9, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))
        axes.spines[["top", "right"]].set_visible(False)
        caption = f"Mean of the profiled steps ({tier} tier). From the left: " + ", ".join(
            label for label, _ in PARTS.values()
        )
        return finished(canvas, alt, caption + ".")


def steps_figure(rank: RankProfile, tier: str) -> Figure:
    """Each profiled step of one rank, in parts."""
    from distlab.figures.plots import drawing, finished

    steps = rank.steps[:MOST_SHOWN_STEPS]
    times = [step.step_s * 1e3 for step in steps]
    alt = (
        f"The {len(steps)} profiled steps of rank {rank.rank}, each in parts: from {min(times):.2f} to "
        f"{max(times):.2f} ms."
    )
    with drawing(alt, height=2.6) as canvas:
        axes = canvas.add_subplot()
        bottom = [0.0] * len(steps)
        for name, (label, colour) in PARTS.items():
            height = [getattr(step, name) * 1e3 for step in steps]
            axes.bar(
                [step.step for step in steps], height, bottom=bottom, color=colour, alpha=0.6, label=label
            )
            bottom = [base + more for base, more in zip(bottom, height, strict=True)]
        axes.set(xlabel="step", ylabel="ms")
        axes.locator_params(axis="x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        return finished(canvas, alt, f"Rank {rank.rank}, step by step ({tier} tier); colours as above.")


def memory_figure(rank: RankProfile, tier: str) -> Figure:
    """What tensors held over the profiled time, with the ends of the steps."""
    from distlab.figures.plots import drawing, finished

    line = max(rank.memory, key=lambda one: one.peak_bytes)
    alt = (
        f"Memory of tensors on {line.device}, rank {rank.rank}: at most {line.peak_bytes / 2**20:.1f} MiB, at "
        f"{line.peak_at_s * 1e3:.1f} ms"
        + (f" in step {line.peak_step}." if line.peak_step is not None else " between steps.")
    )
    with drawing(alt, height=2.6) as canvas:
        axes = canvas.add_subplot()
        axes.plot(
            [at_s * 1e3 for at_s, _ in line.points],
            [held / 2**20 for _, held in line.points],
            color=BLUE,
            lw=1.4,
            drawstyle="steps-post",
        )
        for step in rank.steps:
            axes.axvline((step.start_s + step.step_s) * 1e3, color=GREEN, lw=0.8, ls=":")
        axes.set(xlabel="ms since the first profiled step", ylabel="MiB", ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        since = ", beyond what was held when profiling began" if line.counted_from_start else ""
        caption = f"Tensors on {line.device}, rank {rank.rank} ({tier} tier){since}. Dotted: ends of steps."
        return finished(canvas, alt, caption)


_FLAME = re.compile(r"pyspy_rank_[0-9]{1,6}\.svg")
"""A file's name may be another site's address, too: `https:example.org`."""


def _flame(analysis: Analysis, folder: Path) -> str | None:
    """The flame graph's file, where it is in the folder."""
    graph = analysis.flame_graph
    if graph is None or graph.svg is None or not _FLAME.fullmatch(graph.svg):
        return None
    return graph.svg if (folder / graph.svg).is_file() else None


def _more(folder: Path) -> list[tuple[str, list[str]]]:
    """What other tools left in the folder: a heading, and lines."""
    found: list[tuple[str, list[str]]] = []
    readers = (
        (
            "Flight recorder",
            [*folder.glob("rank_*.flight.json"), *folder.glob("nccl_trace_rank_*")][:1],
            _flight_lines,
        ),
        ("Nsight Systems", [*folder.glob("nsys.sqlite")], _nsys_lines),
        ("Nsight Compute", [*folder.glob("ncu.csv")], _ncu_lines),
    )
    for heading, paths, read in readers:
        if paths:
            try:
                found.append((heading, read(paths[0])))
            except SettingError as error:
                found.append((heading, [str(error)]))
    return found


def _flight_lines(path: Path) -> list[str]:
    return [verdict.sentence for verdict in judge(read_flights(path.parent))]


def _nsys_lines(path: Path) -> list[str]:
    return [
        f"GPU {gpu.gpu}, {gpu.name}: {gpu.span_s * 1e3:,.2f} ms; compute {gpu.compute_s * 1e3:,.2f}, exposed "
        f"communication {gpu.exposed_communication_s * 1e3:,.2f}, exposed copies {gpu.exposed_copy_s * 1e3:,.2f}, "
        f"idle {gpu.idle_s * 1e3:,.2f} ms; leading kernel {gpu.kernels[0].name if gpu.kernels else 'none'}."
        for gpu in read_nsys(path).gpus
    ]


def _ncu_lines(path: Path) -> list[str]:
    kernels = sorted(read_ncu(path), key=lambda kernel: -(kernel.duration_s or 0.0))[:10]
    return [f"{kernel.name}: limited by {kernel.limit}. {kernel.advice}" for kernel in kernels]
