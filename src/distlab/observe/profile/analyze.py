"""From a profile's folder to its analysis.

distlab profile analyze profile
distlab profile analyze profile --json | jq '.stragglers'
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from distlab.errors import SettingError, WorkError, printable
from distlab.observe.profile.analysis import Analysis, RankProfile, write_analysis
from distlab.observe.profile.breakdown import break_down
from distlab.observe.profile.capture import RankReport, read_report
from distlab.observe.profile.clocks import Timeline, align
from distlab.observe.profile.description import Description, read_description, write_description
from distlab.observe.profile.holistic import compare_with_hta
from distlab.observe.profile.memory import memory_lines, write_memory
from distlab.observe.profile.merge import merge
from distlab.observe.profile.operators import collectives, top_operators
from distlab.observe.profile.stragglers import find_stragglers, keep_pace, last_arrivals
from distlab.observe.profile.traces import MOST_RANK, WAIT, Trace, rank_files, read_trace


def main(folder: Positional[Path], json: bool = False) -> int:
    """Analyse a profile's traces again: breakdown of each step, top operators, memory, stragglers.

    Args:
        folder: the profile's folder, as `distlab profile run --out` made it, or with files rank_N.trace.json.gz.
        json: print the analysis as JSON.
    """
    from rich.console import Console

    from distlab.observe.profile.table import show

    if not folder.is_dir():
        raise SettingError(
            f"{folder} is no folder; expected that of a profile, from `distlab profile run --out`."
        )
    with Console(stderr=True).status("Reading the traces ..."):
        analysis = analyze(folder)
    if json:
        print(analysis.to_json())
    else:
        show(analysis, folder)
    return 0


def analyze(folder: Path) -> Analysis:
    """Read the ranks' traces, write `analysis.json`, `merged.trace.json.gz` and `rank_N.memory.json`.

    WorkError where no rank left a step; SettingError for a folder that cannot be read or written.
    """
    description = read_description(folder)
    try:
        files = rank_files(folder)
        reports = read_reports(folder)
        traces, problems = read_traces(folder)
        if not traces:
            raise WorkError(nothing(folder, description, reports, problems))
        timeline = align(traces)
        ranks = tuple(_rank(trace, reports.get(trace.rank), timeline) for trace in traces)
        read = {trace.rank: files[trace.rank] for trace in traces}
        merge(folder, read, timeline, f"profile of: {description.command}")
        for trace in traces:
            write_memory(folder, trace, timeline.origin_of(trace.rank))
        hta, hta_problem = compare_with_hta({trace.rank: trace for trace in traces}, read)
        world_size = _world_size(traces, reports)
        missing = tuple(rank for rank in range(world_size) if rank not in read)
        analysis = Analysis(
            stamp=_stamp(reports),
            command=description.command,
            exit_code=description.exit_code,
            tier=_tier(traces),
            world_size=world_size,
            ranks=ranks,
            missing_ranks=missing,
            stragglers=tuple(find_stragglers(ranks, last_arrivals(traces, timeline))),
            clocks=timeline.clocks,
            flame_graph=description.flame_graph,
            hta=hta,
            problems=tuple(
                [
                    *description.problems,
                    *_endings(description, missing),
                    *problems,
                    *_shortcomings(traces, reports, timeline),
                    *_unequal(ranks),
                    *([hta_problem] if hta_problem else []),
                ]
            ),
        )
        write_analysis(folder, analysis)
        write_description(
            folder,
            replace(
                description,
                world_size=world_size,
                ranks=tuple(read),
                steps_profiled=min(len(rank.steps) for rank in ranks),
                stamp=analysis.stamp,
            ),
        )
    except OSError as error:
        raise SettingError(f"Cannot read {folder} or write into it: {error}.") from None
    return analysis


def read_traces(folder: Path) -> tuple[list[Trace], list[str]]:
    """The traces that can be read and hold a whole step, by rank, and a sentence for each other one."""
    traces, problems = [], []
    for rank, path in rank_files(folder).items():
        try:
            trace = read_trace(path, rank)
        except SettingError as error:
            problems.append(f"Rank {rank} is left out: {error}")
            continue
        report = read_report(folder, rank)
        if report is not None and report.steps_profiled:  # the last one may be cut off by the run's end
            trace = replace(trace, steps=tuple(step for step in trace.steps if step[0] in report.whole_steps))
        if trace.steps:
            traces.append(trace)
        else:
            problems.append(f"Rank {rank} is left out: its trace holds no whole step.")
    return traces, problems


def read_reports(folder: Path) -> dict[int, RankReport]:
    """What each rank says of itself."""
    found = {}
    for path in itertools.islice(sorted(folder.glob("rank_*.json")), MOST_RANK):
        number = path.stem.removeprefix("rank_")
        report = read_report(folder, int(number)) if number.isdecimal() else None
        if report is not None and report.rank == int(number):
            found[report.rank] = report
    return found


def nothing(
    folder: Path, description: Description, reports: dict[int, RankReport], problems: Sequence[str]
) -> str:
    """Why there is nothing to analyse, in one sentence or two."""
    said = [*problems, *(printable(report.problem) for report in reports.values() if report.problem)]
    if said:
        options = next((report.options for report in reports.values()), description.options)
        return (
            f"{said[0].rstrip('.')}. A profile of {options.steps} steps needs a run of {options.needed}; take more "
            "steps, or lower --wait, --warmup or --steps."
        )
    if reports:
        seen = max(report.steps_seen for report in reports.values())
        return (
            f"{folder} holds no trace: the {len(reports)} ranks that began took {seen} steps at most and were ended "
            "before they could write it; look at what the command said."
        )
    return (
        f"{folder} holds no trace of any rank: the command started no training that can be profiled; it must be "
        "`distlab train` (not with strategy tensorflow), or have `with profiled() as profiler:` of "
        "distlab.observe.profile.capture around its loop, and call profiler.step() after each step."
    )


def _rank(trace: Trace, report: RankReport | None, timeline: Timeline) -> RankProfile:
    origin = timeline.origin_of(trace.rank)
    return RankProfile(
        rank=trace.rank,
        host=trace.host,
        pid=trace.pid,
        device="gpu" if trace.on_gpu else "cpu",
        steps_seen=report.steps_seen if report else None,
        steps=break_down(trace, origin),
        operators=top_operators(trace),
        collectives=collectives(trace),
        memory=memory_lines(trace, origin),
        profiled_step_s=report.profiled_step_s if report else None,
        unprofiled_step_s=report.unprofiled_step_s if report else None,
        unprofiled_steps=report.unprofiled_steps if report else 0,
    )


def _world_size(traces: Sequence[Trace], reports: dict[int, RankReport]) -> int:
    said = [trace.world_size for trace in traces] + [report.world_size for report in reports.values()]
    ranks = [trace.rank + 1 for trace in traces] + [rank + 1 for rank in reports]
    return min(max(said + ranks), MOST_RANK)


def _stamp(reports: dict[int, RankReport]) -> dict[str, Any]:
    first = min(reports, default=None)
    return reports[first].stamp if first is not None else {}


def _tier(traces: Sequence[Trace]) -> Literal["gpu", "cpu", "simulated"]:
    if any(trace.synthetic for trace in traces):
        return "simulated"
    return "gpu" if any(trace.on_gpu for trace in traces) else "cpu"


def _endings(description: Description, missing: Sequence[int]) -> list[str]:
    said = []
    if description.exit_code == 128 + signal.SIGINT:
        said.append("The run was interrupted (exit code 130); what was recorded until then is kept.")
    elif description.exit_code:
        said.append(
            f"The command failed with exit code {description.exit_code}; what was recorded until then is kept."
        )
    if missing:
        some = ", ".join(map(str, missing[:8])) + (
            f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        )
        said.append(
            f"No trace of rank {some}: what is said of stragglers leaves out {'them' if len(missing) > 1 else 'it'}."
        )
    return said


def _shortcomings(traces: Sequence[Trace], reports: dict[int, RankReport], timeline: Timeline) -> list[str]:
    said = []
    for rank, report in reports.items():
        if report.problem:
            said.append(printable(report.problem).rstrip(".") + ".")
        elif 0 < report.steps_profiled < report.options.steps:
            said.append(
                f"Rank {rank} recorded {report.steps_profiled} of {report.options.steps} steps: the run had "
                f"{report.steps_seen}, and {report.options.needed} are needed."
            )
    silent = [t.rank for t in traces if t.world_size > 1 and not any(s.kind == "transfer" for s in t.spans)]
    if silent:
        some = ", ".join(map(str, silent[:8]))
        said.append(
            f"No communication shows in the trace of rank {some} (torch's profiler sees no other library's, unless "
            f"`record_function({WAIT!r})` is around the wait): waiting for other ranks counts as idle there."
        )
    said += [f"Clock of rank {clock.rank}: {clock.how}." for clock in timeline.clocks if _doubtful(clock.how)]
    return said


def _unequal(ranks: Sequence[RankProfile]) -> list[str]:
    if keep_pace(ranks):
        return []
    order = sorted(ranks, key=lambda rank: rank.median.step_s)
    short, long = (f"{rank.median.step_s * 1e3:.1f} ms on rank {rank.rank}" for rank in (order[0], order[-1]))
    return [f"The ranks do not wait for each other (a step takes {short}, {long}): no verdict on stragglers."]


def _doubtful(how: str) -> bool:
    return how.startswith("no collective") or "contradict" in how
