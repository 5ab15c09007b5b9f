"""How long a collective takes: the alpha-beta model over rings and trees.

A message costs a fixed latency (alpha) plus its bytes over the bandwidth. A ring collective is a chain of
such messages, so its time is

    steps * alpha + factor * payload / bandwidth

with `ring_steps` and `bus_bandwidth_factor` below. Payloads follow nccl-tests: for all-reduce, broadcast, reduce,
all-to-all and send-receive the buffer on each rank, for all-gather and reduce-scatter the larger (whole) buffer.
Send-receive is that of nccl-tests: every rank sends to the next one and receives from the one before, at once.

Source of the factors: NVIDIA nccl-tests, doc/PERFORMANCE.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from distlab.errors import SettingError

Op = Literal["all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce", "all_to_all", "send_recv"]


@dataclass(frozen=True)
class Link:
    """What one rank sees of the network: `alpha_s` seconds per message, and bytes per second one way."""

    alpha_s: float
    bandwidth_Bps: float  # noqa: N815 - the unit is part of the name

    def __post_init__(self) -> None:
        if not self.alpha_s >= 0:
            raise SettingError(f"alpha_s is {self.alpha_s}; a latency is 0 or more seconds.")
        if not self.bandwidth_Bps > 0:
            raise SettingError(
                f"bandwidth_Bps is {self.bandwidth_Bps}; it must be more than 0 bytes per second."
            )


def bus_bandwidth_factor(op: Op, world_size: int) -> float:
    """Bytes that each rank's link must carry one way, per byte of payload.

    Bus bandwidth is payload / time * this factor; it can be compared with the link's own bandwidth at any
    world size, which algorithm bandwidth (payload / time) cannot.
    """
    n = _checked(world_size)
    match op:
        case "all_reduce":
            return 2 * (n - 1) / n
        case "all_gather" | "reduce_scatter" | "all_to_all":
            return (n - 1) / n
        case "broadcast" | "reduce" | "send_recv":
            return 1.0 if n > 1 else 0.0
        case _:
            raise SettingError(f"unknown collective {op!r}; known: {', '.join(get_args(Op))}.")


def ring_steps(op: Op, world_size: int) -> int:
    """Messages that follow one another around the ring (all-to-all: to each of the others in turn).

    Broadcast and reduce cut the payload into pieces that follow one another down the chain: n - 1 messages long.
    """
    n = _checked(world_size)
    bus_bandwidth_factor(op, n)  # refuses an unknown op
    match op:
        case "all_reduce":
            return 2 * (n - 1)
        case "send_recv":
            return min(1, n - 1)
        case _:
            return n - 1


def ring_s(op: Op, payload_bytes: float, world_size: int, link: Link) -> float:
    """Seconds for a collective of `payload_bytes` on a ring of `world_size` ranks."""
    _checked_payload(payload_bytes)
    latency_s = ring_steps(op, world_size) * link.alpha_s
    return latency_s + bus_bandwidth_factor(op, world_size) * payload_bytes / link.bandwidth_Bps


def ring_all_reduce_s(payload_bytes: float, world_size: int, link: Link) -> float:
    """2(n-1) alpha + 2(n-1)/n S/B: a reduce-scatter, then an all-gather."""
    return ring_s("all_reduce", payload_bytes, world_size, link)


def all_gather_s(payload_bytes: float, world_size: int, link: Link) -> float:
    """(n-1) alpha + (n-1)/n S/B, `payload_bytes` being the gathered whole."""
    return ring_s("all_gather", payload_bytes, world_size, link)


def reduce_scatter_s(payload_bytes: float, world_size: int, link: Link) -> float:
    """(n-1) alpha + (n-1)/n S/B, `payload_bytes` being the whole buffer before it is scattered."""
    return ring_s("reduce_scatter", payload_bytes, world_size, link)


def tree_all_reduce_s(payload_bytes: float, world_size: int, link: Link) -> float:
    """2 ceil(log2 n) alpha + 2 S/B: up and down two complementary binary trees, half the payload on each.

    Source: Sanders, Speck, Traeff, Two-tree algorithms for full bandwidth broadcast, reduction and scan
    (Parallel Computing, 2009), which NCCL uses since 2.4.
    """
    n = _checked(world_size)
    _checked_payload(payload_bytes)
    if n == 1:
        return 0.0
    return 2 * math.ceil(math.log2(n)) * link.alpha_s + 2 * payload_bytes / link.bandwidth_Bps


def algorithm_bandwidth_Bps(payload_bytes: float, time_s: float) -> float:  # noqa: N802
    """Payload over time, in bytes per second: what the caller sees."""
    if not time_s > 0:
        raise SettingError(f"time_s is {time_s}; it must be more than 0 seconds.")
    return payload_bytes / time_s


def bus_bandwidth_Bps(op: Op, payload_bytes: float, time_s: float, world_size: int) -> float:  # noqa: N802
    """What each link carried one way, in bytes per second: what the hardware sees."""
    return algorithm_bandwidth_Bps(payload_bytes, time_s) * bus_bandwidth_factor(op, world_size)


def fit_alpha_beta(samples: Iterable[tuple[float, float]], world_size: int, op: Op = "all_reduce") -> Link:
    """The link whose ring model comes closest to measured `(payload_bytes, seconds)` samples.

    Least squares on the *relative* error, so that the 10 us points count as much as the 10 ms ones. Where
    the best line would have a negative latency, alpha is 0 and only the bandwidth is fitted.

    Raises SettingError for fewer than two different payloads, for times of 0 or less, and where time does
    not grow with the payload (then there is no bandwidth to be found: measure larger payloads).
    """
    points = [(float(size), float(time)) for size, time in samples]
    if len({size for size, _ in points}) < 2:
        raise SettingError(f"{len(points)} samples hold fewer than two different payloads; a line needs two.")
    if _checked(world_size) == 1:
        raise SettingError("world_size is 1; one rank sends nothing, so there is no link to fit.")
    for size, time in points:
        _checked_payload(size)
        if not time > 0:
            raise SettingError(f"the sample of {size:.0f} bytes took {time} s; a time must be more than 0.")
    intercept_s, slope = _relative_line(points)
    if slope <= 0:
        raise SettingError("time does not grow with the payload in these samples; measure larger payloads.")
    return Link(
        alpha_s=intercept_s / ring_steps(op, world_size),
        bandwidth_Bps=bus_bandwidth_factor(op, world_size) / slope,
    )


def _relative_line(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Intercept (>= 0) and slope of the line that minimises the sum of ((a + b x - y) / y)^2."""
    w = [1 / y**2 for _, y in points]
    sw = sum(w)
    mean_x = sum(wi * x for wi, (x, _) in zip(w, points, strict=True)) / sw
    mean_y = sum(wi * y for wi, (_, y) in zip(w, points, strict=True)) / sw
    sxx = sum(wi * (x - mean_x) ** 2 for wi, (x, _) in zip(w, points, strict=True))
    sxy = sum(wi * (x - mean_x) * (y - mean_y) for wi, (x, y) in zip(w, points, strict=True))
    slope = sxy / sxx
    intercept = mean_y - slope * mean_x
    if intercept >= 0:
        return intercept, slope
    return 0.0, sum(x / y for x, y in points) / sum((x / y) ** 2 for x, y in points)


def _checked(world_size: int) -> int:
    if world_size < 1:
        raise SettingError(f"world_size is {world_size}; it must be 1 or more.")
    return world_size


def _checked_payload(payload_bytes: float) -> None:
    if not payload_bytes >= 0:
        raise SettingError(f"payload_bytes is {payload_bytes}; it must be 0 or more.")
