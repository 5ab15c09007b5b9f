"""What a benchmark of one device measured: rows of figures with their times, and what could not be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from distlab.bench.results import SAMPLES_MOST, thinned
from distlab.bench.timing import summary

Part = Literal["product", "copy", "latency", "small operations", "kernel"]
PARTS: tuple[Part, ...] = ("product", "copy", "latency", "small operations", "kernel")

Unit = Literal["TFLOP/s", "TOP/s", "GFLOP/s", "GOP/s", "GB/s", "us", "10^6 op/s"]
"""Powers of ten; TOP/s and GOP/s are operations on integers."""

_SCALE: dict[str, float] = {
    "TFLOP/s": 1e12, "TOP/s": 1e12, "GFLOP/s": 1e9, "GOP/s": 1e9, "GB/s": 1e9, "10^6 op/s": 1e6,
}  # fmt: skip

IDENTITY = ("part", "name", "size", "data")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One thing measured at one size. Times are seconds for one call."""

    part: Part
    name: str
    """The data type of a product, the direction of a copy, and so on."""
    size: str
    """`M x K x N` of a product, the payload of a copy."""
    data: str
    """What the operands held: `random`, `zeros` or `constant`."""
    flop: float
    """Floating-point (or integer) operations of one call; 0 where they are not the point."""
    bytes: float
    """Bytes that one call moves between the processor and its memory, or over a bus, at the least."""
    operations: float
    """Small operations that one call launches, where those are counted."""
    iterations: int
    min_s: float
    median_s: float
    p99_s: float
    variation: float
    """Standard deviation over mean."""
    value: float
    """Of the median time, in `unit`."""
    best: float
    """Of the shortest time: the ceiling that was reached."""
    unit: Unit
    peak: float | None
    """What the datasheet promises, in `unit`; None where the registry of constants does not know."""
    of_peak: float | None
    """`value` over `peak`."""
    relative_error: float | None
    """Of a product: distance to the product in float64, over the latter's length."""
    samples_s: tuple[float, ...]
    launches: tuple[int, ...] = ()
    """How many of the samples each launch of the benchmark contributed; empty where there was one."""

    def as_plain(self) -> dict[str, Any]:
        """As a file of results holds it."""
        plain = {**asdict(self), "samples_s": list(self.samples_s)}
        if self.launches:
            return {**plain, "launches": list(self.launches)}
        del plain["launches"]
        return plain


@dataclass(frozen=True)
class Skipped:
    """Something that was to be measured and was not."""

    part: Part
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}."


Item = Row | Skipped


def row(
    part: Part,
    name: str,
    size: str,
    samples_s: Sequence[float],
    unit: Unit,
    *,
    flop: float = 0.0,
    bytes: float = 0.0,
    operations: float = 1.0,
    peak: float | None = None,
    data: str = "random",
    relative_error: float | None = None,
) -> Row:
    """The row that these times make.

    operations: that one call does, for a unit of operations per second. peak: in FLOP/s or B/s.
    """
    times = summary(samples_s)
    work = bytes if unit == "GB/s" else operations if unit == "10^6 op/s" else flop

    def figure(seconds: float) -> float:
        return 1e6 * seconds if unit == "us" else work / seconds / _SCALE[unit]

    value = figure(times.median_s)
    scaled = None if peak is None or unit == "us" else peak / _SCALE[unit]
    return Row(
        part=part,
        name=name,
        size=size,
        data=data,
        flop=flop,
        bytes=bytes,
        operations=operations,
        iterations=times.iterations,
        min_s=times.min_s,
        median_s=times.median_s,
        p99_s=times.p99_s,
        variation=times.variation,
        value=value,
        best=figure(times.min_s),
        unit=unit,
        peak=scaled,
        of_peak=value / scaled if scaled else None,
        relative_error=relative_error,
        samples_s=tuple(thinned(samples_s)),
    )


def merged(same: Sequence[Row]) -> Row:
    """One row of those that several launches measured of the same thing."""
    if len(same) == 1:
        return same[0]
    first = same[0]
    kept = [thinned(one.samples_s, SAMPLES_MOST // len(same)) for one in same]
    made = row(
        first.part,
        first.name,
        first.size,
        [sample for one in same for sample in one.samples_s],
        first.unit,
        flop=first.flop,
        bytes=first.bytes,
        operations=first.operations,
        data=first.data,
        relative_error=first.relative_error,
    )
    of_peak = made.value / first.peak if first.peak else None
    samples_s = tuple(sample for one in kept for sample in one)
    launches = tuple(len(one) for one in kept)
    return replace(made, peak=first.peak, of_peak=of_peak, samples_s=samples_s, launches=launches)


def bytes_text(count: int) -> str:
    """A number of bytes in the largest binary unit that says it exactly: `64 KiB`, `1,000 B`."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        text = f"{count / size:.4g}"
        if count >= size and float(text) * size == count:
            return f"{text} {unit}"
    return f"{count:,} B"
