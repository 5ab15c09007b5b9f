"""Constants with their sources: what hardware can do, and what others measured on it.

A number that the book prints comes from here, from code that ran, or from a recording. `source` is a key of
`book/references.bib`. Confidence: V the source or an excerpt of it was read, S a secondary page, C computed
here from other rows, R recalled. Everything is in SI units (bytes, seconds, FLOP, bytes per second); rates
that are sold in Gb/s are converted here, once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from distlab.predict.units import MIB, bytes_per_s

Confidence = Literal["V", "S", "C", "R"]


@dataclass(frozen=True)
class Constant:
    """A number, what it means, and who says so. `checked` is the day on which the source was looked at."""

    name: str
    value: float
    unit: str
    meaning: str
    source: str
    checked: str
    confidence: Confidence


_ML_ENG = "bekman_ml_engineering"

_CONSTANTS = [
    # Links, one way, per GPU or per slot.
    Constant("nvlink3_Bps", 300e9, "B/s", "NVLink 3, one way, per A100", _ML_ENG, "2026-11-20", "V"),
    Constant("nvlink4_Bps", 450e9, "B/s", "NVLink 4, one way, per H100 or H200", _ML_ENG, "2026-11-20", "V"),
    Constant("nvlink5_Bps", 900e9, "B/s", "NVLink 5, one way, per B200", _ML_ENG, "2026-11-20", "V"),
    Constant("pcie4_x16_Bps", 31e9, "B/s", "PCIe 4, 16 lanes, one way", _ML_ENG, "2026-11-20", "V"),
    Constant("pcie5_x16_Bps", 63e9, "B/s", "PCIe 5, 16 lanes, one way", _ML_ENG, "2026-11-20", "V"),
    Constant(
        "ib_hdr_Bps", bytes_per_s(200), "B/s", "InfiniBand HDR, 4 lanes, one way", _ML_ENG, "2026-11-20", "V"
    ),
    Constant(
        "ib_ndr_Bps", bytes_per_s(400), "B/s", "InfiniBand NDR, 4 lanes, one way", _ML_ENG, "2026-11-20", "V"
    ),
    # Compute.
    Constant("a100_bf16_flops", 312e12, "FLOP/s", "A100, dense BF16, datasheet", _ML_ENG, "2026-11-20", "V"),
    Constant(
        "h100_bf16_flops", 989e12, "FLOP/s", "H100 SXM, dense BF16, datasheet", _ML_ENG, "2026-11-20", "V"
    ),
    Constant(
        "h100_bf16_flops_reached",
        794.5e12,
        "FLOP/s",
        "H100 SXM, best BF16 product found",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    # Measured collectives, bus bandwidth.
    Constant(
        "a100x8_all_reduce_Bps",
        234.9e9,
        "B/s",
        "8 A100, NCCL all-reduce, bus bandwidth",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    Constant(
        "h200x8_ring_all_reduce_Bps",
        367.61e9,
        "B/s",
        "8 H200, NCCL all-reduce of 16 GiB, in-switch reduction off, bus bandwidth",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    Constant(
        "h200x8_nvls_all_reduce_Bps",
        482.26e9,
        "B/s",
        "8 H200, NCCL all-reduce of 16 GiB, NVLS, bus bandwidth",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    Constant(
        "b200x8_all_reduce_Bps",
        838.97e9,
        "B/s",
        "8 B200, one node, 16 GiB, bus bandwidth",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    Constant(
        "b200x32_all_reduce_Bps",
        376.71e9,
        "B/s",
        "32 B200 on 4 nodes, 16 GiB, bus bandwidth",
        _ML_ENG,
        "2026-11-20",
        "V",
    ),
    # Scaling that others report.
    Constant(
        "horovod_resnet101_efficiency",
        0.90,
        "1",
        "ResNet-101 on 512 Pascal GPUs, 25 Gb/s RoCE, against 512 times one GPU",
        "sergeev2018horovod",
        "2026-11-20",
        "V",
    ),
    Constant(
        "horovod_vgg16_efficiency",
        0.68,
        "1",
        "VGG-16 on 512 Pascal GPUs, 25 Gb/s RoCE, against 512 times one GPU",
        "sergeev2018horovod",
        "2026-11-20",
        "V",
    ),
    Constant(
        "pipeline_across_nodes_loss",
        0.14,
        "1",
        "throughput lost when pipeline parallelism crosses nodes",
        "ultrascale2025",
        "2026-11-20",
        "V",
    ),
    Constant(
        "tensor_across_nodes_loss",
        0.43,
        "1",
        "throughput lost when tensor parallelism crosses nodes",
        "ultrascale2025",
        "2026-11-20",
        "V",
    ),
    # Failures of a large job.
    Constant(
        "llama3_unexpected_interruptions",
        419,
        "1",
        "unexpected interruptions in 54 days of Llama 3 405B",
        "grattafiori2024llama3",
        "2026-11-20",
        "S",
    ),
    Constant(
        "llama3_snapshot_s", 54 * 86400, "s", "that snapshot", "grattafiori2024llama3", "2026-11-20", "S"
    ),
    Constant("llama3_gpus", 16384, "1", "H100 GPUs in that job", "grattafiori2024llama3", "2026-11-20", "S"),
    # PyTorch defaults.
    Constant(
        "ddp_bucket_bytes",
        25 * MIB,
        "B",
        "DistributedDataParallel, bucket_cap_mb",
        "pytorch_ddp",
        "2026-11-20",
        "V",
    ),
    Constant(
        "ddp_first_bucket_bytes",
        1 * MIB,
        "B",
        "DistributedDataParallel, first bucket",
        "pytorch_ddp",
        "2026-11-20",
        "V",
    ),
]

_DATASHEETS = {
    "a100": ("A100 SXM, 80 GB", {"fp32": 19.5, "tf32": 156, "int8": 624, "memory": 2.0}),
    "h100": ("H100 SXM", {"fp32": 67, "tf32": 494.5, "fp8": 1979, "int8": 1979, "memory": 3.35}),
    "h200": ("H200 SXM", {"fp32": 67, "tf32": 494.5, "bf16": 989, "fp8": 1979, "int8": 1979, "memory": 4.8}),
    "b200": ("B200 SXM", {"fp32": 80, "tf32": 1125, "bf16": 2250, "fp8": 4500, "int8": 4500, "memory": 8.0}),
}
"""Dense TFLOP/s (TOP/s of int8) and TB/s; of A100 and H100 bf16 stands above."""


def _datasheet(short: str, chip: str, what: str, tera: float) -> Constant:
    name, unit, meaning = (
        ("memory_Bps", "B/s", "memory bandwidth")
        if what == "memory"
        else (f"{what}_flops", "FLOP/s", f"dense {what} products (int8: operations)")
    )
    return Constant(
        f"{short}_{name}", tera * 1e12, unit, f"{chip}, {meaning}, datasheet", _ML_ENG, "2026-11-29", "V"
    )


_CONSTANTS += [
    _datasheet(short, chip, what, tera)
    for short, (chip, row) in _DATASHEETS.items()
    for what, tera in row.items()
]

REGISTRY = MappingProxyType({constant.name: constant for constant in _CONSTANTS})


def constant(name: str) -> Constant:
    """The constant of that name; an unknown name raises KeyError and names the nearest."""
    try:
        return REGISTRY[name]
    except KeyError:
        near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0)
        raise KeyError(f"no constant {name!r} in the registry; the nearest is {near[0]!r}") from None


def value(name: str) -> float:
    """The number alone, in the unit that the registry gives."""
    return constant(name).value
