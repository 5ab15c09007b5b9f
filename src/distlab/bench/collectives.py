"""Time the collectives between processes, and check what they deliver.

    python -m distlab.bench.collectives --world-size 2          # a table
    python -m distlab.bench.collectives --world-size 2 --json   # rows and stamp

Policy. Each operation and size runs `warmup` times untimed, then `iterations` times back to back, each
iteration on its own clock (with the GPU synchronised before and after). An iteration's time is that of its
slowest rank. There is no barrier in between: all but broadcast make ranks wait for each other anyway.
Before the timing one call on known data is compared with the exact answer.

Payload follows nccl-tests: the buffer of one rank for all_reduce and broadcast, the whole (gathered or not
yet scattered) buffer for all_gather and reduce_scatter. Bus bandwidth = algorithm bandwidth x
`distlab.predict.collectives.bus_bandwidth_factor`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from distlab.bench.stamp import Stamp, stamp
from distlab.errors import LaunchError
from distlab.predict.collectives import Op, bus_bandwidth_factor
from distlab.train.launch import device, launch

OPERATIONS: tuple[Op, ...] = ("all_reduce", "all_gather", "reduce_scatter", "broadcast")
SIZES_BYTES = tuple(4**exponent for exponent in range(5, 13))  # 1 KiB to 16 MiB
ELEMENT_BYTES = 4  # float32


@dataclass(frozen=True)
class Row:
    """One operation at one size. Times are seconds, bandwidths 10^9 bytes per second."""

    operation: str
    payload_bytes: int
    world_size: int
    iterations: int
    min_s: float
    median_s: float
    p99_s: float
    """Nearest rank: the slowest iteration where there are fewer than 100."""
    algorithm_bandwidth_GBps: float  # noqa: N815 - units keep their case
    """Payload over median time."""
    bus_bandwidth_GBps: float  # noqa: N815


@dataclass(frozen=True)
class Report:
    """What `measure` found, the same on every rank."""

    rows: list[Row]
    stamp: Stamp


class WrongDataError(RuntimeError):
    """A collective delivered something else than it must."""


def measure(
    operations: Sequence[Op] = OPERATIONS,
    sizes_bytes: Sequence[int] = SIZES_BYTES,
    warmup: int = 5,
    iterations: int = 20,
) -> Report:
    """Measure on the ranks of the process group; every rank calls it: `launch(measure, 2)[0]`.

    Sizes are rounded up to a whole number of float32 per rank. Raises WrongDataError where a collective
    delivers wrong data, ValueError for fewer than one iteration or an empty size.
    """
    _check_policy(sizes_bytes, warmup, iterations)
    rows = [_row(operation, size, warmup, iterations) for operation in operations for size in sizes_bytes]
    return Report(rows, stamp(device()))


def _check_policy(sizes_bytes: Sequence[int], warmup: int, iterations: int) -> None:
    if iterations < 1 or warmup < 0:
        raise ValueError(f"iterations is {iterations}, warmup {warmup}; need at least 1 and 0.")
    if min(sizes_bytes, default=0) < 1:
        raise ValueError(f"sizes_bytes is {list(sizes_bytes)}; give one or more sizes of at least 1 byte.")


def _row(operation: Op, size_bytes: int, warmup: int, iterations: int) -> Row:
    world_size = dist.get_world_size()
    elements = math.ceil(size_bytes / (ELEMENT_BYTES * world_size)) * world_size
    run = _prepared(operation, elements)
    times_s = torch.empty(iterations, dtype=torch.float64)
    for i in range(-warmup, iterations):
        _synchronise()
        start = time.perf_counter()
        run()
        _synchronise()
        if i >= 0:
            times_s[i] = time.perf_counter() - start
    slowest = times_s.to(torch.float32).to(device())  # float32: enough for a time, and every backend has it
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    ordered = sorted(slowest.tolist())
    median_s = statistics.median(ordered)
    payload_bytes = elements * ELEMENT_BYTES
    bandwidth_GBps = payload_bytes / median_s / 1e9  # noqa: N806
    return Row(
        operation=operation,
        payload_bytes=payload_bytes,
        world_size=world_size,
        iterations=iterations,
        min_s=ordered[0],
        median_s=median_s,
        p99_s=ordered[math.ceil(0.99 * iterations) - 1],
        algorithm_bandwidth_GBps=bandwidth_GBps,
        bus_bandwidth_GBps=bandwidth_GBps * bus_bandwidth_factor(operation, world_size),
    )


def _prepared(operation: Op, elements: int) -> Callable[[], object]:
    """Run the operation once on known data and check it; return a function that runs it again.

    Rank r holds r + 1 everywhere; small whole numbers add up exactly in float32.
    """
    world_size, rank, place = dist.get_world_size(), dist.get_rank(), device()
    own = float(rank + 1)
    total = world_size * (world_size + 1) / 2
    part = elements // world_size
    run: Callable[[], object]
    match operation:
        case "all_reduce":
            buffer = torch.full((elements,), own, device=place)
            expected = torch.full((elements,), total)

            def run() -> object:
                return dist.all_reduce(buffer)
        case "all_gather":
            buffer = torch.empty(elements, device=place)
            piece = torch.full((part,), own, device=place)
            expected = torch.arange(1.0, world_size + 1).repeat_interleave(part)

            def run() -> object:
                return dist.all_gather_single(buffer, piece)
        case "reduce_scatter":
            whole = torch.full((elements,), own, device=place)
            buffer = torch.empty(part, device=place)
            expected = torch.full((part,), total)

            def run() -> object:
                return dist.reduce_scatter_single(buffer, whole)
        case "broadcast":
            buffer = torch.full((elements,), own, device=place)
            expected = torch.ones(elements)

            def run() -> object:
                return dist.broadcast(buffer, src=0)
        case _:
            raise ValueError(f"operation is {operation!r}; it must be one of {', '.join(OPERATIONS)}.")
    run()
    check(operation, rank, buffer, expected)
    buffer.zero_()  # sums of zeros stay zero however often the operation runs
    return run


def check(operation: str, rank: int, delivered: Tensor, expected: Tensor) -> None:
    """Raise WrongDataError, naming the first element that differs."""
    differs = (delivered.cpu() != expected).nonzero()
    if len(differs):
        i = int(differs[0])
        raise WrongDataError(
            f"{operation} delivered {float(delivered[i])} at element {i} of rank {rank}; "
            f"it must be {float(expected[i])}."
        )


def _synchronise() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def main(
    world_size: int = 2,
    operations: tuple[Op, ...] = OPERATIONS,
    sizes_bytes: tuple[int, ...] = SIZES_BYTES,
    warmup: int = 5,
    iterations: int = 20,
    json: bool = False,
) -> int:
    """Time the collectives between `world_size` processes of this machine.

    Args:
        world_size: Processes; one GPU each where there are as many, else CPU.
        operations: Which collectives.
        sizes_bytes: Payloads.
        warmup: Untimed calls before each measurement.
        iterations: Timed calls.
        json: Print rows and stamp as JSON in place of the table.
    """
    try:
        _check_policy(sizes_bytes, warmup, iterations)
        report = launch(measure, world_size, operations, sizes_bytes, warmup, iterations)[0]
    except (ValueError, LaunchError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    print(to_json(report)) if json else print_table(report)
    return 0


def to_json(report: Report) -> str:
    """The report as JSON, in the field names of `Row` and `Stamp`."""
    return json.dumps(dataclasses.asdict(report), indent=1)


def print_table(report: Report) -> None:
    """The report for people, with its stamp below."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Collectives, {report.stamp.world_size} x {report.stamp.backend}")
    table.add_column("operation")
    for heading in ("payload KiB", "min ms", "median ms", "p99 ms", "alg GB/s", "bus GB/s"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        table.add_row(
            row.operation,
            f"{row.payload_bytes / 1024:,.0f}",
            *(f"{1e3 * time_s:.3f}" for time_s in (row.min_s, row.median_s, row.p99_s)),
            f"{row.algorithm_bandwidth_GBps:.3f}",
            f"{row.bus_bandwidth_GBps:.3f}",
        )
    console = Console()
    console.print(table)
    console.print(str(report.stamp), highlight=False)


if __name__ == "__main__":
    import tyro

    # The ranks import `measure` and `Row` by this module's name, not as `__main__`.
    from distlab.bench import collectives

    raise SystemExit(tyro.cli(collectives.main, description=__doc__))
