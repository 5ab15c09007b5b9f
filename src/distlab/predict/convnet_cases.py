"""Convolutional networks on machines that were measured: GPUs, networks, published throughputs and scaling.

    for case in CASES: print(case.name, case.fitted, case.predict(), case.measured)
    convnet_cluster("horovod_roce")                   # also horovod_tcp, big_basin, and nodes of the hardware registry

Four parameters are fits, and global:

  P100, TENSORFLOW    gemm_efficiency and layer_s: images per second of one P100 in a DGX-1, four networks, batches
                      of 32 and 64: least squares of the relative error
  SPREAD              scaling of Inception V3 and ResNet-101 on 16 GPUs over RoCE
  TCP_EFFICIENCY      scaling of all three networks on the same 16 GPUs over TCP

Held out: one GPU of Horovod's machines (that these are P100 PCIe was chosen with its throughput in view), VGG-16 over
RoCE, all of 128 and 512 GPUs, Goyal et al., and A100 and V100 in 16 bits with another framework. RoCE's efficiency is
`network.systems`', from other machines. The README does not say which batch was used for 128 and 512 GPUs: its command
has 64, as the table for 16 GPUs; its authors once wrote 32 (horovod issue 425).

What falls short: VGG-16 on 512 GPUs, where the network carried less than on 128 (the model knows no congestion), and
ResNet-101 over TCP, whose reductions the model hides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal

from distlab.predict.cluster import device_of
from distlab.predict.convnet_layers import Library
from distlab.predict.convnet_step import DDP, ConvnetCluster, convnet_step
from distlab.predict.convnets import Convnet, convnet
from distlab.predict.device import Device
from distlab.predict.hardware import NODES, accelerator, node
from distlab.predict.hardware.figures import Confidence
from distlab.predict.network import Fabric, NodeLink, Topology, system
from distlab.predict.network.systems import FABRIC_EFFICIENCY, FABRIC_HOP_S, LAUNCH_S, cards
from distlab.predict.registry import value

if TYPE_CHECKING:
    from distlab.predict.validation import Scored

_P100 = accelerator("p100")

P100 = Device(
    _P100.title,
    _P100.peak("fp32").flop_per_s,
    gemm_efficiency=0.81,
    memory_Bps=_P100.memory_bandwidth.value.bytes_per_s,
    stream_efficiency=0.75,
    element_efficiency=0.75,
    multiprocessors=56,
    memory_bytes=_P100.usable.value.bytes,
)
"""gemm_efficiency is a fit. 0.75 of the memory's rate is what plain streams reach on a P100 (BabelStream, about 550 of
732 GB/s: R), and stands for element-wise kernels, too; the fit hardly depends on it. 56 multiprocessors: NVIDIA's white
paper on it (2016, R)."""

P100_PCIE = replace(
    P100, name="NVIDIA P100 PCIe, 16 GB", peak_flops=_P100.peaks["fp32"].others[0].value.flop_per_s
)

TENSORFLOW = Library(layer_s=6.2e-4)
"""TensorFlow 1, cuDNN 5 to 7, in 32 bits. layer_s is a fit."""

SPREAD = 0.044
"""Standard deviation of a step's compute over ranks. Fit; it carries what else costs with the second GPU."""

TCP_EFFICIENCY = 0.60
"""Share of 25 Gb/s that NCCL reaches over sockets. Fit."""


@dataclass(frozen=True)
class _Ethernet:
    """Nodes of GPUs with one network card each; NCCL before 2.4, which has rings alone."""

    inside: str
    """In `hardware.links`."""
    gpus_per_node: int
    gigabits_per_s: float
    efficiency: float

    def __call__(self, gpus: int, gpus_per_node: int) -> Topology:
        return Topology(gpus, gpus_per_node, _inside(self.inside), self._fabric, launch_s=LAUNCH_S)

    @cached_property
    def _fabric(self) -> Fabric:
        return Fabric(
            f"{self.gigabits_per_s:g} Gb/s Ethernet",
            self.gigabits_per_s * 1e9 / 8,
            1,
            self.gpus_per_node,
            FABRIC_HOP_S,
            self.efficiency,
            algorithms=("ring",),
        )


@cache
def _inside(name: str) -> NodeLink:
    return cards(name, 2).inside


HOROVOD_ROCE = ConvnetCluster(
    "servers of 4 Pascal GPUs, 25 Gb/s RoCE",
    P100_PCIE,
    TENSORFLOW,
    4,
    _Ethernet("pcie3_x16", 4, 25, FABRIC_EFFICIENCY),
    spread=SPREAD,
)
"""Which Pascal GPUs they had the sources do not say. P100 PCIe is taken: with the SXM2 card's clock the throughput of
one GPU comes out 8 to 14% too high."""

HOROVOD_TCP = replace(
    HOROVOD_ROCE,
    name="servers of 4 Pascal GPUs, 25 Gb/s TCP",
    topology=_Ethernet("pcie3_x16", 4, 25, TCP_EFFICIENCY),
)

BIG_BASIN = replace(
    HOROVOD_ROCE,
    device=P100,
    name="Big Basin: 8 P100, 50 Gb/s Ethernet",
    gpus_per_node=8,
    topology=_Ethernet("nvlink1", 8, 50, TCP_EFFICIENCY),
)
"""Goyal et al., section 4."""

CLUSTERS = {"horovod_roce": HOROVOD_ROCE, "horovod_tcp": HOROVOD_TCP, "big_basin": BIG_BASIN}


def convnet_cluster(name: str) -> ConvnetCluster:
    """One of `CLUSTERS`, or nodes of the hardware registry. SettingError names the nearest.

    Of registry nodes no training was used in a fit: the GPU is taken to reach the P100's shares of its own datasheet,
    in 16 bits where it has matrix units (without Winograd's algorithm), with DDP and no cost by layer.
    """
    plain = name.lower().replace("-", "_")
    if plain in CLUSTERS:
        return CLUSTERS[plain]
    return _of_node(node(name).name)


@cache
def _of_node(name: str) -> ConvnetCluster:
    box = NODES[name]
    chip = box.chip
    half = next((chip.peaks[dtype] for dtype in ("bf16", "fp16") if dtype in chip.peaks), None)
    peak = chip.peak("fp32") if half is None else half.value
    device = replace(
        device_of(chip),
        peak_flops=peak.flop_per_s,
        gemm_efficiency=P100.gemm_efficiency,
        memory_Bps=chip.memory_bandwidth.value.bytes_per_s,
        stream_efficiency=P100.stream_efficiency,
        element_efficiency=P100.element_efficiency,
    )
    return ConvnetCluster(
        box.title,
        device,
        Library(0.0, value_bytes=4 if half is None else 2, winograd=half is None),
        box.accelerators,
        lambda gpus, each: system(name, gpus, each),
        DDP,
        SPREAD,
        (
            f"no convolutional network on {chip.title} was fitted: it takes the P100's shares of its own datasheet",
        ),
    )


# Published.

Unit = Literal["images_per_s", "efficiency"]


@dataclass(frozen=True)
class Case:
    """One published figure."""

    name: str
    model: str
    batch: int
    gpus: int
    cluster: ConvnetCluster
    unit: Unit
    measured: float
    source: str
    confidence: Confidence
    fitted: bool = False
    against: int = 1
    """GPUs that efficiency is relative to."""

    def predict(self) -> float:
        """In the unit of what was measured."""
        net = convnet(self.model)
        step = convnet_step(net, self.batch, self.gpus, self.cluster)
        if self.unit == "images_per_s":
            return step.images_per_s
        return step.efficiency / convnet_step(net, self.batch, self.against, self.cluster).efficiency

    @property
    def signed_error(self) -> float:
        """(predicted - measured) / measured."""
        return self.predict() / self.measured - 1


_TF = "tensorflow.org, Benchmarks, May 2017: NVIDIA DGX-1, synthetic data"
_TF_ONE = {  # network: images per second with batches of 64 and of 32
    "inception_v3": (142, 128),
    "resnet50": (219, 195),
    "resnet152": (91.8, 82.7),
    "vgg16": (154, 144),
}
_TABLE = "horovod pull request 44, 2017: the table that it takes out of the README"
_ONE = {"inception_v3": 134.4, "resnet101": 119.4, "vgg16": 130.9}
_SIXTEEN = {  # images per second over RoCE and over TCP
    "inception_v3": (2022.6, 1990.7),
    "resnet101": (1746.2, 1685.1),
    "vgg16": (1787.4, 1308.7),
}
_README = "horovod, README and docs/benchmarks.md: 32 servers until 2018, then 128"
_LARGE = {  # efficiency on 128 and 512 GPUs
    "inception_v3": (0.90, 0.90),
    "resnet101": (0.90, value("horovod_resnet101_efficiency")),
    "vgg16": (0.79, value("horovod_vgg16_efficiency")),
}
_NVIDIA = (
    "NVIDIA/DeepLearningExamples, PyTorch, ResNet-50 v1.5: mixed precision (V), 256 images (config.yml, R)"
)
_ONE_OF_NODE = {"dgx_a100": 2470, "dgx_2": 1156}
"""Images per second of one GPU of such a node, with PyTorch 21.03. (Of eight the README's figures wait for images: the
longer steps of TF32 scale to 97%, those of mixed precision to 84%.)"""
_PAPER = "Sergeev and Del Balso, Horovod, 2018 (arXiv 1802.05799), section 8"


def _cases() -> Iterable[Case]:
    alone = replace(BIG_BASIN, name="one P100")
    for model, rates in _TF_ONE.items():
        for batch, rate in zip((64, 32), rates, strict=True):
            name = f"{model} on one P100, batch {batch}"
            yield Case(name, model, batch, 1, alone, "images_per_s", rate, _TF, "V", fitted=True)
    for model, rate in _ONE.items():
        yield Case(
            f"{model} on one Pascal GPU", model, 64, 1, HOROVOD_ROCE, "images_per_s", rate, _TABLE, "V"
        )
    for box, rate in _ONE_OF_NODE.items():
        cluster = convnet_cluster(box)
        name = f"resnet50 on one {cluster.device.name}, 16 bits"
        yield Case(name, "resnet50", 256, 1, cluster, "images_per_s", rate, _NVIDIA, "V")
    for model, rates in _SIXTEEN.items():
        for cluster, way, rate in zip((HOROVOD_ROCE, HOROVOD_TCP), ("RoCE", "TCP"), rates, strict=True):
            efficiency = rate / (16 * _ONE[model])
            used = way == "TCP" or model != "vgg16"
            yield Case(
                f"{model} on 16 GPUs, {way}",
                model,
                64,
                16,
                cluster,
                "efficiency",
                efficiency,
                _TABLE,
                "V",
                used,
            )
    for model, shares in _LARGE.items():
        for gpus, share in zip((128, 512), shares, strict=True):
            yield Case(
                f"{model} on {gpus} GPUs, RoCE",
                model,
                64,
                gpus,
                HOROVOD_ROCE,
                "efficiency",
                share,
                _README,
                "V",
            )
    for model in ("inception_v3", "resnet101"):
        yield Case(f"{model} on 128 GPUs, TCP", model, 64, 128, HOROVOD_TCP, "efficiency", 0.88, _PAPER, "S")
    vgg = _LARGE["vgg16"][0] / 1.3
    paper = f"{_PAPER}: RDMA makes VGG-16 30% faster (S)"
    yield Case("vgg16 on 128 GPUs, TCP", "vgg16", 64, 128, HOROVOD_TCP, "efficiency", vgg, paper, "C")
    goyal = "Goyal et al., 2017 (arXiv 1706.02677), abstract"
    yield Case(
        "resnet50 on 256 GPUs over 8",
        "resnet50",
        32,
        256,
        BIG_BASIN,
        "efficiency",
        0.90,
        goyal,
        "V",
        against=8,
    )


CASES: tuple[Case, ...] = tuple(_cases())


def published_efficiency(net: Convnet, cluster: str, batch: int) -> list[tuple[int, float]]:
    """(GPUs, efficiency against one) that somebody published of the same network, cluster and batch."""
    there = CLUSTERS.get(cluster.lower().replace("-", "_"))
    return sorted(
        (case.gpus, case.measured)
        for case in CASES
        if case.unit == "efficiency" and case.against == 1 and case.batch == batch
        if case.cluster is there and convnet(case.model) is net
    )


def cnn_cases() -> list[Scored]:
    """Every case as a row of the scorecard."""
    from distlab.predict.validation import Scored  # which may import this module

    return [
        Scored(f"convnet_{case.unit}", case.name, case.predict(), case.measured, "step", case.fitted)
        for case in CASES
    ]


def best(values: Iterable[float], cases: Iterable[Case], change: Callable[[Case, float], Case]) -> float:
    """The value of a parameter with the least squares of relative errors over the cases, once `change` has set it."""
    chosen = tuple(cases)
    return min(values, key=lambda value: sum(change(case, value).signed_error ** 2 for case in chosen))
