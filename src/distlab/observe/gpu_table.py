"""GPUs as a table for a terminal: what nvidia-smi shows, and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distlab.observe.sample import GpuSample, Reading, SampleTier, Xid
from distlab.observe.xids import named
from distlab.predict.units import GB, GIB

HOT_C = 5
"""Closer than so many degrees to the slowdown temperature is shown as hot."""
FULL = 0.95
HARMLESS = {"gpu_idle", "applications_clocks_setting"}
"""Reasons for a low clock that are nobody's trouble."""
IMPLIED = {"hw_slowdown"}
"""hw_thermal_slowdown and hw_power_brake_slowdown say more."""
NONE = "-"
PADDING = 3


def gpu_table(tier: SampleTier, reading: Reading, before: Reading | None = None, width: int = 80) -> Group:
    """The reading, a row for each GPU; columns that find no room in `width` characters are left out.

    before: an earlier reading, for rates that only counters tell.
    """
    earlier = {sample.uuid: sample for sample in before.samples} if before else {}
    names = list(dict.fromkeys(sample.name for sample in reading.samples))
    title = ", ".join(f"{sum(s.name == name for s in reading.samples)} x {escape(name)}" for name in names)
    drivers = ", ".join(dict.fromkeys(s.driver for s in reading.samples if s.driver)) or "unknown"
    title = f"{title} · tier {tier} · driver {escape(drivers)}" if names else f"no GPU · tier {tier}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    columns = [
        (column, cells)
        for column in _COLUMNS
        if any(cells := [column.cell(sample, earlier.get(sample.uuid)) for sample in reading.samples])
    ]
    fitting = _fitting(columns, width)
    for column, _ in fitting:
        table.add_column(column.head, justify="left" if column.words else "right", no_wrap=True)
    for i in range(len(reading.samples)):
        table.add_row(*(cells[i] or NONE for _, cells in fitting))
    told = [Text(f"! GPU {s.gpu}:{_told(s.xids[-1:])}", style="red") for s in reading.samples if s.xids]
    told += [Text(f"! {problem.what}{_told(problem.xids)}", style="red") for problem in reading.problems]
    return Group(Text.from_markup(title), table, *told)


@dataclass(frozen=True)
class _Column:
    head: str
    cell: Callable[[GpuSample, GpuSample | None], str]
    """Of a sample and the one before it."""
    rank: int
    """The highest is the first to be left out."""
    words: bool = False


def _fitting(columns: list[tuple[_Column, list[str]]], width: int) -> list[tuple[_Column, list[str]]]:
    left, kept = width, set()
    for column, cells in sorted(columns, key=lambda pair: pair[0].rank):
        needs = max(len(Text.from_markup(text)) for text in [column.head, *cells]) + PADDING
        if needs > left:
            continue
        left -= needs
        kept.add(column)
    return [(column, cells) for column, cells in columns if column in kept]


def _memory(s: GpuSample) -> str:
    if s.memory_used_bytes is None or s.memory_free_bytes is None:
        return _number(_gib(s.memory_used_bytes), digits=1)
    whole = s.memory_used_bytes + s.memory_free_bytes
    cell = f"{s.memory_used_bytes / GIB:.1f}/{whole / GIB:.0f}"
    return _bad(cell, s.memory_used_bytes > FULL * whole)


def _temperature(s: GpuSample) -> str:
    limit = s.slowdown_temperature_C
    hot = limit is not None and s.temperature_C is not None and s.temperature_C > limit - HOT_C
    return _bad(_of(s.temperature_C, limit), hot)


def _reasons(s: GpuSample) -> str:
    if s.throttle_reasons is None:
        return ""
    words = ", ".join(reason.replace("_", " ") for reason in s.throttle_reasons if reason not in IMPLIED)
    return _bad(words, bool(set(s.throttle_reasons) - HARMLESS))


def _ecc(s: GpuSample) -> str:
    return _bad(_of(s.ecc_single_bit_total, s.ecc_double_bit_total), bool(s.ecc_double_bit_total))


def _nvlink(s: GpuSample, before: GpuSample | None) -> float | None:
    if before is None or s.nvlink_bytes_total is None or before.nvlink_bytes_total is None:
        return None
    passed_s, moved = s.time - before.time, s.nvlink_bytes_total - before.nvlink_bytes_total
    return moved / passed_s / GB if passed_s > 0 and moved >= 0 else None


def _number(value: float | None, unit: str = "", digits: int = 0) -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


def _of(value: float | None, other: float | None, digits: int = 0) -> str:
    if value is None and other is None:
        return ""
    return "/".join(_number(v, digits=digits) or NONE for v in (value, other))


def _bad(cell: str, bad: bool) -> str:
    return f"[bold red]{cell}[/]" if bad and cell else cell


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _giga(value: float | None) -> float | None:
    return None if value is None else value / GB


def _gib(value: float | None) -> float | None:
    return None if value is None else value / GIB


def _told(xids: tuple[Xid, ...]) -> str:
    return f" XID {', '.join(named(xid.code) for xid in xids)}." if xids else ""


_COLUMNS = (
    _Column("GPU", lambda s, _: str(s.gpu), 0),
    _Column("busy", lambda s, _: _number(s.utilization_percent, "%"), 1),
    _Column("tensor", lambda s, _: _number(_percent(s.tensor_active), "%"), 6),
    _Column("GiB", lambda s, _: _memory(s), 2),
    _Column("W", lambda s, _: _of(s.power_W, s.power_limit_W), 3),
    _Column("C", lambda s, _: _temperature(s), 4),
    _Column("MHz", lambda s, _: _of(s.sm_clock_MHz, s.sm_clock_max_MHz), 5),
    _Column("held down by", lambda s, _: _reasons(s), 5, words=True),
    _Column("XID", lambda s, _: _bad(" ".join(str(xid.code) for xid in s.xids[-3:]), True), 5),
    _Column(
        "MIG",
        lambda s, _: " ".join(escape(m.profile) for m in s.mig or ()),
        5,
        words=True,
    ),
    _Column("ECC", lambda s, _: _ecc(s), 7),
    _Column("NVLink GB/s", lambda s, before: _number(_nvlink(s, before), digits=1), 8),
    _Column(
        "PCIe GB/s", lambda s, _: _of(_giga(s.pcie_rx_bytes_per_s), _giga(s.pcie_tx_bytes_per_s), digits=1), 9
    ),
    _Column("processes", lambda s, _: " ".join(str(p.pid) for p in (s.processes or ())[:3]), 10, words=True),
)
"""A column without a single cell is not shown. Two numbers: used and whole, corrected and uncorrected, in and out."""
