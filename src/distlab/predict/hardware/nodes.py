"""Servers and cloud instances: how many accelerators, what joins them inside, and which network leaves the box.

    box = node("dgx_h100")                            # or "p5.48xlarge", "ND96isr_H100_v5"
    box.accelerators, box.link, box.nics, box.nic     # 8, nvswitch3, 8, ib_ndr
    box.network.in_gigabits_per_s                     # 3200, of the node one way
    box.network_per_accelerator.in_gigabytes_per_s    # 50

Counted are the network cards that collectives use, not those for storage and management.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.predict.hardware.accelerators import Accelerator, accelerator
from distlab.predict.hardware.figures import Confidence, Figure, Source, find, table
from distlab.predict.hardware.links import Interconnect, link
from distlab.predict.units import Bandwidth


@dataclass(frozen=True)
class Node:
    """One server. `accelerator`, `link` and `nic` are names of the other tables."""

    name: str
    title: str
    accelerator: str
    accelerators: int
    link: str
    """Between its accelerators."""
    nics: int
    nic: str
    source: Source
    power_W: Figure[float] | None = None  # noqa: N815
    """Of the whole box at most; None where the provider does not say."""
    note: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def chip(self) -> Accelerator:
        return accelerator(self.accelerator)

    @property
    def inside(self) -> Interconnect:
        return link(self.link)

    @property
    def between(self) -> Interconnect:
        return link(self.nic)

    @property
    def network(self) -> Bandwidth:
        """Of all its cards, one way."""
        return self.between.bandwidth.value * self.nics

    @property
    def network_per_accelerator(self) -> Bandwidth:
        return self.network / self.accelerators


def _nvidia(page: str, confidence: Confidence = "V") -> Source:
    return Source("nvidia_dgx_guides", f"https://docs.nvidia.com/{page}", confidence)


_BASEPOD = _nvidia("dgx-basepod/reference-architecture-infrastructure-foundation-enterprise-ai/latest/")
_DGX_A100 = _nvidia("dgx/dgxa100-user-guide/", "S")
_DGX_B200 = _nvidia("dgx/dgxb200-user-guide/")
_DGX_2 = _nvidia("dgx/dgx2-user-guide/", "R")
_DGX_POWER = _nvidia("dgx/dgxh100-user-guide/", "S")
_ML_ENG = Source("bekman_ml_engineering", "https://github.com/stas00/ml-engineering/tree/master/network", "V")
_P4D = Source("aws_efa", "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/", "S")
_P4DE = Source("aws_efa", "https://aws.amazon.com/ec2/instance-types/p4/", "R")
_TORCHX = Source("aws_efa", "https://github.com/meta-pytorch/torchx/pull/1098", "S")
_P6 = Source("aws_efa", "https://aws.amazon.com/ec2/instance-types/p6/", "R")
_GCP = Source("google_gpu_network", "https://cloud.google.com/compute/docs/gpus/gpu-network-bandwidth", "V")
_AZURE = "https://learn.microsoft.com/azure/virtual-machines/sizes/gpu-accelerated/"


def _azure(page: str, confidence: Confidence = "V") -> Source:
    return Source("microsoft_nd_sizes", _AZURE + page, confidence)


_BITS = "the page writes 200 GB/s and 1.6 TB/s where it means bits"

_NODES = [
    Node(
        "dgx_2", "NVIDIA DGX-2", "v100_32gb", 16, "nvswitch1", 8, "ib_edr", _DGX_2, Figure(10_000.0, _DGX_2)
    ),
    Node(
        "dgx_a100_40gb",
        "NVIDIA DGX A100, 320 GB",
        "a100_40gb",
        8,
        "nvswitch2",
        8,
        "ib_hdr",
        _DGX_A100,
        Figure(6500.0, _DGX_A100),
    ),
    Node(
        "dgx_a100",
        "NVIDIA DGX A100, 640 GB",
        "a100_80gb",
        8,
        "nvswitch2",
        8,
        "ib_hdr",
        _DGX_A100,
        Figure(6500.0, _DGX_A100),
        aliases=("hgx_a100", "dgx_a100_80gb"),
    ),
    Node(
        "dgx_h100",
        "NVIDIA DGX H100",
        "h100_sxm",
        8,
        "nvswitch3",
        8,
        "ib_ndr",
        _BASEPOD,
        Figure(10_200.0, _DGX_POWER),
        aliases=("hgx_h100",),
    ),
    Node(
        "dgx_h200",
        "NVIDIA DGX H200",
        "h200",
        8,
        "nvswitch3",
        8,
        "ib_ndr",
        _BASEPOD,
        Figure(10_200.0, _DGX_POWER),
        aliases=("hgx_h200",),
    ),
    Node(
        "dgx_b200",
        "NVIDIA DGX B200",
        "b200",
        8,
        "nvswitch4",
        8,
        "ib_ndr",
        _DGX_B200,
        Figure(14_300.0, _DGX_B200),
        aliases=("hgx_b200",),
    ),
    Node(
        "p4d", "AWS p4d.24xlarge", "a100_40gb", 8, "nvswitch2", 4, "efa_v1", _P4D, aliases=("p4d.24xlarge",)
    ),
    Node(
        "p4de",
        "AWS p4de.24xlarge",
        "a100_80gb",
        8,
        "nvswitch2",
        4,
        "efa_v1",
        _P4DE,
        aliases=("p4de.24xlarge",),
    ),
    Node(
        "p5", "AWS p5.48xlarge", "h100_sxm", 8, "nvswitch3", 32, "efa_v2", _ML_ENG, aliases=("p5.48xlarge",)
    ),
    Node("p5e", "AWS p5e.48xlarge", "h200", 8, "nvswitch3", 32, "efa_v2", _TORCHX, aliases=("p5e.48xlarge",)),
    Node(
        "p5en", "AWS p5en.48xlarge", "h200", 8, "nvswitch3", 16, "efa_v3", _TORCHX, aliases=("p5en.48xlarge",)
    ),
    Node(
        "p6_b200",
        "AWS p6-b200.48xlarge",
        "b200",
        8,
        "nvswitch4",
        8,
        "efa_v4",
        _P6,
        aliases=("p6_b200.48xlarge",),
    ),
    Node(
        "a2_highgpu_8g",
        "Google Cloud a2-highgpu-8g",
        "a100_40gb",
        8,
        "nvswitch2",
        1,
        "ethernet_100",
        _GCP,
        note="TCP; the whole instance has 100 Gb/s",
        aliases=("a2", "a2_high"),
    ),
    Node(
        "a2_ultragpu_8g",
        "Google Cloud a2-ultragpu-8g",
        "a100_80gb",
        8,
        "nvswitch2",
        1,
        "ethernet_100",
        _GCP,
        note="TCP; the whole instance has 100 Gb/s",
        aliases=("a2_ultra",),
    ),
    Node(
        "a3_highgpu_8g",
        "Google Cloud a3-highgpu-8g",
        "h100_sxm",
        8,
        "nvswitch3",
        4,
        "ethernet_200",
        _ML_ENG,
        note="GPUDirect-TCPX; 1,000 Gb/s with the card for everything else",
        aliases=("a3", "a3_high"),
    ),
    Node(
        "a3_megagpu_8g",
        "Google Cloud a3-megagpu-8g",
        "h100_sxm",
        8,
        "nvswitch3",
        8,
        "ethernet_200",
        _GCP,
        note="GPUDirect-TCPXO; 1,800 Gb/s with the card for everything else",
        aliases=("a3_mega",),
    ),
    Node(
        "a3_ultragpu_8g",
        "Google Cloud a3-ultragpu-8g",
        "h200",
        8,
        "nvswitch3",
        8,
        "roce_400",
        _GCP,
        note="3,600 Gb/s with the cards for everything else",
        aliases=("a3_ultra",),
    ),
    Node(
        "a4_highgpu_8g",
        "Google Cloud a4-highgpu-8g",
        "b200",
        8,
        "nvswitch4",
        8,
        "roce_400",
        _GCP,
        note="3,600 Gb/s with the cards for everything else",
        aliases=("a4", "a4_high"),
    ),
    Node(
        "nd96asr_a100_v4",
        "Azure ND96asr_A100_v4",
        "a100_40gb",
        8,
        "nvswitch2",
        8,
        "ib_hdr",
        _azure("ndasra100v4-series"),
        note=_BITS,
        aliases=("nd_a100_v4", "nd96asr_v4"),
    ),
    Node(
        "nd96amsr_a100_v4",
        "Azure ND96amsr_A100_v4",
        "a100_80gb",
        8,
        "nvswitch2",
        8,
        "ib_hdr",
        _azure("ndma100v4-series", "R"),
        aliases=("ndm_a100_v4",),
    ),
    Node(
        "nd96isr_h100_v5",
        "Azure ND96isr_H100_v5",
        "h100_sxm",
        8,
        "nvswitch3",
        8,
        "ib_ndr",
        _azure("ndh100v5-series"),
        aliases=("nd_h100_v5",),
    ),
    Node(
        "nd96isr_h200_v5",
        "Azure ND96isr_H200_v5",
        "h200",
        8,
        "nvswitch3",
        8,
        "ib_ndr",
        _azure("nd-h200-v5-series"),
        aliases=("nd_h200_v5",),
    ),
    Node(
        "nd96isr_mi300x_v5",
        "Azure ND96isr_MI300X_v5",
        "mi300x",
        8,
        "xgmi_mi300x",
        8,
        "ib_ndr",
        _azure("ndmi300xv5-series"),
        aliases=("nd_mi300x_v5",),
    ),
]

NODES = table(_NODES)


def node(name: str) -> Node:
    """The server called so (`dgx_h100`, `p5.48xlarge`, `ND96isr_H100_v5`); SettingError names the nearest."""
    return find(NODES, name, "node")
