"""Seconds of a collective, as a sum of terms that each say why.

A pipeline hands a payload over in chunks. With small ones it is full at once, but pays for every chunk; with large
ones it waits until the first has gone all the way. The best chunk size grows with the root of the payload, and then

    time = launch + hops * hop_s + (sqrt(C) + sqrt(W))^2,      W = payload * s_per_byte, C = sum of chunk_s on the way

which is latency-bound (C), bandwidth-bound (W), and in between has the term 2 sqrt(C W): why a collective reaches the
rate of its link only over payloads of gigabytes. The optimum is textbook (Sanders, Speck,
Traeff, 2009; recalled, R); that NCCL's chunk sizes and channels follow it is this model's assumption.

Protocols: W is divided by the share of payload on the wire, C multiplied by the protocol's cost per chunk.
The fastest of the protocols, and of the algorithms, is taken, as NCCL's tuner means to; it does not always find it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from distlab.predict.collectives import Op
from distlab.predict.network.algorithms import ALGORITHMS, Algorithm, Route, route
from distlab.predict.network.topology import PROTOCOL_COSTS, PROTOCOLS, Protocol, Topology
from distlab.predict.scaling import Term, exposed_communication_s


@dataclass(frozen=True)
class CollectivePrediction:
    """How long a collective takes, by which algorithm and protocol, and the terms that add up to it."""

    op: Op
    payload_bytes: float
    algorithm: Algorithm
    protocol: Protocol
    terms: tuple[Term, ...]

    @property
    def total_s(self) -> float:
        """Seconds from the call to the end."""
        return sum(term.seconds for term in self.terms)

    @property
    def bound(self) -> str:
        """`bandwidth` where bytes on the wire take half of the time or more, else `latency`."""
        wire_s = sum(term.seconds for term in self.terms if term.name in ("wire", "protocol"))
        return "bandwidth" if 2 * wire_s >= self.total_s > 0 else "latency"


def collective_s(
    op: Op,
    payload_bytes: float,
    topology: Topology,
    algorithm: Algorithm | None = None,
    protocol: Protocol | None = None,
) -> CollectivePrediction:
    """Predict one collective; the fastest algorithm and protocol unless they are named.

    payload_bytes: as in nccl-tests (see `collectives`): the larger buffer for all-gather and reduce-scatter.
    Raises ValueError for an unknown operation, a negative payload, and an algorithm or protocol that does not exist
    there (such as a tree for an all-gather).
    """
    if not 0 <= payload_bytes < math.inf:
        raise ValueError(f"payload_bytes is {payload_bytes}; it must be 0 or more")
    if topology.gpus == 1:
        _check_op(op)
        return CollectivePrediction(op, payload_bytes, algorithm or "ring", protocol or "Simple", ())
    best_s, best = math.inf, None
    for name, way in _routes(op, algorithm, topology):
        fixed_s = _fixed_s(way, topology)
        for kind in _protocols(way, topology, payload_bytes, protocol):
            cost = PROTOCOL_COSTS[kind]
            chunks_s = way.chunk_s * cost.chunk_share
            wire_s = payload_bytes * way.s_per_byte / cost.payload_share
            time_s = fixed_s + chunks_s + 2 * math.sqrt(chunks_s * wire_s) + wire_s
            if time_s < best_s:
                best_s, best = time_s, (name, way, kind)
    if best is None:
        raise ValueError(f"protocol is {protocol!r}; {op} has no algorithm with it on this topology")
    name, way, kind = best
    return CollectivePrediction(op, payload_bytes, name, kind, _terms(payload_bytes, topology, way, kind))


def exposed_s(prediction: CollectivePrediction, overlap_window_s: float) -> float:
    """The part of the collective that `overlap_window_s` of independent compute does not hide."""
    return exposed_communication_s(prediction.total_s, overlap_window_s)


@lru_cache(maxsize=4096)
def _routes(op: Op, algorithm: Algorithm | None, topology: Topology) -> tuple[tuple[Algorithm, Route], ...]:
    """The algorithms that are worth a try, with their routes. Cached: they do not depend on the payload."""
    _check_op(op)
    if algorithm is not None:
        way = route(op, algorithm, topology)
        if way is None:
            raise ValueError(f"algorithm is {algorithm!r}; {op} has none such on this topology: take 'ring'")
        return ((algorithm, way),)
    wanted = topology.fabric.algorithms if topology.fabric and topology.nodes > 1 else ("ring", "in_switch")
    found = [(name, route(op, name, topology)) for name in ALGORITHMS if name in wanted or name == "ring"]
    return tuple((name, way) for name, way in found if way is not None)


def _protocols(
    way: Route, topology: Topology, payload_bytes: float, wanted: Protocol | None
) -> tuple[Protocol, ...]:
    if wanted is not None and wanted not in PROTOCOLS:
        raise ValueError(f"protocol is {wanted!r}; it must be one of {', '.join(PROTOCOLS)}")
    allowed: tuple[Protocol, ...] = topology.inside.protocols
    if way.switch:
        allowed = ("Simple",)
    elif topology.nodes > 1 and topology.fabric is not None:
        allowed = topology.fabric.protocols
        if wanted is None and topology.fabric.low_latency_until:
            until = topology.fabric.stays_low_latency_below(topology.gpus_per_node)
            if until:
                return ("LL",) if payload_bytes / topology.gpus < until else ("Simple",)
    if wanted is None:
        return allowed
    return (wanted,) if wanted in allowed else ()


def _fixed_s(way: Route, topology: Topology) -> float:
    between_s = topology.fabric.hop_s if topology.fabric else 0.0
    return topology.launch_s + way.hops_inside * topology.inside.hop_s + way.hops_between * between_s


def _terms(payload_bytes: float, topology: Topology, way: Route, protocol: Protocol) -> tuple[Term, ...]:
    cost = PROTOCOL_COSTS[protocol]
    chunks_s = way.chunk_s * cost.chunk_share
    wire_s = payload_bytes * way.s_per_byte
    sent_s = wire_s / cost.payload_share
    latency_s = _fixed_s(way, topology) - topology.launch_s + chunks_s
    hops = f"in a row: {way.hops_inside} hops inside nodes, {way.hops_between} between nodes"
    hops += ", and the switch" if way.switch else ""
    return (
        Term("launch", topology.launch_s, "the call, the kernel's start and its end"),
        Term("latency", latency_s, hops),
        Term(
            "pipeline", 2 * math.sqrt(chunks_s * sent_s), "chunks: filling the pipeline and handing them over"
        ),
        Term("wire", wire_s, f"{1 / way.s_per_byte / 1e9:.4g} GB of payload per second over {way.limit}"),
        Term("protocol", sent_s - wire_s, f"{protocol}: {1 / cost.payload_share:.3g} bytes sent per byte"),
    )


def _check_op(op: Op) -> None:
    if op not in get_args(Op):
        raise ValueError(f"op is {op!r}; it must be one of {', '.join(get_args(Op))}")
