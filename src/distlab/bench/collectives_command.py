"""`distlab bench collectives`: start the ranks, keep what they find, show it."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import psutil

from distlab.bench.collectives import SIZES_BYTES, Sweep, sweep
from distlab.bench.collectives_report import Report, Row, merged
from distlab.bench.collectives_tables import print_table
from distlab.bench.hosts import COLLECTIVE_S, HostNetwork, sweep_between_hosts
from distlab.bench.journal import Journal
from distlab.bench.operations import OPERATIONS, DtypeName, Redop
from distlab.bench.results import SAMPLES_MOST, Results, as_json, check_figure, check_writable, write_results
from distlab.bench.stamp import Stamp, command, stamp
from distlab.bench.timing import COLLECTIVE_CALLS_LEAST, Policy
from distlab.bench.watch import Watch
from distlab.errors import SettingError, WorkError
from distlab.predict.collectives import Op
from distlab.train.launch import backend_for, launch

IDENTITY = ("operation", "place", "payload_bytes", "dtype", "redop", "root", "world_size")
LAUNCHES_MOST = SAMPLES_MOST // COLLECTIVE_CALLS_LEAST
RANK_BYTES = 2**27
"""Memory of a process that has imported torch, its libraries not counted, which all of them share."""


def main(
    world_size: int = 2,
    operations: tuple[Op, ...] = OPERATIONS,
    sizes_bytes: tuple[int, ...] = SIZES_BYTES,
    dtype: DtypeName = "float32",
    redop: Redop = "sum",
    root: int = 0,
    backend: Literal["gloo", "nccl"] | None = None,
    warmup: int = 5,
    iterations: int | None = None,
    budget_s: float = 0.3,
    launches: int = 1,
    hosts: int | None = None,
    rate_Mbits: float | None = None,  # noqa: N803 - units keep their case
    delay_ms: float = 0.0,
    out: Path | None = None,
    plot: Path | None = None,
    json: bool = False,
) -> int:
    """Time the collectives between processes, and count the elements that they deliver wrong.

    A few calls of each operation and size run untimed, then as many as fit in `budget_s` (8 to 1000), back to back;
    a call's time is that of its slowest rank, and time and bandwidth in the table are of the median. Exit code 1 where
    a wrong element was delivered; Ctrl-C keeps what was measured.

    Args:
        world_size: Processes of this machine; one GPU each where there are as many, else CPU.
        operations: Which collectives.
        sizes_bytes: Payloads, as nccl-tests counts them.
        dtype: Type of the elements.
        redop: How the reducing ones reduce.
        root: Of broadcast and reduce.
        backend: By default NCCL where each process gets a GPU, else gloo.
        warmup: Untimed calls before each measurement.
        iterations: Timed calls; by default as many as fit in `budget_s`.
        budget_s: Seconds for the timed calls of each operation and size, out of place and in place each.
        launches: Start the processes and measure so many times: what `distlab bench compare` needs to tell a
            change from the luck of a start.
        hosts: In place of `world_size`: so many machines with a rank each, which are network namespaces of this one
            (Linux, root).
        rate_Mbits: With `hosts`: bandwidth of each machine's cable, 10^6 bits/s each way.
        delay_ms: With `hosts`: one-way delay between two machines.
        out: Write rows, times and stamp to this file, as JSON.
        plot: Draw bus bandwidth and time over payload into this file: .svg, .png or .pdf.
        json: Print what `out` would hold in place of the table.
    """
    if not 1 <= launches <= LAUNCHES_MOST:
        raise SettingError(f"launches is {launches}; expected 1 to {LAUNCHES_MOST}.")
    policy = Policy(warmup, iterations, budget_s)
    wanted = Sweep(operations, sizes_bytes, dtype, redop, root, policy, SAMPLES_MOST // launches)
    layout = _layout(hosts, rate_Mbits, delay_ms, backend)
    ranks = world_size if hosts is None else hosts
    _check_ranks(wanted, ranks, backend)
    _check_files(out, plot)
    if plot is not None and ranks == 1:
        raise SettingError(
            "plot draws bus bandwidth over payload, and one rank sends nothing; measure two or more."
        )

    def start(folder: str) -> None:
        if layout is None:
            launch(sweep, ranks, wanted, folder, backend=backend, timeout_s=COLLECTIVE_S)
        else:
            sweep_between_hosts(layout, wanted, folder)

    report, ended = _gather(start, launches, len(operations) * len(sizes_bytes))
    if report.rows:
        _show(report, out, plot, json)
    if isinstance(ended, WorkError):
        raise ended
    if ended is not None:
        what = "what was measured is kept" if report.rows else "nothing was measured yet"
        print(f"Interrupted; {what}.", file=sys.stderr)
        return 130
    return _verdict(report)


def _layout(
    hosts: int | None,
    rate_Mbits: float | None,  # noqa: N803
    delay_ms: float,
    backend: str | None,
) -> HostNetwork | None:
    if hosts is not None:
        if backend == "nccl":
            raise SettingError("backend is 'nccl'; between hosts that are namespaces only gloo runs.")
        return HostNetwork(hosts, rate_Mbits, delay_ms)
    if rate_Mbits is not None or delay_ms:
        raise SettingError("rate_Mbits and delay_ms shape the network between hosts: give --hosts, too.")
    return None


def _check_ranks(wanted: Sweep, ranks: int, backend: str | None) -> None:
    if ranks < 1:
        raise SettingError(f"world_size is {ranks}; it must be 1 or more.")
    if not 0 <= wanted.root < ranks:
        raise SettingError(f"root is {wanted.root}; with {ranks} ranks it is one of 0 to {ranks - 1}.")
    usual = backend_for(ranks)
    if backend == "nccl" and usual != "nccl":
        raise SettingError(
            f"backend is 'nccl', which needs a GPU for each of the {ranks} ranks; leave it away to measure gloo on "
            "the CPU, or measure fewer ranks."
        )
    if (backend or usual) == "gloo":
        # Two buffers, known data, what is expected, and what differs.
        payload, free = max(wanted.sizes_bytes), psutil.virtual_memory().available
        need = ranks * (RANK_BYTES + 5 * payload)
        if need > free:
            raise SettingError(
                f"{ranks:,} ranks with payloads of up to {payload:,} bytes need {need / 2**30:,.1f} GiB, and "
                f"{free / 2**30:,.1f} GiB are free. Measure fewer ranks (world_size) or smaller payloads (sizes_bytes)."
            )


def _check_files(out: Path | None, plot: Path | None) -> None:
    if out is not None:
        check_writable(out)
    if plot is not None:
        check_figure(plot)


def _gather(
    start: Callable[[str], None], launches: int, rows_each: int
) -> tuple[Report, BaseException | None]:
    """Launch, and read what the ranks found; also what ended it early."""
    ended: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="distlab-bench-") as folder:
        journals = [Path(folder, str(number)) for number in range(launches)]
        for journal in journals:
            journal.mkdir()
        try:
            with Watch(journals, rows_each):
                for journal in journals:
                    start(str(journal))
        except (KeyboardInterrupt, WorkError) as error:
            ended = error
        items = [item for journal in journals for item in Journal(journal).items()]
    report = _report(items)
    if ended is not None:
        why = "interrupted" if isinstance(ended, KeyboardInterrupt) else "a rank failed"
        report.notes.append(f"Cut short ({why}): {len(report.rows)} of {rows_each} rows were measured.")
    return report, ended


def _report(items: Iterable[Any]) -> Report:
    """The report of what several launches found."""
    stamps: list[Stamp] = []
    rows: dict[tuple[str, int], list[Row]] = defaultdict(list)
    notes: dict[str, None] = {}  # in order, each once
    for item in items:
        if isinstance(item, Stamp):
            stamps.append(item)
        elif isinstance(item, Row):
            rows[item.operation, item.payload_bytes].append(item)
        elif isinstance(item, str):
            notes[item] = None
    first = stamps[0] if stamps else stamp()
    return Report(
        [merged(same) for same in rows.values()], dataclasses.replace(first, command=command()), list(notes)
    )


def _show(report: Report, out: Path | None, plot: Path | None, json: bool) -> None:
    results = as_results(report)
    if out is not None:
        write_results(out, results)
    if plot is not None:
        from distlab.bench.collectives_plot import plot_collectives

        plot_collectives(report, plot)
    print(as_json(results)) if json else print_table(report)


def _verdict(report: Report) -> int:
    if not report.rows:
        raise WorkError(" ".join(["Nothing was measured.", *report.notes[1:]]))
    wrong = [row for row in report.rows if row.wrong]
    for row in wrong:
        said = ", ".join(
            f"{timing.wrong:,} {place.replace('_', ' ')}" for place, timing in row.places.items()
        )
        print(
            f"{row.operation} of {row.payload_bytes:,} bytes delivered wrong elements: {said}.",
            file=sys.stderr,
        )
    return 1 if wrong else 0


def as_results(report: Report) -> Results:
    """The report in the format of result files: a row for each operation, size and place."""
    rows = []
    for row in report.rows:
        what = {name: value for name, value in vars(row).items() if name not in ("out_of_place", "in_place")}
        for place, timing in row.places.items():
            figures = {
                name: round_figure(value) if isinstance(value, float) else value
                for name, value in vars(timing).items()
            }
            rows.append(what | {"place": place} | figures)
    return Results("collectives", IDENTITY, rows, dataclasses.asdict(report.stamp), tuple(report.notes))


def round_figure(value: float) -> float:
    """To 6 digits."""
    return float(f"{value:.6g}")
