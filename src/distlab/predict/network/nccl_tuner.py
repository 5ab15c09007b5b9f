"""NCCL's own estimate of an all-reduce, by which it chooses algorithm and protocol: its formulas and constants.

    graph = Graph(nodes=32, gpus_per_node=8, channels=16, channel_GBps=25)
    best(64 * MIB, graph)                              # Estimate(algorithm="tree", protocol="Simple", us=...)
    estimates(64 * MIB, graph)                         # every way, fastest first

Not a prediction of this package (that is `model`), but what the library believes: time = latency + bytes / bandwidth,
the smallest wins. Source: NCCL, src/graph/tuning.cc and ncclTopoGetAlgoTime, commit b6475625 (read 2026-11-30, V), for
Hopper GPUs over NVLink and an Intel host; newer versions hold the model in other files and add to it. Left out:
CollNet, PAT, the latency that a network plug-in reports, aggregated calls, and tuner plug-ins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from distlab.errors import SettingError
from distlab.predict.network.topology import Protocol

Algorithm = Literal["ring", "tree", "nvls_tree"]

_PROTOCOLS: tuple[Protocol, ...] = ("LL", "LL128", "Simple")
_BASE_US = {"ring": (6.6, 14.0, 8.4), "tree": (6.8, 14.0, 0.0), "nvls_tree": (0.0, 0.0, 0.0)}
_NVLINK_US = {"ring": (0.6, 1.9, 3.4), "tree": (0.6, 1.25, 28.0), "nvls_tree": (0.0, 0.0, 23.0)}
_NETWORK_US = {"ring": (2.7, 4.0, 14.0), "tree": (5.0, 8.5, 28.0), "nvls_tree": (0.0, 0.0, 14.0)}
"""Per step, by protocol LL, LL128, Simple."""
_POST_US = 1.0
"""Handing a message to the network card, on an Intel host; three times that with Simple."""
_LL_MOST_GBPS = (87.7, 39.0, 20.4)
"""LL: on one node (Hopper), two, more (Intel)."""
_RING_LL128_MOST = 36.7
_TREE_MOST = (38.7, 41.4, 36.0)
_TREE_LL128_MOST = (36.7, 36.7, 29.0)
"""GB/s per channel on one node, two, more."""
_PLATEAU = 1.4
_TREE_CORRECTION = {
    "LL": (1, 1, 1, 1, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1, 1, 1),
    "LL128": (
        1, 1, 1, 1, 1, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9, 0.9, 0.9, 0.9, 1, 1
    ),
    "Simple": (
        0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.7, 0.7, 0.8,
        0.9, 0.9,
    ),
}  # fmt: skip
"""Measured share of the tree's bandwidth, by powers of two from 64 B."""


@dataclass(frozen=True)
class Graph:
    """What NCCL's search found: `NCCL_DEBUG_SUBSYS=GRAPH` prints channels and the bandwidth of one."""

    nodes: int
    gpus_per_node: int
    channels: int
    channel_GBps: float  # noqa: N815 - the unit is part of the name
    """Of one channel, the smallest over all ranks."""

    def __post_init__(self) -> None:
        if min(self.nodes, self.gpus_per_node, self.channels) < 1 or not self.channel_GBps > 0:
            raise SettingError(
                f"{self} needs nodes, gpus_per_node and channels of 1 or more, and a bandwidth."
            )

    @property
    def ranks(self) -> int:
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Estimate:
    """One way to reduce, and how long NCCL believes that it takes."""

    algorithm: Algorithm
    protocol: Protocol
    us: float


def estimates(payload_bytes: float, graph: Graph) -> list[Estimate]:
    """Every way, fastest first. SettingError for one rank or a payload of less than a byte."""
    if graph.ranks < 2 or not payload_bytes >= 1:
        raise SettingError(f"{graph.ranks} ranks and {payload_bytes} bytes; give 2 ranks and 1 byte or more.")
    ways: list[tuple[Algorithm, Protocol]] = [(a, p) for a in ("ring", "tree") for p in _PROTOCOLS]
    if graph.nodes > 1:
        ways.append(("nvls_tree", "Simple"))
    found = [Estimate(a, p, _us(payload_bytes, graph, a, p)) for a, p in ways]
    return sorted(found, key=lambda estimate: estimate.us)


def best(payload_bytes: float, graph: Graph) -> Estimate:
    """What NCCL chooses."""
    return estimates(payload_bytes, graph)[0]


def _us(payload_bytes: float, graph: Graph, algorithm: Algorithm, protocol: Protocol) -> float:
    latency_us = _latency_us(graph, algorithm, protocol)
    bandwidth = _algorithm_GBps(graph, algorithm, protocol)
    if algorithm == "tree":
        place = max(0, int(math.log2(max(1.0, payload_bytes / 64))))
        correction = _TREE_CORRECTION[protocol]
        bandwidth *= correction[place] if place < len(correction) else 1.0
    share = payload_bytes / (graph.channels * graph.ranks)
    if algorithm == "ring" and protocol == "Simple" and graph.nodes > 1 and share >= 64:
        latency_us *= _PLATEAU
    return latency_us + payload_bytes / (1000 * bandwidth)


def _latency_us(graph: Graph, algorithm: Algorithm, protocol: Protocol) -> float:
    i, m = _PROTOCOLS.index(protocol), graph.nodes
    inside, between = _NVLINK_US[algorithm][i], _NETWORK_US[algorithm][i]
    match algorithm:
        case "ring":
            steps, steps_between = 2 * (graph.ranks - 1), (2 * m if m > 1 else 0)
            post = 0.0 if m == 1 else _POST_US * (3 if protocol == "Simple" else 1)
            steps_inside = max(0, steps - steps_between)
            return _BASE_US[algorithm][i] + steps_inside * max(inside, post) + steps_between * between
        case "tree":
            levels = int(math.log2(m))
            return _BASE_US[algorithm][i] + 2 * ((graph.gpus_per_node - 1) * inside + levels * between)
        case "nvls_tree":
            return inside + 2 * int(math.log2(m)) * between


def _algorithm_GBps(graph: Graph, algorithm: Algorithm, protocol: Protocol) -> float:  # noqa: N802
    """Payload per second: bus bandwidth by the library's rules, times its ratio of algorithm to bus."""
    size = min(graph.nodes, 3) - 1  # one node, two, more
    bus = graph.channels * graph.channel_GBps
    if algorithm == "ring":
        if protocol == "LL":
            bus = min(_LL_MOST_GBPS[size], bus / 4)
        elif protocol == "LL128":
            bus = min(bus * 0.92, graph.channels * _RING_LL128_MOST)
        return bus * graph.ranks / (2 * (graph.ranks - 1))
    if algorithm == "nvls_tree":
        halved = graph.channel_GBps if graph.nodes <= 2 else graph.channel_GBps / 2
        return graph.channels * halved * 5 / 6
    bus = min(bus * 0.92, graph.channels * _TREE_MOST[size])
    if protocol == "LL":
        bus = min(bus / 3.8, _LL_MOST_GBPS[size])
    elif protocol == "LL128":
        share = 7 / 9 if graph.nodes == 1 else 120 / 128
        bus = min(bus * share, graph.channels * _TREE_LL128_MOST[size])
    return bus / 2
