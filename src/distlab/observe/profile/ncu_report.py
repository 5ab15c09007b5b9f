"""Read Nsight Compute's CSV, which needs neither Nsight nor a GPU.

    ncu --csv --page raw --import run.ncu-rep > run.csv      # `distlab profile ncu` does so by itself
    distlab profile read-ncu run.csv

Both layouts are read: one metric a row (`--page details`, and `--metrics` without a page) and one kernel a row, with a
row of units below the heading (`--page raw`). What limits a kernel follows the speed-of-light section of NVIDIA's
Kernel Profiling Guide: the share of peak that its busiest unit reached.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json as jsonlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.files import read_limited

MOST_BYTES = 2**27
BUSY_PERCENT = 60.0
"""A unit above this share of its peak limits the kernel; below it in all units, latency does (the guide's rule)."""

DURATION = "gpu__time_duration.sum"
COMPUTE = "sm__throughput.avg.pct_of_peak_sustained_elapsed"
MEMORY = "gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed"
DRAM = "dram__throughput.avg.pct_of_peak_sustained_elapsed"
OCCUPANCY = "sm__warps_active.avg.pct_of_peak_sustained_active"
REGISTERS = "launch__registers_per_thread"
METRICS = (DURATION, COMPUTE, MEMORY, DRAM, OCCUPANCY, REGISTERS)

_TITLES = {
    "Duration": DURATION,
    "Compute (SM) Throughput": COMPUTE,
    "Memory Throughput": MEMORY,
    "DRAM Throughput": DRAM,
    "Achieved Occupancy": OCCUPANCY,
    "Registers Per Thread": REGISTERS,
}
"""What `--page details` calls them. "Memory Throughput" is there twice; only its percentage is meant."""

_SECONDS = {
    "ns": 1e-9,
    "nsecond": 1e-9,
    "us": 1e-6,
    "usecond": 1e-6,
    "ms": 1e-3,
    "msecond": 1e-3,
    "s": 1.0,
    "second": 1.0,
}

Limit = Literal["compute", "memory", "latency", "unknown"]


@dataclass(frozen=True)
class KernelReport:
    """One launch of a kernel. A metric that was not collected is None."""

    id: str
    name: str
    grid: str
    block: str
    duration_s: float | None
    compute_percent: float | None
    """Of the peak of the busiest pipeline of the SMs."""
    memory_percent: float | None
    """Of the peak of the busiest part of the memory system."""
    dram_percent: float | None
    occupancy_percent: float | None
    registers: float | None

    @property
    def limit(self) -> Limit:
        """What to look at first."""
        if self.compute_percent is None or self.memory_percent is None:
            return "unknown"
        if max(self.compute_percent, self.memory_percent) < BUSY_PERCENT:
            return "latency"
        return "compute" if self.compute_percent >= self.memory_percent else "memory"

    @property
    def advice(self) -> str:
        """One sentence."""
        return ADVICE[self.limit]


ADVICE: dict[Limit, str] = {
    "compute": "The arithmetic units are the ceiling: use a cheaper precision or tensor cores, or do less work.",
    "memory": "The memory system is the ceiling: fuse with neighbours, move fewer bytes, keep tiles in shared memory.",
    "latency": "No unit is busy: more work per launch (larger batch, fused kernels) or more occupancy hides latency.",
    "unknown": "Throughput was not collected: run ncu with --set basic, or with `distlab profile ncu`.",
}


def read_ncu(path: Path) -> tuple[KernelReport, ...]:
    """The kernels of a CSV, in order. SettingError for a file that is none."""
    try:
        text = read_limited(path, MOST_BYTES).decode("utf-8", "replace")
        # ncu writes its own messages and those of the program in front.
        lines = text.splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
        if first is None:
            raise ValueError('no line begins with "ID"')
        rows = list(csv.DictReader(io.StringIO("\n".join(lines[first:]))))
        kernels = _by_metric(rows) if rows and "Metric Name" in rows[0] else _by_kernel(rows)
        if not kernels:
            raise ValueError("it holds no kernel")
        return kernels
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        raise SettingError(
            f"{path} is not a CSV of Nsight Compute ({printable(str(error))[:200]}); make one with "
            "`ncu --csv --page raw --import FILE.ncu-rep`."
        ) from None


def _by_metric(rows: list[dict[str, str]]) -> tuple[KernelReport, ...]:
    launches: dict[str, dict[str, float]] = {}
    heads: dict[str, dict[str, str]] = {}
    for row in rows:
        key = row["ID"]
        values = launches.setdefault(key, {})
        heads.setdefault(key, row)
        metric = _TITLES.get(row["Metric Name"], row["Metric Name"])
        wrong_unit = metric == MEMORY and row["Metric Unit"] != "%"
        if (
            metric in METRICS
            and not wrong_unit
            and (value := _value(row["Metric Value"], row["Metric Unit"])) is not None
        ):
            values[metric] = value
    return tuple(_kernel(heads[key], values) for key, values in launches.items())


def _by_kernel(rows: list[dict[str, str]]) -> tuple[KernelReport, ...]:
    if not rows or rows[0]["ID"]:
        raise ValueError("the row of units is missing")
    units, *launches = rows
    kernels = []
    for row in launches:
        found = ((metric, _value(row.get(metric) or "", units.get(metric) or "")) for metric in METRICS)
        kernels.append(_kernel(row, {metric: value for metric, value in found if value is not None}))
    return tuple(kernels)


def _kernel(head: dict[str, str], values: dict[str, float]) -> KernelReport:
    return KernelReport(
        id=printable(head["ID"])[:20],
        name=printable(head["Kernel Name"])[:300],
        grid=printable(head.get("Grid Size") or "")[:60],
        block=printable(head.get("Block Size") or "")[:60],
        duration_s=values.get(DURATION),
        compute_percent=values.get(COMPUTE),
        memory_percent=values.get(MEMORY),
        dram_percent=values.get(DRAM),
        occupancy_percent=values.get(OCCUPANCY),
        registers=values.get(REGISTERS),
    )


def _value(text: str, unit: str) -> float | None:
    """A number as ncu writes it, times in seconds; None where it wrote none ("n/a")."""
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value * _SECONDS.get(unit, 1.0) if math.isfinite(value) else None


def show_ncu(path: Positional[Path], json: bool = False) -> int:
    """What limits each kernel, from a CSV of Nsight Compute; the longest first.

    Args:
        path: the CSV.
        json: print the kernels as JSON.
    """
    kernels = sorted(read_ncu(path), key=lambda kernel: -(kernel.duration_s or 0.0))
    if json:
        rows = [dataclasses.asdict(k) | {"limit": k.limit, "advice": k.advice} for k in kernels]
        print(jsonlib.dumps(rows, indent=1))
        return 0
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    numbers = ("us", "compute %", "memory %", "DRAM %", "occupancy %", "registers")
    table = Table("kernel", *(Column(name, justify="right") for name in numbers), "limit")
    for kernel in kernels:
        duration_us = None if kernel.duration_s is None else kernel.duration_s * 1e6
        shown = (
            duration_us,
            kernel.compute_percent,
            kernel.memory_percent,
            kernel.dram_percent,
            kernel.occupancy_percent,
        )
        registers = "" if kernel.registers is None else f"{kernel.registers:.0f}"
        cells = ("" if value is None else f"{value:,.1f}" for value in shown)
        table.add_row(escape(kernel.name), *cells, registers, kernel.limit)
    console = Console()
    console.print(table)
    for limit in dict.fromkeys(kernel.limit for kernel in kernels):
        console.print(f"[bold]{limit}[/]: {ADVICE[limit]}")
    return 0
