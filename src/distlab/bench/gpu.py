"""What one device reaches: products, copies, latency, small operations, and kernels below its roofline.

    distlab bench gpu                                        # a table; a CPU where the machine has no GPU, and says so
    distlab bench gpu --out gpu.json --roofline roofline.svg
    distlab bench gpu --parts product --dtypes bf16 --data zeros    # why random data matter

How calls are timed: clock.py. Figures are of the median time, `best` of the shortest: the best of the products is the
ceiling that can be reached, which no datasheet tells. The tier is read off the device that ran.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from distlab.bench.clock import DEVICE_CALLS_LEAST, DEVICE_CALLS_MOST, Clock
from distlab.bench.copies import CPU_PAYLOADS, GPU_PAYLOADS, check_payloads, measure_copies
from distlab.bench.device import DeviceName, choose_device, reason
from distlab.bench.kernels import Sizes, measure_kernels
from distlab.bench.latency import measure_latency, measure_small_operations
from distlab.bench.measured import IDENTITY, PARTS, Item, Part, Row, Skipped
from distlab.bench.products import (
    CPU_SIZES,
    DTYPES,
    GPU_SIZES,
    Data,
    Dtype,
    Shape,
    measure_products,
    parse_shape,
)
from distlab.bench.results import (
    SAMPLES_MOST,
    Results,
    as_json,
    check_figure,
    check_writable,
    write_results,
)
from distlab.bench.stamp import Stamp, full_stamp
from distlab.errors import SettingError, WorkError
from distlab.machine import cores

if TYPE_CHECKING:
    import torch

HEAT_S = {"cuda": 3.0, "cpu": 0.5}
BUDGET_MOST_S = 600.0
LAUNCHES_MOST = SAMPLES_MOST // DEVICE_CALLS_LEAST
CUT_SHORT = "Cut short: "
BUSY = 0.5
"""Processes that wait for each core."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured. SettingError for what cannot be."""

    device: torch.device
    parts: Sequence[Part] = PARTS
    dtypes: Sequence[Dtype] = DTYPES
    shapes: Sequence[Shape] = ()
    """Of products; by default GPU_SIZES or CPU_SIZES."""
    payload_bytes: Sequence[int] = ()
    """Of copies; by default GPU_PAYLOADS or CPU_PAYLOADS."""
    data: Data = "random"
    budget_s: float = 0.25
    heat_s: float | None = None
    """By default HEAT_S."""
    kernels: Sizes | None = None
    """Sizes of the roofline's kernels; by default the device's."""

    def __post_init__(self) -> None:
        if not 0 < self.budget_s <= BUDGET_MOST_S:
            raise SettingError(
                f"budget_s is {self.budget_s}; it must be more than 0 and at most {BUDGET_MOST_S:g} seconds."
            )
        if self.heat_s is not None and not 0 <= self.heat_s <= BUDGET_MOST_S:
            raise SettingError(f"heat_s is {self.heat_s}; it must be 0 to {BUDGET_MOST_S:g} seconds.")
        if not self.parts or ("product" in self.parts and not self.dtypes):
            raise SettingError(
                "parts or dtypes is empty; give one or more of each, or leave the option away."
            )
        check_payloads(self.payload_bytes)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def product_shapes(self) -> Sequence[Shape]:
        return self.shapes or [parse_shape(size) for size in (GPU_SIZES if self.on_gpu else CPU_SIZES)]

    @property
    def payloads(self) -> Sequence[int]:
        return self.payload_bytes or (GPU_PAYLOADS if self.on_gpu else CPU_PAYLOADS)


@dataclass
class Report:
    """What was measured, and what a reader must know of it."""

    stamp: Stamp
    rows: list[Row]
    notes: list[str]

    def results(self) -> Results:
        """As a file of results holds it."""
        stamp = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.stamp).items()}
        return Results("gpu", IDENTITY, [row.as_plain() for row in self.rows], stamp, self.notes)


@dataclass
class Session:
    """What was measured so far, of a plan."""

    stamp: Stamp
    plan: Plan
    rows: list[Row] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    cut_short: str = ""
    """Why not all of it was measured."""
    busy: str = ""
    """Who else used the processor."""

    def add(self, item: Item) -> None:
        self.skipped.append(item) if isinstance(item, Skipped) else self.rows.append(item)

    def report(self) -> Report:
        return Report(self.stamp, self.rows, self.notes())

    def notes(self) -> list[str]:
        """What a reader must know."""
        plan = self.plan
        heat_s = HEAT_S[plan.device.type] if plan.heat_s is None else plan.heat_s
        what = "GPU" if plan.on_gpu else "CPU (no GPU was measured)"
        notes = [
            f"The {what} was kept busy for {heat_s:g} s first; each figure is of {DEVICE_CALLS_LEAST} to "
            f"{DEVICE_CALLS_MOST} calls within {plan.budget_s:g} s, with caches wiped in between, timed by "
            f"{'CUDA events' if plan.on_gpu else 'the clock of the host'}.",
            "Copies inside one memory count bytes read and written, copies over a bus their payload once.",
            *([self.busy] if self.busy else []),
            *map(str, self.skipped),
        ]
        return [*notes, f"{CUT_SHORT}{self.cut_short}"] if self.cut_short else notes


def measure(plan: Plan) -> Iterator[Item]:
    """Measure one after the other; whoever takes the items keeps those that it has got, whatever happens next."""
    clock = Clock(plan.device, plan.budget_s)
    clock.heat(HEAT_S[plan.device.type] if plan.heat_s is None else plan.heat_s)
    for part in plan.parts:
        match part:
            case "product":
                yield from measure_products(clock, plan.dtypes, plan.product_shapes, plan.data)
            case "copy":
                yield from measure_copies(clock, plan.payloads)
            case "latency":
                yield from measure_latency(clock)
            case "small operations":
                yield from measure_small_operations(clock)
            case "kernel":
                yield from measure_kernels(clock, plan.kernels)


def main(
    device: DeviceName = "auto",
    gpu: int = 0,
    parts: tuple[Part, ...] = PARTS,
    dtypes: tuple[Dtype, ...] = DTYPES,
    sizes: tuple[str, ...] = (),
    payload_bytes: tuple[int, ...] = (),
    data: Data = "random",
    budget_s: float = 0.25,
    heat_s: float | None = None,
    launches: int = 1,
    out: Path | None = None,
    plot: Path | None = None,
    roofline: Path | None = None,
    json: bool = False,
) -> int:
    """Measure what a GPU reaches: products, copies, launch latency, small operations; a CPU where there is no GPU.

    Ctrl-C keeps what was measured so far.

    Args:
        device: auto is the GPU, or the CPU of a machine without one. A GPU that cannot be used is an error.
        gpu: Which of the GPUs that this process sees.
        parts: What to measure.
        dtypes: Of the products; those that the device does not know are said and left out.
        sizes: Of the products: N for N x N x N, or MxKxN.
        payload_bytes: Of the copies.
        data: What the operands of products hold; zeros and constants show a clock that real work never sees.
        budget_s: Seconds for the timed calls of one figure.
        heat_s: Seconds of load before the first measurement; by default 3 on a GPU, 0.5 on a CPU.
        launches: Start anew and measure so many times: what `distlab bench compare` needs to tell a change from the
            luck of a start.
        out: Write rows, times and stamp to this file, as JSON.
        plot: Draw products and copies over their size into this file: .svg, .png or .pdf.
        roofline: Draw the roofline into this file; needs the parts product, copy and kernel.
        json: Print what `out` would hold in place of the tables.
    """
    parts, dtypes = tuple(dict.fromkeys(parts)), tuple(dict.fromkeys(dtypes))  # twice is once
    shapes = list(dict.fromkeys(parse_shape(size) for size in sizes))
    if out is not None:
        check_writable(out)
    for figure in filter(None, (plot, roofline)):
        check_figure(figure)
    if roofline is not None and not {"product", "copy", "kernel"} <= set(parts):
        raise SettingError("A roofline needs the parts product, copy and kernel; leave --parts away.")
    if roofline is not None and data != "random":
        raise SettingError(f"data is {data!r}; a roofline needs random data, as real work has.")
    if not 1 <= launches <= LAUNCHES_MOST:
        raise SettingError(f"launches is {launches}; it must be 1 to {LAUNCHES_MOST}.")
    if launches > 1:
        from distlab.bench.gpu_launches import launched

        report, ended = launched(
            launches,
            ["--device", device, "--gpu", str(gpu), "--data", data, "--budget-s", str(budget_s)],
            {"--parts": parts, "--dtypes": dtypes, "--sizes": sizes, "--payload-bytes": payload_bytes}
            | {"--heat-s": () if heat_s is None else (heat_s,)},
        )
    else:
        place = choose_device(device, gpu)
        plan = Plan(place, parts, dtypes, shapes, payload_bytes, data, budget_s, heat_s)
        session = Session(full_stamp(place), plan, busy=_others_at_work())
        ended = _gather(session)
        report = session.report()
    if report.rows:
        _show(report, out, plot, roofline, json)
    return _verdict(report, ended)


def _verdict(report: Report, ended: BaseException | None) -> int:
    """The exit code; WorkError where the device failed, or nothing could be measured."""
    if isinstance(ended, KeyboardInterrupt):
        kept = "what was measured is kept" if report.rows else "nothing was measured yet"
        print(f"Interrupted; {kept}.", file=sys.stderr)
        return 130
    if ended is not None:
        kept = f" What was measured before ({len(report.rows)} rows) is kept." if report.rows else ""
        raise WorkError(f"The device failed: {reason(ended)}.{kept} See what nvidia-smi and dmesg say of it.")
    if not report.rows:
        raise WorkError(" ".join(["Nothing was measured.", *report.notes]))
    return 0


def _others_at_work() -> str:
    """A sentence where other processes had the machine's cores before this one began."""
    load, own = os.getloadavg()[0], cores()
    if load < BUSY * own:
        return ""
    return (
        f"Other processes were at work on this machine (load {load:.1f} on {own} cores): what the CPU does is slower "
        "than it could be."
    )


def _gather(session: Session) -> BaseException | None:
    """Measure into the report; what ended it early, if anything did."""
    ended: BaseException | None = None
    try:
        with _progress(session) as shown:
            for item in measure(session.plan):
                session.add(item)
                shown(item)
    except KeyboardInterrupt as error:
        ended, why = error, "it was interrupted"
    except RuntimeError as error:  # such as a GPU that fell off the bus: nothing more can be asked of it
        ended, why = error, reason(error)
    if ended is not None:
        session.cut_short = f"{why}, after {len(session.rows)} rows."
    return ended


@contextmanager
def _progress(session: Session) -> Iterator[Callable[[Item], None]]:
    """On standard error: a bar over the parts on a terminal, else a line for each."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    stamp = session.stamp
    console.print(f"Measuring {stamp.hardware} ({stamp.tier} tier) ...", highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("heating", total=len(session.plan.parts))
        begun: list[Part] = []

        def shown(item: Item) -> None:
            if item.part not in begun:
                begun.append(item.part)
                if not console.is_terminal:
                    console.print(f"  {item.part} ...", highlight=False)
            what = item.what if isinstance(item, Skipped) else f"{item.name} {item.size}"
            bar.update(task, completed=len(begun) - 1, description=f"{item.part}: {what}"[:60])

        yield shown


def _show(report: Report, out: Path | None, plot: Path | None, roofline: Path | None, json: bool) -> None:
    from distlab.bench import gpu_tables

    results = report.results()
    if out is not None:
        write_results(out, results)
    if json:
        print(as_json(results))
    else:
        gpu_tables.print_tables(report)
    if plot is not None:
        gpu_tables.plot_sizes(report, plot)
    if roofline is not None:
        from distlab.bench import roofline as roofs

        try:
            roofs.save_roofline(roofs.roofline(results), roofline)
        except SettingError as error:
            if not any(note.startswith(CUT_SHORT) for note in report.notes):
                raise
            print(f"No roofline: {error}", file=sys.stderr)
