"""An analysis on a terminal: a breakdown of each rank, the top operators, the verdict."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from distlab.errors import printable
from distlab.observe.profile.analysis import MERGED, Analysis, RankProfile
from distlab.observe.profile.bottlenecks import straggler

TOP = 5
MOST_RANKS = 32
COLUMNS = {"compute_s": "compute", "exposed_s": "exposed comm.", "data_s": "data", "idle_s": "idle"}


def show(analysis: Analysis, folder: Path) -> None:
    """Print it."""
    console = Console()
    console.print(_ranks(analysis))
    worst = straggler(analysis)
    shown = next((rank for rank in analysis.ranks if worst and rank.rank == worst.rank), analysis.ranks[0])
    console.print(_operators(shown))
    for line in sentences(analysis, folder):
        console.print(escape(line), highlight=False, soft_wrap=True)


def sentences(analysis: Analysis, folder: Path) -> list[str]:
    """What is to be said beside the tables: the verdict first."""
    said = []
    behind = [one for one in analysis.stragglers if one.verdict != "even"]
    for one in sorted(behind, key=lambda one: -one.excess_s):
        late = (
            f" It came last, and late, to {one.last_arrivals} of {one.collectives_compared} collectives."
            if one.verdict == "persistent" and one.last_arrivals
            else ""
        )
        said.append(one.sentence + late)
    if analysis.stragglers and not behind:
        said.append("No straggler: the ranks' own times are even.")
    overheads = [(rank, share) for rank in analysis.ranks if (share := rank.overhead) is not None]
    if overheads:
        rank, share = max(overheads, key=lambda pair: pair[1])
        assert rank.profiled_step_s is not None
        assert rank.unprofiled_step_s is not None
        said.append(
            f"The profiler itself: {rank.profiled_step_s * 1e3:.1f} ms a step (median) with it and "
            f"{rank.unprofiled_step_s * 1e3:.1f} without, on rank {rank.rank} ({len(rank.steps)} and "
            f"{rank.unprofiled_steps} steps): {f'{share:+.0%}' if share > 0 else 'less than the noise between steps'}."
        )
    else:
        said.append("The profiler's own cost is not known: no step was seen without it.")
    for rank in analysis.ranks:
        for line in rank.memory:
            beyond = " beyond what was held when profiling began" if line.counted_from_start else ""
            step = f"in step {line.peak_step}" if line.peak_step is not None else "between steps"
            said.append(
                f"Memory of rank {rank.rank}, {line.device}: peak {line.peak_bytes / 1e6:,.1f} MB{beyond}, {step}."
            )
        if (folder / f"rank_{rank.rank}.snapshot.pickle").exists():
            said.append(
                f"Allocator of rank {rank.rank}: {folder}/rank_{rank.rank}.snapshot.pickle, for pytorch.org/memory_viz."
            )
    for compared in analysis.hta:
        said.append(
            f"Beside HolisticTraceAnalysis, rank {compared.rank}: of the span of kernels we find "
            f"{compared.compute_percent:.1f}% computing and {compared.idle_percent:.1f}% idle, it "
            f"{compared.hta_compute_percent:.1f}% and {compared.hta_idle_percent:.1f}%."
        )
    doubts = [clock.uncertainty_s for clock in analysis.clocks if clock.uncertainty_s]
    if doubts:
        said.append(f"The hosts' clocks are in line to within {max(doubts) * 1e6:,.0f} us.")
    said += analysis.problems
    said.append(f"One time line: {folder / MERGED} (open it in https://ui.perfetto.dev).")
    if analysis.flame_graph and analysis.flame_graph.svg:
        said.append(f"Flame graph of rank {analysis.flame_graph.rank}: {folder / analysis.flame_graph.svg}.")
    return said


def _ranks(analysis: Analysis) -> Table:
    hardware = printable(str(analysis.stamp.get("hardware", "")))
    tier = "SIMULATED" if analysis.tier == "simulated" else analysis.tier
    steps = min(len(rank.steps) for rank in analysis.ranks)
    table = Table("rank", "step", *COLUMNS.values(), "comm. in all", title_justify="left")
    table.title = escape(f"Mean of {steps} steps, in ms; tier {tier}{f', {hardware}' if hardware else ''}")
    for rank in analysis.ranks[:MOST_RANKS]:
        mean = rank.mean()
        cells = [f"{mean[part] * 1e3:.1f} ({mean[part] / mean['step_s']:.0%})" for part in COLUMNS]
        table.add_row(
            str(rank.rank), f"{mean['step_s'] * 1e3:.1f}", *cells, f"{mean['communication_s'] * 1e3:.1f}"
        )
    return table


def _operators(rank: RankProfile) -> Table:
    table = Table("operator", "calls", "self time", "share", "shapes", title_justify="left")
    table.title = f"Top operators of rank {rank.rank}, by self time over {len(rank.steps)} steps"
    first = [operator for operator in rank.operators if operator.device == rank.device]
    for operator in first[:TOP]:
        table.add_row(
            escape(operator.name[:60]),
            str(operator.count),
            f"{operator.self_s * 1e3:.1f} ms",
            f"{operator.share:.0%}",
            escape(operator.shapes[:50]),
        )
    return table
