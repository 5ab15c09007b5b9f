"""What follows from a sum of terms, with the formula in its own numbers: what `--why` says below the terms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from distlab.predict.commands.show import gib, number, seconds
from distlab.predict.commands.show import gpus as gpus_in_words
from distlab.predict.commands.why import Derived

if TYPE_CHECKING:
    from distlab.predict.cluster import Cluster
    from distlab.predict.commands.room import Room
    from distlab.predict.goodput import Checkpoint, Recovery
    from distlab.predict.network import CollectivePrediction
    from distlab.predict.states import MemorySettings
    from distlab.predict.step_time import StepTime
    from distlab.predict.training_memory import TrainingMemory
    from distlab.predict.transformer import Layout, Transformer

_COUNTED = "distlab.predict.flops: Narayanan et al., SC'21, appendix; Korthikanti et al., 2022, appendix A"


def symbols_of_memory(model: Transformer, layout: Layout, settings: MemorySettings) -> dict[str, float]:
    """Values of the symbols in the formulas of `why`, as of the other commands below."""
    return {
        "b": layout.micro_batch,
        "s": model.sequence / layout.context,
        "h": model.hidden,
        "f": model.mlp_width * model.active_experts,
        "a": model.heads,
        "k": model.key_value_heads,
        "w": model.head_width,
        "V": model.vocabulary,
        "t": layout.tensor,
        "c": layout.context,
        "d": layout.data,
        "e": settings.bytes.activation,
    }


def symbols_of_step(model: Transformer, layout: Layout, cluster: Cluster) -> dict[str, float]:
    device = cluster.device
    return {
        "m": layout.micro_batches,
        "layers": model.layers // layout.pipeline,
        "b": layout.micro_batch,
        "s": model.sequence,
        "h": model.hidden,
        "V": model.vocabulary,
        "t": layout.tensor,
        "p": layout.pipeline,
        "v": layout.interleave,
        "peak": device.peak_flops,
        "efficiency": device.gemm_efficiency,
        "bandwidth": device.memory_Bps,
        "element_efficiency": device.element_efficiency,
        "stream_efficiency": device.stream_efficiency,
    }


def symbols_of_collective(found: CollectivePrediction, gpus: int) -> dict[str, float]:
    took = {term.name: term.seconds for term in found.terms}
    wire_s = took.get("wire", 0.0) + took.get("protocol", 0.0)
    # The term between them is 2 sqrt(C W).
    chunks_s = (took["pipeline"] / 2) ** 2 / wire_s if wire_s else 0.0
    return {"n": gpus, "payload": found.payload_bytes, "W": wire_s, "C": chunks_s}


def symbols_of_goodput(job: Recovery, saving: Checkpoint) -> dict[str, float]:
    values = {
        "T": saving.interval_s,
        "cost": saving.cost_s,
        "cycle": saving.cycle_s,
        "D": job.detection_s,
        "R": job.restart_s,
        "late": (1 - saving.slowdown) * saving.background_s,
    }
    return values if math.isinf(job.mtbf_s) else {"M": job.mtbf_s, **values}


def of_memory(found: TrainingMemory, room: Room | None) -> list[Derived]:
    """Peak, what is reserved, and what is left of the GPU."""
    moments = ", ".join(f"{moment.name} {gib(moment.bytes)}" for moment in found.moments)
    share = found.fragmentation
    derived = [
        Derived(
            "peak in tensors",
            f"max of ({moments}) = {gib(found.peak_bytes)} GiB",
            "distlab.predict.training_memory, the fullest of the moments of a step",
        ),
        Derived(
            "reserved",
            f"{gib(found.peak_bytes)} / (1 - {share:g}) = {gib(found.reserved_bytes)} GiB",
            "fragmentation, the share of reserved memory that is of no use: Guo et al., GMLake, ASPLOS'24",
        ),
    ]
    if room is not None:
        left = room.usable_bytes - found.reserved_bytes
        parts = f"{gib(room.memory_bytes)} - {gib(room.reserve_bytes)} - {gib(found.reserved_bytes)}"
        source = (
            "its memory in the hardware registry, less what is kept beside tensors, less what is reserved"
        )
        derived.append(Derived(f"left on {room.gpu}", f"{parts} = {gib(left)} GiB", source))
    return derived


def of_step(found: StepTime, cluster: Cluster, tokens: float | None) -> list[Derived]:
    """MFU, HFU, throughput, days and cost."""
    peak, gpus, step = cluster.device.peak_flops, found.gpus, seconds(found.step_s)
    whole = f"({step} x {gpus_in_words(gpus)} x {number(peak / 1e12)} TFLOP/s)"
    derived = [
        Derived(
            "step", f"sum of the terms = {step}", "the slowest stage sets the pace; nothing else overlaps"
        ),
        Derived("MFU", f"{found.model_flops:.4g} model FLOP / {whole} = {found.mfu:.2%}", _COUNTED),
        Derived(
            "HFU", f"{found.hardware_flops:.4g} FLOP with recomputation / {whole} = {found.hfu:.2%}", _COUNTED
        ),
        Derived(
            "FLOP/s a GPU",
            f"{found.hardware_flops:.4g} / ({step} x {gpus}) = {found.flops_per_gpu / 1e12:.4g} TFLOP/s",
            "as Narayanan et al., SC'21, report it",
        ),
        Derived(
            "tokens a day",
            f"{found.tokens:,} a step / {step} x 86,400 s = {found.tokens_per_day:.4g}",
            "global_batch x sequence, without failures",
        ),
    ]
    if tokens is not None:
        days = f"{tokens:.4g} / {found.tokens_per_day:.4g} a day = {number(found.days(tokens))}"
        derived.append(Derived("days", days, "without failures; `distlab predict goodput` has those"))
        if cluster.price_per_gpu_hour is not None:
            price = f"{number(found.days(tokens))} x 24 h x {gpus_in_words(gpus)} x {cluster.price_per_gpu_hour:g}"
            derived.append(
                Derived(
                    "cost", f"{price} = {found.cost(tokens):,.2f}", "price_per_gpu_hour, or the list price"
                )
            )
    return derived


def of_collective(found: CollectivePrediction, gpus: int, factor: float, overlap_s: float) -> list[Derived]:
    """Rates, and what computing does not hide. factor: bytes on a link for each byte of payload."""
    if not found.total_s:
        return [Derived("time", "one GPU has nobody to send to", "n = 1")]
    total, mib = seconds(found.total_s), found.payload_bytes / 2**20
    rate = found.payload_bytes / found.total_s / 1e9
    derived = [
        Derived(
            "time",
            f"sum of the terms = {total}",
            "the fastest of the algorithms and protocols that exist there",
        ),
        Derived("algorithm bandwidth", f"{number(mib)} MiB / {total} = {rate:.4g} GB/s", "nccl-tests"),
        Derived(
            "bus bandwidth",
            f"{rate:.4g} GB/s x {factor:.4g} = {rate * factor:.4g} GB/s, with {gpus_in_words(gpus)}",
            "nccl-tests, doc/PERFORMANCE.md",
        ),
    ]
    if overlap_s:
        shown = seconds(max(0.0, found.total_s - overlap_s))
        derived.append(
            Derived("exposed", f"max(0, {total} - {seconds(overlap_s)}) = {shown}", "overlap with computing")
        )
    return derived


def of_goodput(
    job: Recovery,
    saving: Checkpoint,
    days: float,
    size_bytes: float | None,
    storage_Bps: float,  # noqa: N803
) -> list[Derived]:
    """Failures, the intervals, and how long a save takes."""
    derived = []
    if size_bytes is not None:
        derived.append(
            Derived(
                "a checkpoint",
                f"{size_bytes / 14:.4g} parameters x 14 bytes = {size_bytes / 1e12:,.4g} TB, which at "
                f"{storage_Bps / 1e9:,.4g} GB/s take {seconds(size_bytes / storage_Bps)}",
                "bf16 weights, fp32 weights and two moments; BLOOM's is 13.05 a parameter",
            )
        )
    if math.isinf(job.mtbf_s):
        return derived
    mtbf, cost = seconds(job.mtbf_s), seconds(saving.cost_s)
    hours = job.mtbf_s / 3600
    return [
        *derived,
        Derived(
            "failures",
            f"{days:g} days x 24 h / {number(hours)} h = {number(days * 24 / hours)}",
            "Poisson; MTBF of the job = 1 / sum of count / MTBF of its parts (Barlow and Proschan, 1975)",
        ),
        Derived(
            "Young's interval",
            f"sqrt(2 x {cost} x {mtbf}) = {seconds(math.sqrt(2 * saving.cost_s * job.mtbf_s))}",
            "Young, CACM 17(9), 1974",
        ),
        Derived(
            "the best interval",
            "root x M of (1 - x) exp(x) = exp(-cost/M), no shorter than a background write",
            "the largest goodput of the closed form: distlab.predict.goodput.exact_interval_s",
        ),
    ]
