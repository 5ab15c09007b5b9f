"""Read an Nsight Systems export (SQLite), which needs neither Nsight nor a GPU.

    nsys export --type sqlite --output run.sqlite run.nsys-rep      # `distlab profile nsys` does so by itself
    distlab profile read-nsys run.sqlite

Tables and columns: "SQLite Export Schema Reference" in NVIDIA's Nsight Systems documentation. Tables that nothing was
recorded for do not exist in an export.
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sqlite3
import stat
import statistics
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.observe.profile.intervals import Times, length, subtract, union

MOST_ROWS = 5_000_000
MOST_ROW_BYTES = 2**24
"""Of a row, and of each of its texts."""
TOP_KERNELS = 20

COPY_KINDS = {1: "host to device", 2: "device to host", 8: "device to device", 10: "peer to peer"}
"""CUpti_ActivityMemcpyKind (CUPTI documentation)."""


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel on one GPU."""

    name: str
    count: int
    total_s: float
    median_s: float
    longest_s: float


@dataclass(frozen=True)
class Copies:
    """All copies of one direction on one GPU."""

    kind: str
    count: int
    bytes: int
    total_s: float

    @property
    def bandwidth_GBps(self) -> float:  # noqa: N802 - units keep their case
        """10^9 bytes per second while copying."""
        return self.bytes / self.total_s / 1e9 if self.total_s else 0.0


@dataclass(frozen=True)
class GpuTimes:
    """What one GPU did between the first and the last thing it did; in seconds.

    span_s = compute_s + exposed_communication_s + exposed_copy_s + idle_s.
    """

    gpu: int
    name: str
    span_s: float
    compute_s: float
    """Some kernel other than NCCL's runs."""
    communication_s: float
    """Some NCCL kernel runs, hidden behind computation or not."""
    exposed_communication_s: float
    exposed_copy_s: float
    """A copy, and neither computation nor communication."""
    idle_s: float
    median_gap_s: float
    """Median length of an idle stretch: microseconds tell of launch latency, milliseconds of a waiting host."""
    kernels: tuple[Kernel, ...]
    """By total time, at most TOP_KERNELS."""
    copies: tuple[Copies, ...]


@dataclass(frozen=True)
class Range:
    """An NVTX range, by its text."""

    text: str
    count: int
    total_s: float
    median_s: float


@dataclass(frozen=True)
class NsysReport:
    """An export."""

    gpus: tuple[GpuTimes, ...]
    ranges: tuple[Range, ...]


def read_nsys(path: Path) -> NsysReport:
    """The report. SettingError for a file that is no export, or that holds no GPU activity."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is not a regular file")
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as base:
            return _read(base)
    except (OSError, ValueError, TypeError, sqlite3.Error) as error:
        raise SettingError(
            f"{path} is not an SQLite export of Nsight Systems ({printable(str(error))[:200]}); make one with "
            "`nsys export --type sqlite`."
        ) from None


def _read(base: sqlite3.Connection) -> NsysReport:
    base.execute("PRAGMA trusted_schema = OFF")
    # A column may be computed, from nothing and as long as it likes.
    base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_ROW_BYTES)
    # A view, which may be made never to end, is no table.
    tables = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "CUPTI_ACTIVITY_KIND_KERNEL" not in tables:
        raise ValueError("it has no table of kernels: nothing ran on a GPU, or --trace lacked cuda")
    texts = _texts(base) if "StringIds" in tables else {}
    kernels: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for start, end, gpu, name in _rows(
        base, "CUPTI_ACTIVITY_KIND_KERNEL", ("start", "end", "deviceId", "shortName")
    ):
        kernels[gpu].append((start, end, texts.get(name, f"kernel {name}")))
    copies: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    if "CUPTI_ACTIVITY_KIND_MEMCPY" in tables:
        columns = ("start", "end", "deviceId", "copyKind", "bytes")
        for start, end, gpu, kind, count in _rows(base, "CUPTI_ACTIVITY_KIND_MEMCPY", columns):
            copies[gpu].append((start, end, kind, count))
    names = _gpu_names(base) if "TARGET_INFO_GPU" in tables else {}
    return NsysReport(
        gpus=tuple(
            _gpu_times(gpu, names.get(gpu, f"GPU {gpu}"), kernels[gpu], copies[gpu])
            for gpu in sorted({*kernels, *copies})
        ),
        ranges=_ranges(base, texts) if "NVTX_EVENTS" in tables else (),
    )


def _rows(base: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Whole numbers alone. The names are this module's own."""
    wanted = ", ".join(f'"{column}"' for column in columns)
    rows = base.execute(f"SELECT {wanted} FROM {table} LIMIT {MOST_ROWS + 1}").fetchall()
    if len(rows) > MOST_ROWS:
        raise ValueError(f"{table} has more than {MOST_ROWS} rows; export a shorter time")
    if not all(type(value) is int and abs(value) < 2**62 for row in rows for value in row):
        raise ValueError(f"{table} holds something else than whole numbers in {wanted}")
    return rows


def _texts(base: sqlite3.Connection) -> dict[Any, str]:
    found = base.execute(f"SELECT id, value FROM StringIds LIMIT {MOST_ROWS}")
    return {key: printable(str(text))[:300] for key, text in found}


def _gpu_names(base: sqlite3.Connection) -> dict[Any, str]:
    return {
        gpu: printable(str(name))[:100]
        for gpu, name in base.execute("SELECT id, name FROM TARGET_INFO_GPU LIMIT 64")
    }


def _gpu_times(
    gpu: int, name: str, kernels: list[tuple[int, int, str]], copies: list[tuple[int, int, int, int]]
) -> GpuTimes:
    communication = union((start, end) for start, end, kernel in kernels if _is_nccl(kernel))
    compute = union((start, end) for start, end, kernel in kernels if not _is_nccl(kernel))
    copying = union((start, end) for start, end, _, _ in copies)
    exposed = subtract(communication, compute)
    exposed_copies = subtract(subtract(copying, compute), communication)
    busy = union([*compute, *communication, *copying])
    span: Times = [(busy[0][0], busy[-1][1])] if busy else []
    gaps = [end - start for start, end in subtract(span, busy)]
    return GpuTimes(
        gpu=gpu,
        name=name,
        span_s=length(span) / 1e9,
        compute_s=length(compute) / 1e9,
        communication_s=length(communication) / 1e9,
        exposed_communication_s=length(exposed) / 1e9,
        exposed_copy_s=length(exposed_copies) / 1e9,
        idle_s=sum(gaps) / 1e9,
        median_gap_s=statistics.median(gaps) / 1e9 if gaps else 0.0,
        kernels=_top(kernels),
        copies=_copies(copies),
    )


def _is_nccl(kernel: str) -> bool:
    return kernel.startswith(("nccl", "ncclDevKernel", "ncclKernel"))


def _top(kernels: list[tuple[int, int, str]]) -> tuple[Kernel, ...]:
    times: dict[str, list[int]] = defaultdict(list)
    for start, end, name in kernels:
        times[name].append(max(0, end - start))
    rows = [
        Kernel(name, len(each), sum(each) / 1e9, statistics.median(each) / 1e9, max(each) / 1e9)
        for name, each in times.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.total_s, row.name))[:TOP_KERNELS])


def _copies(copies: list[tuple[int, int, int, int]]) -> tuple[Copies, ...]:
    by_kind: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for start, end, kind, count in copies:
        by_kind[kind].append((max(0, end - start), max(0, count)))
    return tuple(
        Copies(
            COPY_KINDS.get(kind, f"copy kind {kind}"),
            len(each),
            sum(count for _, count in each),
            sum(time for time, _ in each) / 1e9,
        )
        for kind, each in sorted(by_kind.items())
    )


def _ranges(base: sqlite3.Connection, texts: dict[Any, str]) -> tuple[Range, ...]:
    times: dict[str, list[int]] = defaultdict(list)
    query = f'SELECT start, "end", text, textId FROM NVTX_EVENTS WHERE "end" IS NOT NULL LIMIT {MOST_ROWS}'
    for start, end, text, text_id in base.execute(query):
        if type(start) is int and type(end) is int and end >= start:
            times[printable(str(text))[:200] if text else texts.get(text_id, "?")].append(end - start)
    rows = [
        Range(text, len(each), sum(each) / 1e9, statistics.median(each) / 1e9) for text, each in times.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.total_s, row.text))[:TOP_KERNELS])


def show_nsys(path: Positional[Path], json: bool = False) -> int:
    """Where each GPU's time went, from an SQLite export of Nsight Systems.

    Args:
        path: the export.
        json: print the report as JSON.
    """
    report = read_nsys(path)
    if json:
        print(jsonlib.dumps(dataclasses.asdict(report), indent=1))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    for gpu in report.gpus:
        parts = {
            "compute": gpu.compute_s,
            "exposed communication": gpu.exposed_communication_s,
            "exposed copies": gpu.exposed_copy_s,
            "idle": gpu.idle_s,
        }
        shares = ", ".join(
            f"{name} {100 * part_s / gpu.span_s:.1f}%" for name, part_s in parts.items() if gpu.span_s
        )
        console.print(f"[bold]GPU {gpu.gpu}, {escape(gpu.name)}[/]: {gpu.span_s * 1e3:,.3f} ms; {shares}")
        table = Table("kernel", *_headed("count", "total ms", "median us", "longest us"))
        for kernel in gpu.kernels:
            micro = (f"{time_s * 1e6:,.1f}" for time_s in (kernel.median_s, kernel.longest_s))
            table.add_row(escape(kernel.name), str(kernel.count), f"{kernel.total_s * 1e3:,.3f}", *micro)
        console.print(table)
        for copy in gpu.copies:
            console.print(
                f"{copy.kind}: {copy.count} copies, {copy.bytes / 1e6:,.1f} MB, {copy.bandwidth_GBps:,.1f} GB/s"
            )
    return 0


def _headed(*names: str) -> list[Any]:
    from rich.table import Column

    return [Column(name, justify="right") for name in names]
