"""Machines for the collectives model: three that were measured, and any node of the hardware registry.

    system("h100_dgx", gpus=8, gpus_per_node=8)          # of agrawal2024vidur
    system("dgx_b200", gpus=32, gpus_per_node=8)         # a node of `distlab.predict.hardware`

Where the numbers come from. Each fit makes the mean absolute relative error least over the cases it names, all of them
all-reduces of more than 1 MiB, from the files in `distlab/predict/data`. Cases of a run are numbered by payload from 0;
even ones are fitted, odd ones are held out (`held_out` below, and `tests/predict/test_nccl.py`, which fits again).

  NVLINK3                 a100_dgx in one node, 2, 4 and 8 GPUs together
  NVLINK4                 h100_dgx in one node, 2 and 4 GPUs together: rings
  NVLS4                   h100_dgx and h200 on 8 GPUs together, where NCCL reduces in the switch
  AZURE_A100_FABRIC       a100_dgx on two nodes, with 1, 2, 4 and 8 GPUs of each

Below 1 MiB these measurements are mostly noise (the same collective takes 18 to 62 us on 4 A100): the model gives their
level, not their shape.

Not in any fit: the bus bandwidths that bekman_ml_engineering publishes for 8 A100 and for 8 H200 without in-switch
reduction, and the time of 4 GiB on 32 B200 (whose 16 GiB are in FABRIC_EFFICIENCY: no independent case).

How far "held out" goes: parameters saw the fitted cases alone. The form of the model did not: its terms, the 1/(2n) of
`kernel_factor`, mean absolute error as the loss, `low_latency_until` and the split of the fabric by GPUs per node were
chosen with all of these cases, and the published figures, in view. Only cases from elsewhere test the form.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.collectives import bus_bandwidth_factor
from distlab.predict.hardware import NODES, Node, link, node
from distlab.predict.network.algorithms import kernel_factor
from distlab.predict.network.topology import Fabric, InSwitch, NodeLink, Topology
from distlab.predict.units import GB, MIB

FITTED_FROM_BYTES = MIB


def held_out(position: int, payload_bytes: float) -> bool:
    """Whether the case at this position of a run, by payload, took no part in any fit."""
    return payload_bytes <= FITTED_FROM_BYTES or position % 2 == 1


NVLINK3 = NodeLink("NVLink 3 (NVSwitch)", 219.8 * GB, hop_s=0.0, chunk_s=0.438e-6)
"""Fit; A100. 8 GPUs reach a bus bandwidth of 212 GB/s with it over long payloads; 234.9 is published (V)."""

NVLINK4 = NodeLink("NVLink 4 (NVSwitch)", 368.6 * GB, hop_s=2.0e-6, chunk_s=0.0)
"""Fit; H100. The best cost per chunk is 0, so that Simple is never slower than another protocol here.
8 GPUs reach 356 GB/s in a ring with it; 367.6 is published for H200 (V)."""

NVLS4 = InSwitch(284.8 * GB, chunk_s=6.23e-6, from_ranks=5)
"""Fit; H100 and H200. From 5 GPUs: the published gain over a ring is 1.00 with 4 and 1.14 with 5
(bekman_ml_engineering, V)."""

NVLINK5 = NodeLink("NVLink 5 (NVSwitch)", 2 * NVLINK4.bandwidth_Bps, NVLINK4.hop_s, NVLINK4.chunk_s)
"""NVLink 4's fit at twice the rate, as the datasheets have it (C); no ring was measured."""

NVLS5 = InSwitch(838.97 * GB / 1.75, NVLS4.chunk_s, NVLS4.from_ranks)
"""From the published bus bandwidth of 8 B200, 838.97 GB/s over 16 GiB (bekman_ml_engineering, V); steps as NVLS4."""

AZURE_A100_FABRIC = Fabric(
    "2 nodes of the A100 recording",
    nic_Bps=25 * GB,
    nics_per_node=8,
    gpus_per_full_node=8,
    hop_s=20.5e-6,
    measured_Bps=((1, 7.42 * GB), (2, 8.14 * GB), (4, 22.9 * GB), (8, 17.9 * GB)),
    low_latency_until=((4, MIB / 2), (8, MIB / 2)),
    algorithms=("ring",),
)
"""Fit: hop_s and measured_Bps. These nodes reach 6 to 23 of their 200 GB/s, and 8 GPUs reach less than 4: an unhealthy
network, kept as it was measured. Up to 512 KiB per rank (a buffer slot of NCCL: 4 MiB in 8 steps) 4 and 8 GPUs move at
about half of the rate beyond it, as LL does."""

FABRIC_EFFICIENCY = 0.93
"""Share of the NICs' rate that a ring reaches: 364.9 of 400 GB/s on 4 nodes of H200 with EFA, 376.7 of 400 on 4 nodes
of B200 (bekman_ml_engineering, V): their mean (C). A link of which the registry has a `reached` reaches that."""

FABRIC_HOP_S = 14e-6
"""NCCL's own figure for a Simple step of a ring over a network (src/graph/tuning.cc, V)."""

LAUNCH_S = 13.9e-6
"""Fit: the h100_dgx recording, with NVLINK4. What a caller times around a kernel; other harnesses differ."""

LINK_EFFICIENCY = NVLINK4.bandwidth_Bps / (450 * GB)
"""Where nobody has measured: the share of the datasheet's rate that NVLink 4 reaches (C)."""

A100_LAUNCH_S = 33.5e-6
"""Fit: the a100_dgx recording, with NVLINK3."""

H200_LAUNCH_S = 29.7e-6
"""Fit: the h200 recording, with NVLS4. It was timed from torch."""


@dataclass(frozen=True)
class System:
    """Nodes of one kind, and what joins them."""

    title: str
    inside: NodeLink
    launch_s: float
    fabric: Fabric | None = None
    in_switch: InSwitch | None = None
    beyond_pair: NodeLink | None = None
    """What joins more than two GPUs, where NVLink joins pairs alone."""
    gpus_per_node: int = 8
    about: str = ""
    """What it is, where it is no node of the registry: recorded, or put together."""

    def group(self, gpus: int, gpus_per_node: int) -> Topology:
        """That many GPUs, so many of them in each node. SettingError for a group that does not fit."""
        inside = self.beyond_pair if self.beyond_pair and gpus_per_node > 2 else self.inside
        return Topology(gpus, gpus_per_node, inside, self.fabric, self.in_switch, self.launch_s)


def _sold(name: str) -> NodeLink:
    """A link that was not fitted here: from the all-reduce over 8 that the registry has, or from its rate as sold."""
    found = link(name)
    rate = LINK_EFFICIENCY * found.bandwidth.value.in_gigabytes_per_s * GB
    if found.reached is not None:
        of_kernel = kernel_factor("all_reduce", 8) / bus_bandwidth_factor("all_reduce", 8)
        rate = found.reached.value.in_gigabytes_per_s * GB * of_kernel
    return NodeLink(found.title, rate, NVLINK4.hop_s, NVLINK4.chunk_s)


def _fabric(box: Node) -> Fabric:
    found = box.between
    rate = found.bandwidth.value.in_gigabytes_per_s * GB
    share = FABRIC_EFFICIENCY
    if found.reached is not None:
        share = found.reached.value.in_gigabytes_per_s * GB / rate
    return Fabric(found.title, rate, max(1, box.nics), box.accelerators, FABRIC_HOP_S, share)


def _between_cards() -> Fabric:
    """Between servers of PCIe cards, of whose network nothing is known: one 100 Gb/s card of Ethernet each."""
    found = link("ethernet_100")
    rate = found.bandwidth.value.in_gigabytes_per_s * GB
    return Fabric(found.title, rate, 1, 8, FABRIC_HOP_S, FABRIC_EFFICIENCY)


_CARDS = "put together from datasheets: PCIe cards joined in pairs, one network card of 100 Gb/s a node"


def _slow_network() -> str:
    low, high = (rate(each for _, each in AZURE_A100_FABRIC.measured_Bps) / GB for rate in (min, max))
    sold = AZURE_A100_FABRIC.nic_Bps * AZURE_A100_FABRIC.nics_per_node / GB
    return (
        f"as recorded on 2 nodes of 8, slow network and all: {low:.0f} to {high:.0f} of its {sold:.0f} GB/s"
    )


SYSTEMS: dict[str, System] = {
    "a100_dgx": System(
        "DGX A100 (agrawal2024vidur)", NVLINK3, A100_LAUNCH_S, AZURE_A100_FABRIC, about=_slow_network()
    ),
    "h100_dgx": System(
        "DGX H100 (agrawal2024vidur)",
        NVLINK4,
        LAUNCH_S,
        _fabric(node("dgx_h100")),
        in_switch=NVLS4,
        about="as recorded on 1 node of 8; between nodes as dgx_h100",
    ),
    "h200": System(
        "8 H200 (bekman_ml_engineering)",
        NVLINK4,
        H200_LAUNCH_S,
        _fabric(node("dgx_h200")),
        NVLS4,
        about="as recorded on 1 node of 8; between nodes as dgx_h200",
    ),
    # Not measured here: NVLink bridges of 300 GB/s one way between pairs of PCIe cards (datasheets, R).
    "a100_pairwise_nvlink": System(
        "4 A100 PCIe, NVLink in pairs",
        NVLINK3,
        A100_LAUNCH_S,
        _between_cards(),
        beyond_pair=_sold("pcie4_x16"),
        about=_CARDS,
    ),
    "h100_pairwise_nvlink": System(
        "4 H100 PCIe, NVLink in pairs",
        NVLINK3,
        LAUNCH_S,
        _between_cards(),
        beyond_pair=_sold("pcie5_x16"),
        about=_CARDS,
    ),
}

RECORDED = {"recorded_a100_dgx": "a100_dgx", "recorded_h100_dgx": "h100_dgx", "recorded_h200": "h200"}
"""By the names that commands take: those of `SYSTEMS` that were recorded, whose names there (as in the recordings' CSV
files) are too like those of the registry's nodes."""

NAMES = (*RECORDED, *(name for name in SYSTEMS if name not in RECORDED.values()))
"""What commands call the systems that are no nodes of the registry."""

_INSIDE: dict[str, tuple[NodeLink, InSwitch | None]] = {
    "nvswitch2": (NVLINK3, None),
    "nvswitch3": (NVLINK4, NVLS4),
    "nvswitch4": (NVLINK5, NVLS5),
}


def fitted_inside(box: Node) -> bool:
    """Whether collectives inside such a node took part in a fit. (NVLink 5 is NVLink 4's, doubled.)"""
    return box.link in ("nvswitch2", "nvswitch3")


def inside_unmeasured(box: Node) -> str | None:
    """What stands for collectives inside such a node that nobody measured."""
    if fitted_inside(box):
        return None
    what = "NVLink 4's share of its rate" if box.inside.reached is None else "one published all-reduce"
    return f"no collective over {box.inside.name} was fitted: {what} stands for it"


def between_unmeasured(box: Node) -> list[str]:
    """The same between such nodes."""
    said = []
    if box.between.kind != "efa":
        share = "it reaches the share of its rate that EFA does"
        said.append(f"no collective over {box.between.name} was measured: {share}")
    if box.between.kind == "ethernet":
        said.append("TCP takes processors, and a latency, that the model does not know")
    return said


def unmeasured(name: str, gpus: int, gpus_per_node: int) -> list[str]:
    """What of a group's collectives no measurement stands behind, in sentences. ValueError for an unknown name."""
    recorded = RECORDED.get(name, name)
    if recorded not in SYSTEMS:
        box = _node(name)
        inside = inside_unmeasured(box) if gpus_per_node > 1 else None
        return [*([inside] if inside else []), *(between_unmeasured(box) if gpus > gpus_per_node else [])]
    if recorded not in RECORDED.values():
        return [
            "none of its collectives was measured: bridges and slots have shares of what they are sold with"
        ]
    nodes = gpus // gpus_per_node
    if recorded == "a100_dgx":
        return [f"2 nodes were recorded, and {nodes} are asked for"] if nodes > 2 else []
    if nodes == 1:
        return []
    between = between_unmeasured(node(f"dgx_{recorded.removesuffix('_dgx')}"))
    return [f"1 node was recorded, and {nodes} are asked for", *between]


def system(name: str, gpus: int, gpus_per_node: int) -> Topology:
    """A group of GPUs on a machine named here, or on nodes of the hardware registry.

    Raises SettingError for an unknown name (it lists those here and the registry's) and for a group that does not fit.
    """
    found = machine(name)
    if gpus_per_node > found.gpus_per_node:
        raise SettingError(f"gpus_per_node is {gpus_per_node}; a node of {name} has {found.gpus_per_node}.")
    return found.group(gpus, gpus_per_node)


def machine(name: str) -> System:
    """A machine named here, or one of nodes of the hardware registry. SettingError for an unknown name lists all."""
    name = RECORDED.get(name, name)
    return SYSTEMS[name] if name in SYSTEMS else system_of(_node(name))


def cards(link_name: str, gpus: int, gpus_per_node: int | None = None) -> Topology:
    """GPUs that a link of the registry joins in a node, such as "pcie4_x16": nobody has measured them here.

    In one node without `gpus_per_node`; nodes have `_between_cards`.
    SettingError for a link that the registry does not have.
    """
    return Topology(gpus, gpus_per_node or gpus, _sold(link_name), _between_cards(), launch_s=LAUNCH_S)


def _node(name: str) -> Node:
    try:
        return node(name)
    except (KeyError, ValueError):
        known = ", ".join([*SYSTEMS, *sorted(NODES)])
        raise SettingError(f"system is {name!r}; it must be one of {known}.") from None


def system_of(box: Node) -> System:
    """By the fits of its generation of NVLink, or by `LINK_EFFICIENCY` where that has none."""
    inside, switch = _INSIDE.get(box.link) or (_sold(box.link), None)
    fabric = _fabric(box) if box.nics else None
    return System(box.title, inside, LAUNCH_S, fabric, switch, gpus_per_node=box.accelerators)
