"""What a group of ranks sees of the network: links inside a node, NICs between nodes, switches that reduce."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from distlab.errors import SettingError

Protocol = Literal["LL", "LL128", "Simple"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


@dataclass(frozen=True)
class ProtocolCost:
    """What a protocol of NCCL changes, against Simple."""

    payload_share: float
    """Payload bytes per byte on the wire."""
    chunk_share: float
    """Its cost of handing over one chunk, per that of Simple."""


PROTOCOL_COSTS: dict[Protocol, ProtocolCost] = {
    # LL sends 4 bytes of flag with each 4 bytes of data, LL128 8 bytes of flag in each 128-byte line; the receiver
    # polls the flags, so no fence is needed. Simple sends data alone, and then a fence and a counter.
    # Source of the shares: NCCL, src/graph/tuning.cc: 120/128 for LL128, hwLat of a ring over NVLink 0.6, 1.9 and
    # 3.4 us for LL, LL128 and Simple (read 2026-11-29, V).
    "LL": ProtocolCost(payload_share=1 / 2, chunk_share=0.6 / 3.4),
    "LL128": ProtocolCost(payload_share=120 / 128, chunk_share=1.9 / 3.4),
    "Simple": ProtocolCost(payload_share=1.0, chunk_share=1.0),
}


@dataclass(frozen=True)
class NodeLink:
    """The links between the GPUs of one node."""

    name: str
    bandwidth_Bps: float  # noqa: N815 - the unit is part of the name
    """Bytes per second, one way, per GPU, that a collective's kernel reaches over long payloads."""
    hop_s: float
    """Until a message that leaves one GPU is at the next."""
    chunk_s: float
    """What handing over a chunk costs with the Simple protocol: the pipeline of a ring pays it in every chunk."""
    protocols: tuple[Protocol, ...] = PROTOCOLS

    def __post_init__(self) -> None:
        _rate("bandwidth_Bps", self.bandwidth_Bps)
        _seconds("hop_s", self.hop_s)
        _seconds("chunk_s", self.chunk_s)
        _protocols(self.protocols)


@dataclass(frozen=True)
class InSwitch:
    """Switches inside a node that add up what passes through them: NVLink SHARP, which NCCL calls NVLS."""

    bandwidth_Bps: float  # noqa: N815
    """Payload per second of a long all-reduce: each GPU sends the payload once, and gets the sum once."""
    chunk_s: float
    """What handing over a chunk to the switch costs."""
    from_ranks: int
    """The smallest group for which NCCL uses it."""

    def __post_init__(self) -> None:
        _rate("bandwidth_Bps", self.bandwidth_Bps)
        _seconds("chunk_s", self.chunk_s)
        _count("from_ranks", self.from_ranks, 2)


@dataclass(frozen=True)
class Fabric:
    """The network between nodes."""

    name: str
    nic_Bps: float  # noqa: N815
    """Bytes per second, one way, of one NIC: the link's own rate."""
    nics_per_node: int
    gpus_per_full_node: int
    hop_s: float
    efficiency: float = 1.0
    """Share of the NICs' rate that a collective reaches over long payloads."""
    chunk_s: float = 0.0
    reduces: bool = False
    """Whether its switches reduce (InfiniBand SHARP; NCCL's CollNet)."""
    protocols: tuple[Protocol, ...] = ("LL", "Simple")
    measured_Bps: tuple[tuple[int, float], ...] = ()  # noqa: N815
    """Instead of NICs times efficiency: (GPUs used per node, bytes per second that left a node over a ring)."""
    low_latency_until: tuple[tuple[int, float], ...] = ()
    """(GPUs used per node, payload per rank in bytes) below which NCCL was seen to stay with LL where Simple would
    have been faster. Where a number of GPUs is absent the faster protocol is taken."""
    algorithms: tuple[str, ...] = ("ring", "tree", "in_switch")
    """What is tried when no algorithm is named."""
    shared: bool = False
    """All GPUs of a node send at the same time, as groups of a training step do: a group has its GPUs' share of the
    NICs, where one that is alone has those beside its GPUs."""

    def __post_init__(self) -> None:
        _rate("nic_Bps", self.nic_Bps)
        _count("nics_per_node", self.nics_per_node, 1)
        _count("gpus_per_full_node", self.gpus_per_full_node, 1)
        _seconds("hop_s", self.hop_s)
        _seconds("chunk_s", self.chunk_s)
        _protocols(self.protocols)
        if not 0 < self.efficiency <= 1:
            raise SettingError(
                f"efficiency is {self.efficiency}; it is a share of the NICs' rate, above 0 up to 1."
            )
        for _, rate in self.measured_Bps:
            _rate("measured_Bps", rate)

    def nics_used(self, ranks_per_node: int) -> int:
        """NICs that `ranks_per_node` GPUs of a node reach: those beside them, at least one."""
        share = ranks_per_node * self.nics_per_node / self.gpus_per_full_node
        return min(self.nics_per_node, max(1, math.floor(share)))

    def node_Bps(self, ranks_per_node: int) -> float:  # noqa: N802
        """Bytes per second, one way, in and out of a node of which the group has `ranks_per_node` GPUs."""
        for gpus, rate in self.measured_Bps:
            if gpus == ranks_per_node:
                return rate
        if self.shared:
            share = min(1.0, ranks_per_node / self.gpus_per_full_node)
            return share * self.nics_per_node * self.nic_Bps * self.efficiency
        return self.nics_used(ranks_per_node) * self.nic_Bps * self.efficiency

    def stays_low_latency_below(self, ranks_per_node: int) -> float:
        """Payload per rank below which LL is forced; 0 where nothing is."""
        return next((size for gpus, size in self.low_latency_until if gpus == ranks_per_node), 0.0)


@dataclass(frozen=True)
class Topology:
    """A group of `gpus` ranks, `gpus_per_node` of them in each node."""

    gpus: int
    gpus_per_node: int
    inside: NodeLink
    fabric: Fabric | None = None
    in_switch: InSwitch | None = None
    launch_s: float = 0.0
    """From the call to the kernel's first send, and from its last receive to what the caller times."""

    def __post_init__(self) -> None:
        _count("gpus", self.gpus, 1)
        _count("gpus_per_node", self.gpus_per_node, 1)
        _seconds("launch_s", self.launch_s)
        if self.gpus % self.gpus_per_node:
            raise SettingError(
                f"gpus is {self.gpus}; it must be a multiple of gpus_per_node, {self.gpus_per_node}."
            )
        if self.nodes > 1 and self.fabric is None:
            raise SettingError(
                f"fabric is missing; {self.gpus} GPUs, {self.gpus_per_node} per node, need one."
            )

    @property
    def nodes(self) -> int:
        return self.gpus // self.gpus_per_node

    def group(self, gpus: int, gpus_per_node: int) -> Topology:
        """Another group of ranks on the same machines, such as one axis of a mesh."""
        return replace(self, gpus=gpus, gpus_per_node=gpus_per_node)


def _rate(name: str, value: float) -> None:
    if not value > 0:
        raise SettingError(f"{name} is {value}; it must be more than 0 bytes per second.")


def _seconds(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise SettingError(f"{name} is {value}; it must be 0 or more seconds.")


def _count(name: str, value: int, least: int) -> None:
    if type(value) is not int or value < least:
        raise SettingError(f"{name} is {value}; it must be a whole number of {least} or more.")


def _protocols(names: tuple[Protocol, ...]) -> None:
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or not names:
        raise SettingError(f"protocols is {names}; it names one or more of {', '.join(PROTOCOLS)}.")
