"""A cluster as a training step meets it: the GPU, the links of a group of ranks, and the parameters of the step model.

Two numbers are a fit, and global: `GEMM_EFFICIENCY` and `ELEMENT_EFFICIENCY`. They make the sum of squared relative
errors least over the nine rows of `megatron.FITTED` (Korthikanti et al., tables 3 and 5: 22B and 175B; Narayanan et
al., table 1: 1.7, 7.5, 39.1, 145.6 and 529.6B), over a grid of 0.01 (`megatron.fit`). Held out: the 530B model of
Korthikanti et al. on 2,240 GPUs, and each model in turn (`tests/predict/test_step_time.py` shows those errors).
The rest has a source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from distlab.predict.collectives import Link, Op, ring_s
from distlab.predict.kernels import Device
from distlab.predict.registry import value


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs. Links are what one GPU sees, one way, as collectives reach it."""

    name: str
    device: Device
    gpus_per_node: int
    inside: Link
    """Between GPUs of a node: bandwidth is the bus bandwidth of an all-reduce."""
    across: Link
    """Between nodes, for each GPU: the node's network bandwidth over its GPUs."""
    price_per_gpu_hour: float | None = None


def collective_s(op: Op, payload_bytes: float, ranks: int, stride: int, cluster: Cluster) -> float:
    """Seconds of a collective over `ranks` GPUs, `stride` apart: the one place that knows the network's model."""
    if ranks == 1 or payload_bytes == 0:
        return 0.0
    return ring_s(op, payload_bytes, ranks, axis_link(ranks, stride, cluster))


def axis_link(ranks: int, stride: int, cluster: Cluster) -> Link:
    """The link that a group of `ranks` GPUs, `stride` apart, has: inside a node where it fits.

    A ring that crosses nodes enters and leaves each by all the network cards of its members there, so that its bus
    bandwidth is theirs together, or the node's own where that is less.
    """
    if ranks * stride <= cluster.gpus_per_node:
        return cluster.inside
    together = max(1, cluster.gpus_per_node // stride)
    bandwidth = min(together * cluster.across.bandwidth_Bps, cluster.inside.bandwidth_Bps)
    return Link(cluster.across.alpha_s, bandwidth)


GEMM_EFFICIENCY = 0.84
"""Of the A100's peak, in a step. Fit. The best single product found reaches 271 of 312 TFLOP/s, 0.87
(bekman_ml_engineering, V)."""

ELEMENT_EFFICIENCY = 0.52
"""Of the datasheet's memory bandwidth, for the kernels of a layer. Fit; it also carries what the count of bytes leaves
out, such as launches and reductions over rows."""

STREAM_EFFICIENCY = 0.88
"""Of the datasheet's memory bandwidth, for plain streams: 1.80 of 2.04 TB/s on A100 (NVIDIA developer forum, thread
339083, 2025, V)."""

NETWORK_EFFICIENCY = 0.91
"""Of the network's datasheet rate, as a ring reaches it: 364.9 of 400 GB/s over 4 nodes (bekman_ml_engineering, V)."""

INSIDE_ALPHA_S = 1.25e-5
"""A step of a ring inside a node: 64 MiB over 8 A100 take 0.675 ms (agrawal2024vidur, V), of which 0.5 are bandwidth;
14 steps share the rest (C)."""

ACROSS_ALPHA_S = 1e-5
"""A step of a ring between nodes (R: 5 to 20 us). At a step's payloads it hardly counts."""

A100 = Device(
    "A100 SXM 80 GB",
    value("a100_bf16_flops"),
    GEMM_EFFICIENCY,
    2.039e12,
    STREAM_EFFICIENCY,
    ELEMENT_EFFICIENCY,
    108,
)
"""2,039 GB/s and 108 multiprocessors: NVIDIA A100 datasheet and whitepaper (S)."""


def device_like_a100(
    name: str,
    peak_flops: float,
    reached_flops: float,
    memory_Bps: float,  # noqa: N803
    multiprocessors: int,
) -> Device:
    """Another GPU, by the A100's fit: products in a step reach the same share of the best product measured on it.

    No training step of such a GPU was used in the fit; its predictions are extrapolations.
    """
    share = GEMM_EFFICIENCY / (271e12 / value("a100_bf16_flops"))
    return replace(
        A100,
        name=name,
        peak_flops=peak_flops,
        gemm_efficiency=min(1.0, share * reached_flops / peak_flops),
        memory_Bps=memory_Bps,
        multiprocessors=multiprocessors,
    )


H100 = device_like_a100(
    "H100 SXM", value("h100_bf16_flops"), value("h100_bf16_flops_reached"), value("h100_memory_Bps"), 132
)

SELENE = Cluster(
    "Selene: DGX A100 80 GB, 8 x HDR",
    A100,
    8,
    Link(INSIDE_ALPHA_S, value("a100x8_all_reduce_Bps")),
    Link(ACROSS_ALPHA_S, NETWORK_EFFICIENCY * value("ib_hdr_Bps")),
)

DGX_H100 = Cluster(
    "DGX H100, 8 x NDR",
    H100,
    8,
    Link(INSIDE_ALPHA_S, value("h200x8_ring_all_reduce_Bps")),
    Link(ACROSS_ALPHA_S, NETWORK_EFFICIENCY * value("ib_ndr_Bps")),
)
"""Inside as measured on 8 H200, which have the same NVLink."""
