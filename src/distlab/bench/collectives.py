"""Time the collectives between processes, and check what they deliver.

    distlab bench collectives --world-size 2                        # a table
    distlab bench collectives --world-size 2 --json                 # rows and stamp
    distlab bench collectives --hosts 2 --rate-Mbits 1000           # between machines that are namespaces

Policy. Of each operation and size, out of place and in place, a few calls run untimed, then as many as fit in
`budget_s` (`distlab.bench.timing.Policy`) back to back, each on its own clock: the processor's, or events in the
stream of a GPU. A call's time is that of its slowest rank. There is no barrier in between: most collectives make
ranks wait for each other, and where they do not (broadcast, reduce, send_recv) a rank may run ahead by what the
network buffers, as it may in training. After that one call on known data is compared with the exact answer, element by
element. Collectives in place that reduce are timed on zeros, since sums of anything else would grow.

Payload, count, root, bus bandwidth and in place are those of nccl-tests: see `distlab.bench.operations` and
`distlab.predict.collectives.bus_bandwidth_factor`. Time in the table is the median, and bandwidth comes from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from distlab.bench.collectives_report import Report, Row, Timing, with_bandwidth
from distlab.bench.journal import Doing, Journal
from distlab.bench.operations import (
    COPIED_FIRST,
    OPERATIONS,
    PLACES,
    REDUCING,
    ROOTED,
    DtypeName,
    LackError,
    Place,
    Redop,
    attempt,
    direct,
    prepare,
)
from distlab.bench.results import SAMPLES_MOST, thinned
from distlab.bench.stamp import full_stamp
from distlab.bench.timing import Policy, measured, summary
from distlab.errors import SettingError
from distlab.predict.collectives import Op
from distlab.train.launch import device

COPY_NOTE = (
    f"torch.distributed has {', '.join(sorted(COPIED_FIRST))} in place only: out of place is a copy of the input, "
    "then the call."
)
SIZES_BYTES = tuple(4**exponent for exponent in range(5, 13))  # 1 KiB to 16 MiB


@dataclass(frozen=True)
class Sweep:
    """What is to be measured. SettingError for what cannot be."""

    operations: Sequence[Op] = OPERATIONS
    sizes_bytes: Sequence[int] = SIZES_BYTES
    dtype: DtypeName = "float32"
    redop: Redop = "sum"
    root: int = 0
    policy: Policy = dataclasses.field(default_factory=Policy)
    samples_most: int = SAMPLES_MOST
    """Times that a row keeps."""
    network: str | None = None
    """For the stamp: what carries the data, where that is not an interface of this machine."""

    def __post_init__(self) -> None:
        unknown = [op for op in self.operations if op not in OPERATIONS]
        if unknown or not self.operations:
            raise SettingError(
                f"operations is {list(self.operations)}; give one or more of {', '.join(OPERATIONS)}."
            )
        if min(self.sizes_bytes, default=0) < 1:
            raise SettingError(
                f"sizes_bytes is {list(self.sizes_bytes)}; give one or more sizes of at least 1 byte."
            )


def measure(
    operations: Sequence[Op] = OPERATIONS,
    sizes_bytes: Sequence[int] = SIZES_BYTES,
    warmup: int = 5,
    iterations: int | None = None,
    dtype: DtypeName = "float32",
    redop: Redop = "sum",
    root: int = 0,
) -> Report:
    """Measure on the ranks of the process group; every rank calls it: `launch(measure, 2)[0]`.

    Sizes are rounded up to a whole number of elements per rank. iterations: by default as many as fit in 0.3 s.
    What was delivered wrong is counted in the rows; what the backend lacks is said in the notes.
    Raises SettingError (a ValueError) for settings that cannot be measured.
    """
    return sweep(Sweep(operations, sizes_bytes, dtype, redop, root, Policy(warmup, iterations)))


def sweep(wanted: Sweep, journal: str | None = None) -> Report:
    """Measure; rank 0 writes what it finds to the journal in a folder as it goes."""
    if not 0 <= wanted.root < dist.get_world_size():
        raise SettingError(
            f"root is {wanted.root}; with {dist.get_world_size()} ranks it is at most "
            f"{dist.get_world_size() - 1}."
        )
    book = Journal(journal) if journal is not None and dist.get_rank() == 0 else None
    report = Report([], full_stamp(device(), wanted.network))
    if book:
        book.add(report.stamp)
    for item in _items(wanted):
        if book:
            book.add(item)
        if isinstance(item, Row):
            report.rows.append(item)
        elif isinstance(item, str):
            report.notes.append(item)
    return report


def _items(wanted: Sweep) -> Iterator[Row | Doing | str]:
    """What is done, the rows, and the notes, in the order of work."""
    yield f"Policy: {wanted.policy}; a time is that of the slowest rank."
    for operation in wanted.operations:
        places: list[Place] = []
        for place in sorted(PLACES, key=lambda place: place != direct(operation)):
            try:
                attempt(operation, place, wanted.dtype, wanted.redop, wanted.root)
            except LackError as lack:
                yield str(lack)
                if not places:
                    break
            else:
                places.append(place)
        if not places:
            continue
        if operation in COPIED_FIRST:
            yield COPY_NOTE
        for size_bytes in wanted.sizes_bytes:
            yield Doing(f"{operation}, {size_bytes:,} bytes")
            yield _row(operation, size_bytes, places, wanted)


def _row(operation: Op, size_bytes: int, places: Sequence[Place], wanted: Sweep) -> Row:
    world_size = dist.get_world_size()
    element_bytes = getattr(torch, wanted.dtype).itemsize
    elements = math.ceil(size_bytes / (element_bytes * world_size)) * world_size
    timings = {place: _timing(operation, place, elements, wanted) for place in places}
    parts = operation in ("all_gather", "reduce_scatter", "all_to_all")
    return Row(
        operation=operation,
        payload_bytes=elements * element_bytes,
        count=elements // world_size if parts else elements,
        dtype=wanted.dtype,
        redop=wanted.redop if operation in REDUCING else "none",
        root=wanted.root if operation in ROOTED else -1,
        world_size=world_size,
        out_of_place=timings.get("out_of_place"),
        in_place=timings.get("in_place"),
    )


def _timing(operation: Op, place: Place, elements: int, wanted: Sweep) -> Timing:
    call = prepare(operation, place, elements, wanted.dtype, wanted.redop, wanted.root)
    call.clear() if place == "in_place" and operation in REDUCING else call.fill()
    samples = measured(call.run, wanted.policy)
    call.fill()
    call.run()
    wrong = torch.tensor([call.wrong()], dtype=torch.int64, device=device())
    dist.all_reduce(wrong)
    payload_bytes = elements * getattr(torch, wanted.dtype).itemsize
    kept = [thinned(samples, wanted.samples_most)]
    return with_bandwidth(operation, payload_bytes, dist.get_world_size(), summary(samples), int(wrong), kept)


if __name__ == "__main__":
    import sys

    from distlab.cli import main as command

    # By the command's way: the ranks import `sweep` and `Sweep` by this module's name, not as `__main__`.
    command(["bench", "collectives", *sys.argv[1:]])
