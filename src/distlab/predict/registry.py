"""Constants with their sources: what hardware can do, and what others measured on it.

A number that the book prints comes from here, from code that ran, or from a recording. `source` is a key of
`book/references.bib`. Confidence: V the source or an excerpt of it was read, S a secondary page, C computed
here from other rows, R recalled. Everything is in SI units (bytes, seconds, FLOP, bytes per second); rates
that are sold in Gb/s are converted once, where they are written down.

What hardware can do stands in `distlab.predict.hardware`, with what other sources say; here it has a name
(`h100_bf16_flops`, `nvlink4_Bps`) and a plain number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from distlab.predict.failures import LLAMA3_DAYS, LLAMA3_GPUS, LLAMA3_INTERRUPTIONS
from distlab.predict.hardware.accelerators import ACCELERATORS, Accelerator
from distlab.predict.hardware.figures import Confidence, Figure
from distlab.predict.hardware.links import LINKS, NVLS_REACHED, NVSWITCH_REACHED
from distlab.predict.units import DAY_S, MIB, Bandwidth, ComputeRate, Size


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


def _constant(
    name: str, figure: Figure[Bandwidth] | Figure[ComputeRate] | Figure[Size], meaning: str
) -> Constant:
    """A figure of the hardware registry as a plain number."""
    match figure.value:
        case Bandwidth():
            value, unit = figure.value.bytes_per_s, "B/s"
        case ComputeRate():
            value, unit = figure.value.flop_per_s, "FLOP/s"
        case Size():
            value, unit = figure.value.bytes, "B"
    return Constant(
        name, value, unit, meaning, figure.source.key, figure.source.checked, figure.source.confidence
    )


def _of_accelerator(chip: Accelerator) -> Iterator[Constant]:
    """By its shortest name: `h100_bf16_flops`, `h100_bf16_flops_reached`, `h100_memory_Bps`, `h100_memory_bytes`."""
    short = min((chip.name, *chip.aliases), key=len)
    for dtype, figure in chip.peaks.items():
        what = "int8 operations" if dtype == "int8" else f"{dtype} products"
        yield _constant(f"{short}_{dtype}_flops", figure, f"{chip.title}, dense {what}, datasheet")
    for dtype, figure in chip.reached.items():
        yield _constant(f"{short}_{dtype}_flops_reached", figure, f"{chip.title}, best {dtype} product found")
    yield _constant(
        f"{short}_memory_Bps", chip.memory_bandwidth, f"{chip.title}, memory bandwidth, datasheet"
    )
    yield _constant(f"{short}_memory_bytes", chip.memory, f"{chip.title}, memory")
    if chip.memory_usable:
        what = f"{chip.title}, memory that programs can have"
        yield _constant(f"{short}_memory_usable_bytes", chip.memory_usable, what)


_CONSTANTS = [
    # Links, one way: per GPU, per slot or per port.
    *(_constant(f"{link.name}_Bps", link.bandwidth, link.title) for link in LINKS.values()),
    *(constant for chip in ACCELERATORS.values() for constant in _of_accelerator(chip)),
    # Measured collectives, bus bandwidth.
    _constant("a100x8_all_reduce_Bps", NVSWITCH_REACHED[3], "8 A100, NCCL all-reduce, bus bandwidth"),
    _constant(
        "h200x8_ring_all_reduce_Bps",
        NVSWITCH_REACHED[4],
        "8 H200, NCCL all-reduce of 16 GiB, in-switch reduction off, bus bandwidth",
    ),
    _constant(
        "h200x8_nvls_all_reduce_Bps", NVLS_REACHED, "8 H200, NCCL all-reduce of 16 GiB, NVLS, bus bandwidth"
    ),
    _constant("b200x8_all_reduce_Bps", NVSWITCH_REACHED[5], "8 B200, one node, 16 GiB, bus bandwidth"),
    Constant(
        "b200x32_all_reduce_Bps",
        376.71e9,
        "B/s",
        "32 B200 on 4 nodes, 16 GiB, bus bandwidth",
        "bekman_ml_engineering",
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
    # Training runs that others report.
    Constant(
        "megatron_gpt175_96_mfu",
        0.47,
        "1",
        "GPT of 175e9 parameters, 1,152 samples a step, Megatron-Core on 96 H100",
        "megatron_readme",
        "2026-11-30",
        "V",
    ),
    Constant(
        "megatron_gpt175_4608_mfu",
        0.42,
        "1",
        "the same on 4,608 H100",
        "megatron_readme",
        "2026-11-30",
        "V",
    ),
    Constant(
        "llama3_405b_tokens",
        15.6e12,
        "1",
        "tokens that Llama 3 405B was trained on",
        "grattafiori2024llama3",
        "2026-11-30",
        "S",
    ),
    # Failures of a large job.
    Constant(
        "llama3_unexpected_interruptions",
        LLAMA3_INTERRUPTIONS,
        "1",
        "unexpected interruptions in 54 days of Llama 3 405B",
        "grattafiori2024llama3",
        "2026-11-20",
        "S",
    ),
    Constant(
        "llama3_snapshot_s",
        LLAMA3_DAYS * DAY_S,
        "s",
        "that snapshot",
        "grattafiori2024llama3",
        "2026-11-20",
        "S",
    ),
    Constant(
        "llama3_gpus", LLAMA3_GPUS, "1", "H100 GPUs in that job", "grattafiori2024llama3", "2026-11-20", "S"
    ),
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

REGISTRY = MappingProxyType({constant.name: constant for constant in _CONSTANTS})


def constant(name: str) -> Constant:
    """The constant of that name; an unknown name raises KeyError and names the nearest."""
    try:
        return REGISTRY[name]
    except KeyError:
        import difflib  # only for a message: its import takes as long as the registry

        near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0)
        raise KeyError(f"no constant {name!r} in the registry; the nearest is {near[0]!r}") from None


def value(name: str) -> float:
    """The number alone, in the unit that the registry gives."""
    return constant(name).value
