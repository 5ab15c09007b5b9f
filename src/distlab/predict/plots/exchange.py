"""Collectives over payloads and over ranks: time, bus bandwidth, and where algorithm or protocol switches."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distlab.errors import SettingError
from distlab.predict.collectives import bus_bandwidth_factor
from distlab.predict.network import predict_collective
from distlab.predict.plots.chart import Chart, Mark, grid, predicted, time_text

if TYPE_CHECKING:
    from distlab.predict.collectives import Op
    from distlab.predict.network import Algorithm, CollectivePrediction, Protocol, Topology

POINTS = 49
LEAST_BYTES, MOST_BYTES = 2**10, 2**34
MOST_GPUS = 2**14


@dataclass(frozen=True)
class Point:
    """One collective."""

    x: float
    """Bytes of payload, or GPUs."""
    seconds: float
    bus_bandwidth_Bps: float  # noqa: N815 - the unit is part of the name
    way: str
    """Algorithm and protocol."""


@dataclass(frozen=True)
class Exchange(Chart):
    """`x` names the axis; `switches` are places from which on another way is the fastest."""

    x: Literal["payload (bytes)", "GPUs"]
    points: tuple[Point, ...]
    switches: tuple[Mark, ...]
    asked: Point

    def in_words(self) -> str:
        first, last = self.points[0], self.points[-1]
        ends = [
            f"{time_text(point.seconds)} and {point.bus_bandwidth_Bps / 1e9:.4g} GB/s at {point.x:,.0f}"
            for point in (first, self.asked, last)
        ]
        found = "; ".join(f"{mark.label} from {mark.x:,.0f}" for mark in self.switches) or "none"
        return f"{self.heading}, over {self.x}: {', '.join(ends)}. It begins with {first.way}. Switches: {found}."


def over_payload(
    op: Op,
    topology: Topology,
    asked_bytes: float,
    algorithm: Algorithm | None = None,
    protocol: Protocol | None = None,
    where: str = "",
) -> Exchange:
    """From 1 KiB to 16 GiB, or as far as `asked_bytes`. ValueError as from `predict_collective`, and for one GPU."""
    if topology.gpus == 1:
        raise SettingError("gpus is 1; one sends nothing: give 2 or more for a curve over payloads.")

    def at(size_bytes: float) -> Point:
        found = predict_collective(op, size_bytes, topology, algorithm, protocol)
        return _point(size_bytes, found, topology.gpus)

    asked = at(asked_bytes)
    first = min(LEAST_BYTES, asked_bytes or LEAST_BYTES)
    sizes = sorted(
        {*grid(first, max(MOST_BYTES, asked_bytes), POINTS), *([asked_bytes] if asked_bytes else [])}
    )
    points = tuple(at(size) for size in sizes)
    switches = _switches(points, lambda low, high: _first_with(at, low, high))
    nodes = -(-topology.gpus // topology.gpus_per_node)
    title = f"{op} between {topology.gpus:,} GPUs{where}"
    about = predicted(
        f"{nodes:,} x {topology.gpus_per_node} GPUs" if nodes > 1 else "1 node", _links(topology)
    )
    caption = _caption(algorithm, protocol)
    return Exchange(title, caption, "payload (bytes)", points, switches, asked, about=about)


def over_ranks(
    op: Op,
    payload_bytes: float,
    topology: Callable[[int], Topology],
    asked_gpus: int,
    algorithm: Algorithm | None = None,
    protocol: Protocol | None = None,
    where: str = "",
) -> Exchange:
    """From 2 GPUs on, doubling, to 4 times `asked_gpus` and at least 64; as far as `topology` has a network for them.

    topology: of so many GPUs; a ValueError from it, or from an algorithm that does not exist there, ends the curve.
    """
    last = min(max(64, 4 * asked_gpus), max(MOST_GPUS, asked_gpus))
    counts = {asked_gpus, *(2**i for i in range(1, last.bit_length()) if 2**i <= last)}
    points = []
    for gpus in sorted(counts):
        try:
            found = predict_collective(op, payload_bytes, topology(gpus), algorithm, protocol)
        except ValueError:
            if gpus == asked_gpus:
                raise
            continue
        points.append(_point(gpus, found, gpus))
    asked = next(point for point in points if point.x == asked_gpus)
    switches = _switches(tuple(points), lambda low, high: high)
    title = f"{op} of {_bytes(payload_bytes)} over GPUs{where}"
    about = predicted(_links(topology(round(points[-1].x))))
    caption = _caption(algorithm, protocol)
    return Exchange(title, caption, "GPUs", tuple(points), switches, asked, about=about)


def _links(topology: Topology) -> str:
    """Of the nodes, and between them where there are several."""
    several = topology.fabric is not None and topology.gpus > topology.gpus_per_node
    return (
        f"{topology.inside.name}, {topology.fabric.name}"
        if topology.fabric and several
        else topology.inside.name
    )


def _caption(algorithm: str | None, protocol: str | None) -> str:
    free = algorithm is None and protocol is None
    way = "By the fastest algorithm and protocol" if free else "By the way that was asked for"
    return (
        f"{way}; dotted: from there on another one; circle: what was asked for. Below 1 MiB measurements are mostly "
        "noise."
    )


def _point(x: float, found: CollectivePrediction, gpus: int) -> Point:
    rate = found.payload_bytes / found.total_s if found.total_s else 0.0
    way = f"{found.algorithm}, {found.protocol}".replace("_", "-")
    return Point(x, found.total_s, rate * bus_bandwidth_factor(found.op, gpus), way)


def _switches(points: tuple[Point, ...], place: Callable[[float, float], float]) -> tuple[Mark, ...]:
    return tuple(
        Mark(after.way, place(before.x, after.x))
        for before, after in itertools.pairwise(points)
        if before.way != after.way
    )


def _first_with(at: Callable[[float], Point], low: float, high: float) -> float:
    """The payload at which `low`'s way ends, to a thousandth."""
    way = at(low).way
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if at(middle).way == way else (low, middle)
    return high


def _bytes(count: float) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count:.4g} bytes"
