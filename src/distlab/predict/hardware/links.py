"""What joins accelerators, hosts and nodes: bytes per second one way, as sold and as reached.

    link("nvlink4").bandwidth.value.in_gigabytes_per_s       # 450, one way, per H100
    link("ib_ndr").bandwidth.value.in_gigabytes_per_s        # 50: 400 Gb/s

Vendors print NVLink both ways added up (900 GB/s for an H100); here it is one way, which is what a collective sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distlab.predict.hardware.figures import Figure, Source, find, table
from distlab.predict.units import Bandwidth

Kind = Literal[
    "pcie", "nvlink", "nvswitch", "infinity_fabric", "ici", "infiniband", "roce", "ethernet", "efa"
]


@dataclass(frozen=True)
class Interconnect:
    """One kind of link. (`collectives.Link` is what a model makes of it, with a latency.)"""

    name: str
    title: str
    kind: Kind
    bandwidth: Figure[Bandwidth]
    """One way, as sold."""
    per: str
    """Of what that is the bandwidth: a GPU (all its links together), a slot, a port."""
    peer: Figure[Bandwidth] | None = None
    """Between two accelerators alone, where that is less than the accelerator's whole bandwidth."""
    reached: Figure[Bandwidth] | None = None
    """Bus bandwidth of a large all-reduce, one way, where it was measured."""
    latency_s: Figure[float] | None = None
    """Of the hardware for one message; what a collective sees (alpha) is several times that: fit it."""
    aliases: tuple[str, ...] = ()


_ML_ENG = Source("bekman_ml_engineering", "https://github.com/stas00/ml-engineering/tree/master/network", "V")
_BENCHMARKS = Source(
    "bekman_ml_engineering",
    "https://github.com/stas00/ml-engineering/tree/master/network/benchmarks",
    "V",
    "2026-11-20",
)
_PCI_SIG = Source("pcisig_specifications", "https://pcisig.com/specifications", "C")
_SCALING = Source("austin2025scaling", "https://jax-ml.github.io/scaling-book/tpus/", "V")
_TPU_V5P = Source("google_tpu", "https://cloud.google.com/tpu/docs/v5p", "V")
_TPU_V5E = Source("google_tpu", "https://cloud.google.com/tpu/docs/v5e", "V")
_DGX_B200 = Source("nvidia_dgx_guides", "https://docs.nvidia.com/dgx/dgxb200-user-guide/", "V")
_HOROVOD = Source("sergeev2018horovod", "https://arxiv.org/abs/1802.05799", "V")
_GCP = Source("google_gpu_network", "https://cloud.google.com/compute/docs/gpus/gpu-network-bandwidth", "V")
_TORCHX = Source("aws_efa", "https://github.com/meta-pytorch/torchx/pull/995", "S")
_EFA_RECALLED = Source("aws_efa", "https://aws.amazon.com/hpc/efa/", "R")


def _sold(gigabytes_per_s: float, source: Source = _ML_ENG, note: str = "") -> Figure[Bandwidth]:
    return Figure(Bandwidth.gigabytes_per_s(gigabytes_per_s), source, note)


def _network(gigabits_per_s: float, source: Source = _ML_ENG, note: str = "") -> Figure[Bandwidth]:
    return Figure(Bandwidth.gigabits_per_s(gigabits_per_s), source, note)


def _by_formula(gigatransfers: float) -> Figure[Bandwidth]:
    return Figure(
        Bandwidth.gigabits_per_s(16 * gigatransfers * 128 / 130),
        _PCI_SIG,
        "16 lanes, 128 of 130 bits carry data",
    )


_SLOT = "slot of 16 lanes"
_PCIE4 = Figure(Bandwidth.gigabytes_per_s(31), _ML_ENG, others=(_by_formula(16),))
_PCIE5 = Figure(Bandwidth.gigabytes_per_s(63), _ML_ENG, others=(_by_formula(32),))

_NVLINK = {generation: _sold(rate) for generation, rate in {1: 80, 2: 150, 3: 300, 4: 450, 5: 900}.items()}
_NVLINK_OF = {1: "P100", 2: "V100", 3: "A100", 4: "H100 or H200", 5: "B200"}

NVSWITCH_REACHED = {
    3: Figure(Bandwidth.gigabytes_per_s(234.9), _BENCHMARKS, "8 A100, NCCL all-reduce"),
    4: Figure(Bandwidth.gigabytes_per_s(367.61), _BENCHMARKS, "8 H200, NCCL all-reduce of 16 GiB, ring"),
    5: Figure(Bandwidth.gigabytes_per_s(838.97), _BENCHMARKS, "8 B200, NCCL all-reduce of 16 GiB"),
}
"""By generation of NVLink."""

NVLS_REACHED = Figure(
    Bandwidth.gigabytes_per_s(482.26),
    _BENCHMARKS,
    "8 H200, NCCL all-reduce of 16 GiB, added up in the switch: above the link's own rate, since each GPU sends less",
)

_LINKS = [
    Interconnect("pcie3_x16", "PCIe 3, 16 lanes, one way", "pcie", _by_formula(8), _SLOT),
    Interconnect("pcie4_x16", "PCIe 4, 16 lanes, one way", "pcie", _PCIE4, _SLOT),
    Interconnect("pcie5_x16", "PCIe 5, 16 lanes, one way", "pcie", _PCIE5, _SLOT),
    Interconnect("pcie6_x16", "PCIe 6, 16 lanes, one way", "pcie", _sold(121), _SLOT),
    *(
        Interconnect(
            f"nvlink{generation}",
            f"NVLink {generation}, one way, per {_NVLINK_OF[generation]}",
            "nvlink",
            bandwidth,
            "GPU",
        )
        for generation, bandwidth in _NVLINK.items()
    ),
    *(
        Interconnect(
            f"nvswitch{generation - 1}",
            f"NVSwitch {generation - 1}, any two of its GPUs at the full rate of NVLink {generation}, one way",
            "nvswitch",
            _NVLINK[generation],
            "GPU",
            reached=NVSWITCH_REACHED.get(generation),
        )
        for generation in (2, 3, 4, 5)
    ),
    Interconnect(
        "xgmi_mi300x",
        "Infinity Fabric of 8 MI300X, one way, to the seven others together",
        "infinity_fabric",
        _sold(448),
        "GPU",
        peer=_sold(64, note="one of seven links"),
        reached=_sold(312.912, note="8 MI300X, RCCL all-reduce of 4 GB; two of them alone reach 47.671"),
    ),
    Interconnect(
        "ici_v4",
        "ICI of TPU v4, one way, six links of a 3D torus",
        "ici",
        _sold(6 * 45, _SCALING),
        "chip",
        peer=_sold(45, _SCALING),
    ),
    Interconnect(
        "ici_v5e",
        "ICI of TPU v5e, one way, four links of a 2D torus",
        "ici",
        _sold(200, _TPU_V5E, "400 GB/s both ways"),
        "chip",
        peer=_sold(50, _SCALING),
    ),
    Interconnect(
        "ici_v5p",
        "ICI of TPU v5p, one way, six links of a 3D torus",
        "ici",
        _network(4800, _TPU_V5P),
        "chip",
        peer=_sold(100, _SCALING),
    ),
    Interconnect(
        "ib_edr",
        "InfiniBand EDR, 4 lanes, one way",
        "infiniband",
        _network(100),
        "port",
        latency_s=Figure(0.5e-6, _ML_ENG),
    ),
    Interconnect(
        "ib_hdr",
        "InfiniBand HDR, 4 lanes, one way",
        "infiniband",
        _network(200),
        "port",
        latency_s=Figure(0.6e-6, _ML_ENG),
    ),
    Interconnect(
        "ib_ndr",
        "InfiniBand NDR, 4 lanes, one way",
        "infiniband",
        _network(400),
        "port",
    ),
    Interconnect(
        "ib_xdr",
        "InfiniBand XDR, 4 lanes, one way",
        "infiniband",
        _network(800),
        "port",
    ),
    Interconnect("roce_25", "RoCE over 25 Gb/s Ethernet, one way", "roce", _network(25, _HOROVOD), "port"),
    *(
        Interconnect(
            f"roce_{rate}",
            f"RoCE over {rate} Gb/s Ethernet, one way",
            "roce",
            _network(rate, _DGX_B200, "rates of the adapter's Ethernet ports"),
            "port",
        )
        for rate in (100, 200, 400)
    ),
    *(
        Interconnect(
            f"ethernet_{rate}",
            f"TCP over {rate} Gb/s Ethernet, one way",
            "ethernet",
            _network(rate, source),
            "card",
        )
        for rate, source in ((100, _GCP), (200, _ML_ENG))
    ),
    Interconnect(
        "efa_v1",
        "EFA v1 (P4), one way",
        "efa",
        _network(100),
        "adapter",
        reached=_network(85, note="340 Gb/s of four adapters, all-reduce"),
    ),
    Interconnect("efa_v2", "EFA v2 (P5), one way", "efa", _network(100), "adapter"),
    Interconnect(
        "efa_v3",
        "EFA v3 (P5en), one way",
        "efa",
        _network(200, _TORCHX, "16 adapters, 3,200 Gb/s together"),
        "adapter",
    ),
    Interconnect("efa_v4", "EFA v4 (P6), one way", "efa", _network(400, _EFA_RECALLED), "adapter"),
]

LINKS = table(_LINKS)


def link(name: str) -> Interconnect:
    """The link of that name (`nvlink4`, `ib_ndr`); SettingError names the nearest."""
    return find(LINKS, name, "link")
