"""What `distlab bench collectives` measured: rows with their times, in the columns of nccl-tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from distlab.bench.operations import PLACES, Place, direct
from distlab.bench.stamp import Stamp
from distlab.bench.timing import Summary, summary
from distlab.predict.collectives import Op, bus_bandwidth_factor


@dataclass(frozen=True)
class Timing(Summary):
    """One operation at one size in one place. Bandwidths are 10^9 bytes per second."""

    algorithm_bandwidth_GBps: float  # noqa: N815 - units keep their case
    """Payload over median time."""
    bus_bandwidth_GBps: float  # noqa: N815
    wrong: int
    """Elements, on all ranks together, that were not what they must be."""
    samples_s: Sequence[float]
    """Times of calls in order, at most SAMPLES_MOST of them, spread over all."""
    launches: Sequence[int]
    """How many of them each launch of the processes contributed."""


@dataclass(frozen=True)
class Row:
    """One operation at one size, out of place and in place.

    Its own figures are those of the place where torch.distributed itself works (`operations.direct`): in place for
    all_reduce, broadcast and reduce, else out of place.
    """

    operation: Op
    payload_bytes: int
    count: int
    """Elements as nccl-tests count them: for all_gather, reduce_scatter and all_to_all, of one rank's part."""
    dtype: str
    redop: str
    """`none` where nothing is reduced."""
    root: int
    """-1 where there is none."""
    world_size: int
    out_of_place: Timing | None
    in_place: Timing | None

    @property
    def own(self) -> Timing:
        timing = getattr(self, direct(self.operation))
        assert isinstance(timing, Timing)
        return timing

    @property
    def places(self) -> dict[Place, Timing]:
        """The places that there are."""
        both = {place: getattr(self, place) for place in PLACES}
        return {place: timing for place, timing in both.items() if timing is not None}

    @property
    def wrong(self) -> int:
        return sum(timing.wrong for timing in self.places.values())

    @property
    def min_s(self) -> float:
        return self.own.min_s

    @property
    def median_s(self) -> float:
        return self.own.median_s

    @property
    def bus_bandwidth_GBps(self) -> float:  # noqa: N802
        return self.own.bus_bandwidth_GBps


@dataclass(frozen=True)
class Report:
    """What `measure` found, the same on every rank."""

    rows: list[Row]
    stamp: Stamp
    notes: list[str] = dataclasses.field(default_factory=list)
    """What a reader must know, a sentence each."""


def with_bandwidth(
    operation: Op, payload_bytes: int, world_size: int, found: Summary, wrong: int, kept: list[list[float]]
) -> Timing:
    """The figures of a list of times; `kept` are the times to keep, by launch."""
    bandwidth_GBps = payload_bytes / found.median_s / 1e9  # noqa: N806
    return Timing(
        **vars(found),
        algorithm_bandwidth_GBps=bandwidth_GBps,
        bus_bandwidth_GBps=bandwidth_GBps * bus_bandwidth_factor(operation, world_size),
        wrong=wrong,
        samples_s=tuple(sample for launch in kept for sample in launch),
        launches=tuple(map(len, kept)),
    )


def merged(rows: Sequence[Row]) -> Row:
    """One row of those that several launches of the processes gave for the same thing.

    Median, mean, p99 and variation come from the times that were kept.
    """
    first = rows[0]

    def merge(place: Place) -> Timing | None:
        timings = [row.places[place] for row in rows if place in row.places]
        if len(timings) < 2:
            return timings[0] if timings else None
        kept = [list(timing.samples_s) for timing in timings]
        found = dataclasses.replace(
            summary([sample for launch in kept for sample in launch]),
            iterations=sum(timing.iterations for timing in timings),
            min_s=min(timing.min_s for timing in timings),
        )
        wrong = sum(timing.wrong for timing in timings)
        return with_bandwidth(first.operation, first.payload_bytes, first.world_size, found, wrong, kept)

    return dataclasses.replace(first, out_of_place=merge("out_of_place"), in_place=merge("in_place"))
