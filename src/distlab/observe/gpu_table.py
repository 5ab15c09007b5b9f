"""GPUs as a table for a terminal: what nvidia-smi shows, and what it leaves out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from distlab.observe.sample import GpuSample, Reading, SampleTier
from distlab.predict.units import GB, GIB

HOT_C = 5
"""Closer than so many degrees to the slowdown temperature is shown as hot."""
FULL = 0.95
HARMLESS = {"gpu_idle", "applications_clocks_setting"}
"""Reasons for a low clock that are nobody's trouble."""
NONE = "-"


def gpu_table(tier: SampleTier, reading: Reading, before: Reading | None = None) -> Group:
    """The reading, a row for each GPU. before: an earlier one, for rates that only counters tell."""
    earlier = {sample.uuid: sample for sample in before.samples} if before else {}
    names = list(dict.fromkeys(sample.name for sample in reading.samples))
    title = ", ".join(f"{sum(s.name == name for s in reading.samples)} x {escape(name)}" for name in names)
    drivers = ", ".join(dict.fromkeys(s.driver for s in reading.samples if s.driver)) or "unknown"
    table = Table(
        title=f"{title} · tier {tier} · driver {escape(drivers)}" if names else f"no GPU · tier {tier}",
        title_justify="left",
        pad_edge=False,
    )
    columns = [
        (head, cells)
        for head, cell in _columns(earlier).items()
        if any(cells := [cell(sample) for sample in reading.samples])
    ]
    for head, _ in columns:
        table.add_column(head, justify="left" if head in ("held down by", "MIG", "processes") else "right")
    for i in range(len(reading.samples)):
        table.add_row(*(cells[i] or NONE for _, cells in columns))
    problems = [Text(f"! {problem.what}{_told(problem.xids)}", style="red") for problem in reading.problems]
    return Group(table, *problems)


def _columns(earlier: Mapping[str, GpuSample]) -> dict[str, Callable[[GpuSample], str]]:
    """Heads and cells; a column without a single cell is not shown."""
    return {
        "GPU": lambda s: str(s.gpu),
        "busy": lambda s: _number(s.utilization_percent, "%"),
        "tensor": lambda s: _number(_percent(s.tensor_active), "%"),
        "memory GiB": _memory,
        "power W": lambda s: _of(s.power_W, s.power_limit_W),
        "temp C": _temperature,
        "clock MHz": lambda s: _of(s.sm_clock_MHz, s.sm_clock_max_MHz),
        "held down by": _reasons,
        "NVLink GB/s": lambda s: _number(_nvlink(s, earlier.get(s.uuid)), digits=1),
        "PCIe GB/s": lambda s: _of(_giga(s.pcie_rx_bytes_per_s), _giga(s.pcie_tx_bytes_per_s), digits=1),
        "ECC": lambda s: _bad(
            _of(s.ecc_single_bit_total, s.ecc_double_bit_total), bool(s.ecc_double_bit_total)
        ),
        "XID": lambda s: _bad(" ".join(str(xid.code) for xid in s.xids[-3:]), True),
        "MIG": lambda s: " ".join(f"{m.gpu_instance}:{escape(m.profile)}" for m in s.mig or ()),
        "processes": lambda s: " ".join(str(p.pid) for p in (s.processes or ())[:3]),
    }


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
    words = ", ".join(reason.replace("_", " ") for reason in s.throttle_reasons)
    return _bad(words or "nothing", bool(set(s.throttle_reasons) - HARMLESS))


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


def _told(xids: tuple[object, ...]) -> str:
    return f" XID {', '.join(str(getattr(xid, 'code', '')) for xid in xids)}." if xids else ""
