"""A cluster as a training step meets it: the GPU, the network of a group of ranks, and the step model's constants.

    cluster("dgx_h100")                   # any node of the hardware registry: "p5.48xlarge", "dgx_b200", ...
    cluster_of(node("dgx_h200"))          # .extrapolated says what of it nobody has measured
    collective_s("all_reduce", 64 * MIB, ranks=16, stride=8, cluster=SELENE)

Two numbers are a fit, and global: `GEMM_EFFICIENCY` and `ELEMENT_EFFICIENCY`. They make the sum of squared relative
errors least over the nine rows of `megatron.FITTED` (Korthikanti et al., tables 3 and 5: 22B and 175B; Narayanan et
al., table 1: 1.7, 7.5, 39.1, 145.6 and 529.6B), over a grid of 0.01 (`megatron.fit`), with the network of
`distlab.predict.network` as it is: its own fits are of collectives alone. Held out: the 530B model of Korthikanti et
al. on 2,240 GPUs, and each model in turn (`tests/predict/test_step_time.py` shows those errors). The rest has a source.

Datasheet peaks (`Device.peak_flops`, `memory_Bps`) and what is reached of them (`*_efficiency`) are apart; so are the
links' rates and what collectives reach (`network.systems`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from distlab.errors import SettingError
from distlab.predict.collectives import Op
from distlab.predict.device import Device
from distlab.predict.hardware.accelerators import ACCELERATORS, Accelerator, accelerator
from distlab.predict.hardware.nodes import Node, node
from distlab.predict.network import System, Topology, Way, system_of, ways_of
from distlab.predict.network.systems import between_unmeasured, inside_unmeasured


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs, as many as a layout asks for."""

    name: str
    device: Device
    network: System
    price_per_gpu_hour: float | None = None
    extrapolated: tuple[str, ...] = ()
    """What no measurement stands behind, in sentences."""

    @property
    def gpus_per_node(self) -> int:
        return self.network.gpus_per_node

    def group(self, ranks: int, stride: int) -> Topology:
        """What `ranks` GPUs, `stride` apart, see of the network while all other GPUs are in groups like it.

        A group that fits into a node is inside one. One that does not has a GPU every `stride` in each node, and of
        the node's network cards the share of its GPUs. Where they do not come out even (12 GPUs on nodes of 8), as
        many in each node as do: nodes are then more, and emptier, than they would be. SettingError where there is no
        network between nodes.
        """
        if ranks * stride <= self.gpus_per_node:
            return self.network.group(ranks, ranks)
        fabric = self.network.fabric
        if fabric is None:
            raise SettingError(
                f"{self.name} has no network between nodes; {ranks} ranks, {stride} apart, need one: a node has "
                f"{self.gpus_per_node} GPUs."
            )
        together = math.gcd(ranks, max(1, self.gpus_per_node // stride))
        return replace(self.network, fabric=replace(fabric, shared=True)).group(ranks, together)

    @cached_property
    def _ways(self) -> dict[tuple[Op, int, int], tuple[Way, ...]]:
        return {}

    def ways(self, op: Op, ranks: int, stride: int) -> tuple[Way, ...]:
        """How a group may do a collective: remembered, for a search asks for few groups very often."""
        key = (op, ranks, stride)
        found = self._ways.get(key)
        if found is None:
            found = self._ways[key] = ways_of(op, self.group(ranks, stride))
        return found


def collective_s(op: Op, payload_bytes: float, ranks: int, stride: int, cluster: Cluster) -> float:
    """Seconds of a collective over `ranks` GPUs, `stride` apart: `network.predict_collective` on the group's topology.

    The one place that knows the network's model for a training step.
    """
    if ranks == 1 or payload_bytes == 0:
        return 0.0
    return min([way.seconds(payload_bytes) for way in cluster.ways(op, ranks, stride)])


GEMM_EFFICIENCY = 0.84
"""Of the A100's peak, in a step. Fit. The best single product found reaches 271 of 312 TFLOP/s, 0.87
(bekman_ml_engineering, V)."""

ELEMENT_EFFICIENCY = 0.54
"""Of the datasheet's memory bandwidth, for the kernels of a layer. Fit; it also carries what the count of bytes leaves
out, such as launches and reductions over rows."""

STREAM_EFFICIENCY = 0.88
"""Of the datasheet's memory bandwidth, for plain streams: 1.80 of 2.04 TB/s on A100 (NVIDIA developer forum, thread
339083, 2025, V)."""


def device_of(chip: Accelerator) -> Device:
    """A GPU of the registry, by the A100's fit: products in a step reach the same share of the best product measured.

    Where no product was measured, the same share of the peak as on the A100. No training step of another GPU than the
    A100 was used in the fit: their predictions are extrapolations, and upper ends, for newer GPUs slow down under load
    more than in a benchmark of one product (`tests/predict/test_step_time.py` shows Llama 3 on H100).

    SettingError for one of which the registry lacks the multiprocessors.
    """
    if chip.multiprocessors is None:
        known = ", ".join(other.name for other in ACCELERATORS.values() if other.multiprocessors)
        raise SettingError(
            f"accelerator is {chip.name!r}, of which the registry lacks the multiprocessors; it has those of {known}."
        )
    dtype = _half(chip)
    fitted = accelerator("a100_80gb")
    peak = chip.peak(dtype).flop_per_s
    share = GEMM_EFFICIENCY
    if dtype in chip.reached and chip is not fitted:
        of_best = share * fitted.peak("bf16").flop_per_s / fitted.reached["bf16"].value.flop_per_s
        share = min(1.0, of_best * chip.reached[dtype].value.flop_per_s / peak)
    bandwidth = chip.memory_bandwidth
    # The fit was made with what deviceQuery shows, 2,039 GB/s; the registry's own value is rounded.
    memory_Bps = (bandwidth.others[0] if chip is fitted else bandwidth).value.bytes_per_s  # noqa: N806 - the unit
    reached = chip.memory_bandwidth_reached
    return Device(
        chip.title,
        peak,
        share,
        memory_Bps,
        STREAM_EFFICIENCY if reached is None else reached.value.bytes_per_s / memory_Bps,
        ELEMENT_EFFICIENCY,
        chip.multiprocessors.value,
        chip.usable.value.bytes,
    )


def _half(chip: Accelerator) -> Literal["bf16", "fp16"]:
    return "bf16" if "bf16" in chip.peaks else "fp16"


def cluster_of(box: Node, price_per_gpu_hour: float | None = None) -> Cluster:
    """Nodes of the registry as a cluster, with what of it is extrapolated."""
    network = system_of(box)
    return Cluster(box.title, device_of(box.chip), network, price_per_gpu_hour, tuple(_extrapolated(box)))


def _extrapolated(box: Node) -> Iterator[str]:
    chip = box.chip
    if chip.name != "a100_80gb":
        best = "the best product measured on it" if _half(chip) in chip.reached else "its peak"
        yield f"no step on {chip.title} was fitted: its products reach the A100's share of {best}"
    if inside := inside_unmeasured(box):
        yield inside
    yield from between_unmeasured(box)


def cluster(name: str, price_per_gpu_hour: float | None = None) -> Cluster:
    """Nodes of the registry by name or alias; SettingError names the nearest."""
    return cluster_of(node(name), price_per_gpu_hour)


SELENE = cluster("dgx_a100")
"""On which the Megatron papers measured: DGX A100 80 GB, 8 x HDR."""

DGX_H100 = cluster("dgx_h100")
