"""Measure on this machine the cases of its own that `distlab scorecard` has, and keep them in the package.

    python -m benchmarks.own_cases                          # collectives and steps: about 4 minutes, on an idle machine
    python -m benchmarks.own_cases memory                   # 2 minutes; the same bytes however busy the machine is
    python -m benchmarks.own_cases gpu recordings/nvidia-h200-x1      # rows of a recording, none measured
    python -m benchmarks.own_cases collectives --short --out FOLDER   # a try

Times are medians: of the calls of a launch of the processes, then of the launches, of which the smallest and the
largest are kept as well. Each file says in its first lines what it was measured on and how loaded the machine was.
`distlab.predict.own` reads the files and predicts their rows.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import own_memory, own_recorded, own_steps
from benchmarks.own_steps import Plan
from distlab.files import write_whole
from distlab.machine import cores
from distlab.predict.collectives import Op
from distlab.predict.own import DATA
from distlab.predict.units import KIB, MIB

OPERATIONS: tuple[Op, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
SIZES = (
    *(size * KIB for size in (4, 16, 64, 256)),
    *(int(size * MIB) for size in (1, 1.5, 2, 3, 4, 6, 8, 12, 16)),
)
"""Denser where targets hold: above 1 MiB."""


def collectives(plan: Plan) -> list[dict[str, Any]]:
    """By `distlab bench collectives`: seconds of each operation and payload over 2 and over 4 processes."""
    from distlab.bench.collectives_command import main as bench
    from distlab.bench.operations import direct
    from distlab.bench.results import read_results

    sizes = SIZES[::4] if plan.short else SIZES
    rows = []
    for ranks in (2, 4):
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder, "collectives.json")
            code = bench(
                ranks, OPERATIONS, sizes, backend="gloo", budget_s=plan.call_s,
                launches=plan.launches, out=path,
            )  # fmt: skip
            if code:
                raise RuntimeError(f"distlab bench collectives over {ranks} ranks ended with code {code}.")
            results = read_results(path)
        for row in results.rows:
            if row["place"] == direct(row["operation"]):
                named = {"op": row["operation"], "ranks": ranks, "payload_bytes": row["payload_bytes"]}
                rows.append(named | {"cores": cores()} | spread(by_launch(row["samples_s"], row["launches"])))
    return rows


def by_launch(samples: Sequence[float], launches: Sequence[int]) -> list[float]:
    """The median of each launch."""
    ends = [sum(launches[:number]) for number in range(len(launches) + 1)]
    return [statistics.median(samples[start:end]) for start, end in pairwise(ends)]


def spread(medians: Sequence[float]) -> dict[str, float]:
    """Columns of the launches' medians, in seconds."""
    middle = statistics.median(medians)
    times = {"time_s": middle, "low_s": min(medians), "high_s": max(medians)}
    return {name: float(f"{time:.5g}") for name, time in times.items()} | {"launches": len(medians)}


def steps(plan: Plan) -> list[dict[str, Any]]:
    """Each case of `own_steps` in turn, launch by launch, so that whatever else runs slows all of them alike."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for _ in range(plan.launches):
        for ranks in (1, 2, 4):
            for case, median in own_steps.launched(ranks, plan):
                found.setdefault(tuple(case.items()), []).append(median)
    return [dict(case) | {"cores": cores()} | spread(medians) for case, medians in found.items()]


def memory(plan: Plan) -> list[dict[str, Any]]:
    """Bytes of each case of `own_memory`, by torch's trackers."""
    chosen = own_memory.cases()[::8] if plan.short else own_memory.cases()
    return [row for ranks in own_memory.RANKS for row in own_memory.rows(ranks, chosen)]


FILES = {
    "collectives": ("own_gloo_all_reduce.csv", collectives, "gloo collectives between processes, float32, seconds"),
    "steps": ("own_step_scaling.csv", steps, "steps of distlab.train on 1, 2 and 4 processes, seconds"),
    "memory": ("own_memory.csv", memory, "what one rank of distlab.train holds, by torch's trackers, bytes"),
}  # fmt: skip


def write(path: Path, remarks: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Remarks, each on a line after #, then the columns."""
    text = io.StringIO()
    text.writelines(f"# {remark}\n" for remark in remarks)
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, text.getvalue().encode())
    print(f"{path.name}: {len(rows)} rows", flush=True)


def measured_on() -> str:
    """Tier, hardware, versions and day: those of `distlab bench`, and as much of the command."""
    from distlab.bench.stamp import stamp

    on = stamp()
    return (
        f"tier {on.tier}: {on.hardware}, {on.cores} cores, {on.memory_GiB:.0f} GiB; gloo, 1 thread a process; torch "
        f"{on.torch}, Python {on.python}, {on.system}; {on.date}"
    )


def load() -> str:
    """How busy the machine is now."""
    running = os.getloadavg()[0]
    busy = "" if running < cores() / 4 else ": other programs ran, times are for trying out alone"
    return f"load average before: {running:.2f} of {cores()} cores{busy}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.own_cases", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("what", nargs="*", metavar="WHAT", help=f"{', '.join(FILES)}, or gpu FOLDER")
    parser.add_argument(
        "--out", type=Path, default=DATA, help="folder of the files; by default the package's"
    )
    parser.add_argument("--short", action="store_true", help="few cases, hardly measured")
    asked: Any = parser.parse_args(arguments)
    command = (
        f"command: python -m benchmarks.own_cases {' '.join(asked.what)}{' --short' if asked.short else ''}"
    )
    if asked.what[:1] == ["gpu"]:
        if len(asked.what) != 2:
            parser.error("gpu needs the folder of one recording, such as recordings/nvidia-h200-x1")
        for name, remarks, rows in own_recorded.tables(Path(asked.what[1])):
            write(asked.out / name, [*remarks, command.strip()], rows)
        return 0
    if unknown := [what for what in asked.what if what not in FILES]:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(FILES)}, and gpu FOLDER")
    plan = Plan(short=asked.short)
    for what in asked.what or ("collectives", "steps"):
        name, measure, title = FILES[what]
        before = [] if what == "memory" else [load()]  # bytes are the same on a busy machine
        rows = measure(plan)
        write(asked.out / name, [title, measured_on(), *before, command.strip()], rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
