"""`python -m benchmarks [NAME]`: run them one after the other, print a table, write results.json.

A name may be the first part of several: `predict` is all of `predict.*`.
"""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from benchmarks import (
    book,
    checkpoints,
    collectives,
    grade,
    grade_pages,
    observe,
    optimise,
    predict,
    recovery,
    site,
    starting,
    train,
)
from benchmarks.results import Result, record

BENCHMARKS = {
    "import.distlab": starting.import_distlab,
    "launch.two_ranks": starting.two_ranks,
    "train.ddp.overhead": train.ddp_overhead,
    "train.fsdp.overhead": train.fsdp_overhead,
    "checkpoint.async_stall": checkpoints.async_stall,
    "bench.collective_agreement": collectives.agreement,
    "bench.call_overhead_us": collectives.call_overhead,
    "optimise": optimise.optimise,
    "observe.scrape_ms": observe.scrape_ms,
    "observe.cpu_share": observe.cpu_share,
    "predict.single_us": predict.single_us,
    "predict.layout_s": predict.layout_s,
    "predict.goodput_run_s": predict.goodput_run_s,
    "predict.cli_ms": predict.cli_ms,
    "recovery.torchrun": recovery.torchrun,
    "recovery.ray": recovery.ray,
    "recovery.horovod": recovery.horovod,
    "book.build": book.build,
    "grade.throughput": grade.throughput,
    "grade.overhead_s": grade.overhead,
    "grade.workers": grade.workers,
    "grade.formgrader_1000_s": grade_pages.formgrader,
    "site.second_up": site.second_up,
    "site.open_lab": site.open_lab,
    "site.learners": site.twenty_learners,
}


def main(names: list[str]) -> int:
    found = {name: [known for known in BENCHMARKS if f"{known}.".startswith(f"{name}.")] for name in names}
    unknown = [name for name, those in found.items() if not those]
    if unknown:
        print(
            f"benchmarks: there is none called {unknown[0]!r}; there are {', '.join(BENCHMARKS)}.",
            file=sys.stderr,
        )
        return 2
    console = Console()
    results: list[Result] = []
    for name in [known for those in found.values() for known in those] or BENCHMARKS:
        with console.status(f"{name} ..."):
            rows = BENCHMARKS[name]()
        record(rows, command=f"make bench BENCH={name}")
        results += rows
    table = Table("name", "value", "unit", "peer", "ratio")
    for row in results:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.name, f"{row.value:.4g}", row.unit, row.peer or "", ratio)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
