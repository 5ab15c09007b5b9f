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

from distlab.errors import SettingError
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


def predict_collective(
    op: Op,
    payload_bytes: float,
    topology: Topology,
    algorithm: Algorithm | None = None,
    protocol: Protocol | None = None,
) -> CollectivePrediction:
    """Predict one collective; the fastest algorithm and protocol unless they are named.

    payload_bytes: as in nccl-tests (see `collectives`): the larger buffer for all-gather and reduce-scatter.
    Raises SettingError for an unknown operation, a negative payload, and an algorithm or protocol that does not exist
    there (such as a tree for an all-gather).
    """
    _check_payload(payload_bytes)
    if topology.gpus == 1:
        _check_op(op)
        return CollectivePrediction(op, payload_bytes, algorithm or "ring", protocol or "Simple", ())
    if protocol is not None and protocol not in PROTOCOLS:
        raise SettingError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}.")
    ways = ways_of(op, topology, algorithm, protocol)
    if not ways:
        raise SettingError(f"protocol is {protocol!r}; {op} has no algorithm with it on this topology.")
    best = min(ways, key=lambda way: way.seconds(payload_bytes))
    return CollectivePrediction(
        op, payload_bytes, best.algorithm, best.protocol, _terms(payload_bytes, topology, best)
    )


@dataclass(frozen=True)
class Way:
    """An algorithm with a protocol, and what of its time does not depend on the payload."""

    algorithm: Algorithm
    protocol: Protocol
    route: Route
    fixed_s: float
    """Launch and hops."""
    chunks_s: float
    s_per_byte: float
    """On the wire, what the protocol adds to the payload included."""
    from_bytes: float = 0.0
    below_bytes: float = math.inf
    """Payloads for which it is taken at all."""

    def seconds(self, payload_bytes: float) -> float:
        """launch + hops + (sqrt(C) + sqrt(W))^2; infinite for a payload for which it is not taken."""
        if not self.from_bytes <= payload_bytes < self.below_bytes:
            return math.inf
        wire_s = payload_bytes * self.s_per_byte
        return self.fixed_s + self.chunks_s + 2 * math.sqrt(self.chunks_s * wire_s) + wire_s


@lru_cache(maxsize=4096)
def ways_of(
    op: Op, topology: Topology, algorithm: Algorithm | None = None, protocol: Protocol | None = None
) -> tuple[Way, ...]:
    """All that is tried between two GPUs or more. Cached: it does not depend on the payload.

    Raises SettingError as `predict_collective` does; no ways where no algorithm has that protocol.
    """
    return tuple(
        Way(
            name,
            kind,
            path,
            _fixed_s(path, topology),
            path.chunk_s * PROTOCOL_COSTS[kind].chunk_share,
            path.s_per_byte / PROTOCOL_COSTS[kind].payload_share,
            *limits,
        )
        for name, path in _routes(op, algorithm, topology)
        for kind, *limits in _protocols(path, topology, protocol)
    )


def exposed_s(prediction: CollectivePrediction, overlap_window_s: float) -> float:
    """The part of the collective that `overlap_window_s` of independent compute does not hide."""
    return exposed_communication_s(prediction.total_s, overlap_window_s)


def _routes(op: Op, algorithm: Algorithm | None, topology: Topology) -> tuple[tuple[Algorithm, Route], ...]:
    """The algorithms that are worth a try, with their routes."""
    _check_op(op)
    if algorithm is not None:
        path = route(op, algorithm, topology)
        if path is None:
            there = [repr(name) for name in ALGORITHMS if route(op, name, topology) is not None]
            raise SettingError(
                f"algorithm is {algorithm!r}; {op} has none such on this topology: take {' or '.join(there)}, or none "
                "for the fastest."
            )
        return ((algorithm, path),)
    wanted = topology.fabric.algorithms if topology.fabric and topology.nodes > 1 else ("ring", "in_switch")
    found = [(name, route(op, name, topology)) for name in ALGORITHMS if name in wanted or name == "ring"]
    return tuple((name, path) for name, path in found if path is not None)


def _protocols(
    path: Route, topology: Topology, wanted: Protocol | None
) -> tuple[tuple[Protocol, float, float], ...]:
    """Those that may be, each from some payload to another."""
    allowed: tuple[Protocol, ...] = topology.inside.protocols
    if path.switch:
        allowed = ("Simple",)
    elif topology.nodes > 1 and topology.fabric is not None:
        allowed = topology.fabric.protocols
        until = topology.gpus * topology.fabric.stays_low_latency_below(topology.gpus_per_node)
        if wanted is None and until:
            return ("LL", 0.0, until), ("Simple", until, math.inf)
    return tuple((kind, 0.0, math.inf) for kind in allowed if wanted in (None, kind))


def _fixed_s(path: Route, topology: Topology) -> float:
    between_s = topology.fabric.hop_s if topology.fabric else 0.0
    return topology.launch_s + path.hops_inside * topology.inside.hop_s + path.hops_between * between_s


def _terms(payload_bytes: float, topology: Topology, chosen: Way) -> tuple[Term, ...]:
    path, chunks_s, protocol = chosen.route, chosen.chunks_s, chosen.protocol
    wire_s = payload_bytes * path.s_per_byte
    sent_s = payload_bytes * chosen.s_per_byte
    latency_s = chosen.fixed_s - topology.launch_s + chunks_s
    hops = f"in a row: {path.hops_inside} hops inside nodes, {path.hops_between} between nodes"
    hops += ", and the switch" if path.switch else ""
    return (
        Term("launch", topology.launch_s, "the call, the kernel's start and its end"),
        Term("latency", latency_s, hops),
        Term(
            "pipeline", 2 * math.sqrt(chunks_s * sent_s), "chunks: filling the pipeline and handing them over"
        ),
        Term("wire", wire_s, f"{1 / path.s_per_byte / 1e9:.4g} GB of payload per second over {path.limit}"),
        Term(
            "protocol",
            sent_s - wire_s,
            f"{protocol}: {1 / PROTOCOL_COSTS[protocol].payload_share:.3g} bytes sent per byte",
        ),
    )


def _check_payload(payload_bytes: float) -> None:
    if not 0 <= payload_bytes < math.inf:
        raise SettingError(f"payload_bytes is {payload_bytes}; it must be 0 or more.")


def _check_op(op: Op) -> None:
    if op not in get_args(Op):
        raise SettingError(f"op is {op!r}; it must be one of {', '.join(get_args(Op))}.")
