"""Who sends what to whom: per algorithm and operation, the hops in a row and the bytes on the slowest wire.

Sources: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (2009) for rings; Sanders, Speck, Traeff,
Two-tree algorithms (2009) for trees; NCCL's ring kernel for its steps (recalled, R).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from distlab.errors import SettingError
from distlab.predict.collectives import Op, bus_bandwidth_factor, ring_steps
from distlab.predict.network.topology import Fabric, InSwitch, Topology

Algorithm = Literal["ring", "tree", "hierarchical", "in_switch"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)

PEERS_AT_ONCE = 8
"""All-to-all: peers that a kernel serves side by side (NCCL's NCCL_MAX_WORK_ELEMENTS_P2P; recalled, R)."""


@dataclass(frozen=True)
class Route:
    """What an algorithm costs on a topology, before protocols."""

    hops_inside: int
    """Messages in a row over links inside nodes."""
    hops_between: int
    """Messages in a row over the fabric."""
    chunk_s: float
    """Cost of handing over chunks on the whole way, Simple protocol: the time constant of the pipeline."""
    s_per_byte: float
    """Seconds on the wire per byte of payload, of the part that limits."""
    limit: str
    """That part, in words."""
    switch: bool = False
    """Whether a switch reduces; such kernels have the Simple protocol alone."""


def route(op: Op, algorithm: Algorithm, topology: Topology) -> Route | None:
    """The route, or None where the algorithm does not do the operation on that topology."""
    match algorithm:
        case "ring":
            return _ring(op, topology)
        case "tree":
            return _tree(op, topology)
        case "hierarchical":
            return _hierarchical(op, topology)
        case "in_switch":
            return _in_switch(op, topology)
        case _:
            raise SettingError(f"unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}.")


def kernel_factor(op: Op, n: int) -> float:
    """Payloads per rank that a ring's kernel moves: the wire's `bus_bandwidth_factor`, and the ends of the ring.

    A rank's first send of a chunk and its last receive have no partner to overlap with. NCCL cuts a chunk (1/n of the
    payload) in two slices, which hides one half: 1/(2n) of a payload is left. The slices are recalled (R); the half was
    chosen because it brings 2, 4 and 8 GPUs to one bandwidth.
    """
    exact = bus_bandwidth_factor(op, n)
    return exact + 1 / (2 * n) if n > 1 and op in ("all_reduce", "all_gather", "reduce_scatter") else exact


def _ring(op: Op, topology: Topology) -> Route:
    """One ring through all ranks, node after node; where a node has several NICs, as many rings side by side."""
    n, m, fabric = topology.gpus, topology.nodes, topology.fabric
    if op == "all_to_all":
        return _all_to_all(topology)
    steps = ring_steps(op, n)
    inside_s = kernel_factor(op, n) / topology.inside.bandwidth_Bps
    if m == 1 or fabric is None:
        return Route(steps, 0, steps * topology.inside.chunk_s, inside_s, topology.inside.name)
    between = min(steps, ring_steps(op, m))
    rate = fabric.node_Bps(topology.gpus_per_node)
    if op == "send_recv":  # one rank of each node sends to the next node, through the NIC beside it
        rate /= fabric.nics_used(topology.gpus_per_node)
    chunk_s = (steps - between) * topology.inside.chunk_s + between * fabric.chunk_s
    between_s = kernel_factor(op, n) / rate
    slow, limit = max((between_s, fabric.name), (inside_s, topology.inside.name))
    return Route(steps - between, between, chunk_s, slow, limit)


def _all_to_all(topology: Topology) -> Route:
    """Everyone to everyone: (g-1)/n of the payload stays inside the node, (n-g)/n leaves through its NICs."""
    n, g, fabric = topology.gpus, topology.gpus_per_node, topology.fabric
    inside_s = (g - 1) / n / topology.inside.bandwidth_Bps
    hops_inside = math.ceil((g - 1) / PEERS_AT_ONCE)
    if topology.nodes == 1 or fabric is None:
        return Route(hops_inside, 0, hops_inside * topology.inside.chunk_s, inside_s, topology.inside.name)
    hops = math.ceil((n - g) / PEERS_AT_ONCE)
    between_s = g * (n - g) / n / fabric.node_Bps(g)
    slow, limit = max((between_s, fabric.name), (inside_s, topology.inside.name))
    chunk_s = hops_inside * topology.inside.chunk_s + hops * fabric.chunk_s
    return Route(hops_inside, hops, chunk_s, slow, limit)


def _tree(op: Op, topology: Topology) -> Route | None:
    """A chain inside each node, two complementary binary trees over the nodes, half the payload on each.

    An inner node of one tree is a leaf of the other: it sends and receives 2 payloads for an all-reduce, 1 for a
    broadcast or reduce. With two nodes each is root of one tree: 1 payload and 1/2.
    """
    if op not in ("all_reduce", "broadcast", "reduce"):
        return None
    ways = 2 if op == "all_reduce" else 1
    g, m, fabric, inside = topology.gpus_per_node, topology.nodes, topology.fabric, topology.inside
    if m == 1 or fabric is None:  # the tree over the GPUs themselves
        hops = ways * math.ceil(math.log2(g))
        return Route(hops, 0, hops * inside.chunk_s, ways / inside.bandwidth_Bps, inside.name)
    hops_inside, hops = ways * (g - 1), ways * math.ceil(math.log2(m))
    inside_s = ways / inside.bandwidth_Bps if g > 1 else 0.0
    between_s = ways * (0.5 if m == 2 else 1.0) / fabric.node_Bps(g)
    slow, limit = max((between_s, fabric.name), (inside_s, inside.name))
    return Route(hops_inside, hops, hops_inside * inside.chunk_s + hops * fabric.chunk_s, slow, limit)


def _hierarchical(op: Op, topology: Topology) -> Route | None:
    """Reduce-scatter inside nodes, all-reduce of the parts between nodes, all-gather inside: stages one by one.

    Each GPU's part, 1/g of the payload, goes over its own rail; between nodes that is 2(m-1)/m payloads per node.
    All-gather and reduce-scatter are the same without the stages of the other.
    """
    fabric, inside, g, m = topology.fabric, topology.inside, topology.gpus_per_node, topology.nodes
    if m == 1 or fabric is None or op not in ("all_reduce", "all_gather", "reduce_scatter"):
        return None
    ways = 2 if op == "all_reduce" else 1
    hops_inside, hops = ways * (g - 1), ways * (m - 1)
    inside_s = ways * (g - 1) / g / inside.bandwidth_Bps
    between_s = ways * (m - 1) / m / fabric.node_Bps(g)
    chunk_s = hops_inside * inside.chunk_s + hops * fabric.chunk_s
    return Route(hops_inside, hops, chunk_s, inside_s + between_s, f"{inside.name}, then {fabric.name}")


def _in_switch(op: Op, topology: Topology) -> Route | None:
    """The switch adds up (or copies) what passes: each GPU sends a payload once and receives it once."""
    if op not in ("all_reduce", "broadcast", "reduce"):
        return None
    switch, fabric, m = topology.in_switch, topology.fabric, topology.nodes
    if switch is None and (m == 1 or fabric is None or not fabric.reduces):
        return None
    if m == 1 or fabric is None:
        return _switch_of_node(switch, topology) if switch else None
    return _switch_across(switch, fabric, topology)


def _switch_of_node(switch: InSwitch, topology: Topology) -> Route | None:
    if topology.gpus < switch.from_ranks:
        return None
    return Route(0, 0, switch.chunk_s, 1 / switch.bandwidth_Bps, "the switch of the node", switch=True)


def _switch_across(switch: InSwitch | None, fabric: Fabric, topology: Topology) -> Route:
    """Reduced in the node's switch (else along its GPUs), then by the fabric's switches, else over a tree of nodes."""
    g, m, inside = topology.gpus_per_node, topology.nodes, topology.inside
    if switch is not None and g >= switch.from_ranks:
        hops_inside, chunk_s, inside_s = 0, switch.chunk_s, 1 / switch.bandwidth_Bps
    else:
        hops_inside = 2 * (g - 1)
        chunk_s, inside_s = hops_inside * inside.chunk_s, (2 / inside.bandwidth_Bps if g > 1 else 0.0)
    hops = 2 if fabric.reduces else 2 * math.ceil(math.log2(m))
    payloads = 1.0 if fabric.reduces or m == 2 else 2.0
    slow, limit = max((payloads / fabric.node_Bps(g), fabric.name), (inside_s, inside.name))
    return Route(hops_inside, hops, chunk_s + hops * fabric.chunk_s, slow, limit, switch=True)
