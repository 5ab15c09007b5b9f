"""Training steps, their memory and matrix products recorded on one GPU, and what the models say of them.

    for cell in recorded_gpu_cases(): print(cell.family, cell.case, cell.signed_error)

Files in the package's data, of which a missing one has no cases: h200_steps.csv and h200_products.csv, written from a
recording by `python -m benchmarks.own_cases gpu recordings/nvidia-h200-x1`. Nothing is fitted to them: the GPU is the
registry's, its efficiencies are the fit to A100s of `cluster`, or measured on single products. (The registry's best
product of an H200 comes from another recording of one.)

The steps are those of distlab.train, plain torch: no kernel is fused but norms, attention and the loss. So what
`kernels` counts for Megatron-LM's fused kernels is counted here once more, operation by operation (`eager_bytes`).

A step begins with its batch, which is made while the GPU waits: `load_s` of the file, measured in another run.

Of steps with selective recomputation only the time is predicted: distlab.train then keeps the results of products and
attention, `training_memory` all but the scores. Left out everywhere: launches of kernels, which bound small sizes, and
workspaces of products and of attention's backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

from distlab.errors import SettingError
from distlab.predict.cluster import device_of
from distlab.predict.device import Device
from distlab.predict.hardware.accelerators import Dtype, accelerator
from distlab.predict.kernels import Kernels, layer_time, output_time, product_s
from distlab.predict.own import DATA, rows
from distlab.predict.states import MemorySettings
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Recompute, Transformer
from distlab.predict.validation import MemoryRun, Row, Scored

GPUS = ("h200",)
"""Of which there may be files, by their name in the hardware registry."""

Precision = Literal["fp32", "bf16"]
"""bf16: autocast."""


def recorded_gpu_cases(folder: Path = DATA) -> list[Scored]:
    """Of those files that the folder has; families such as h200_steps (time and peak of memory) and h200_products."""
    return [cell for name in GPUS for cell in (*_steps(name, folder), *_products(name, folder))]


# Steps.


class Traffic(NamedTuple):
    """Bytes to and from the GPU's memory."""

    forward: float
    backward: float


def eager_bytes(hidden_values: float, precision: Precision) -> Traffic:
    """Element-wise traffic of one layer of distlab.train's GPT, whose stream has so many values: derived (C).

    Operation by operation in torch, what is read and written. s bytes flow from layer to layer, e bytes go into
    products; where they differ, autocast casts each product's input by itself. Rotary positions are turned in fp32:
    four products, a sum and a difference of halves, put side by side.
    """
    s, e = 4, 2 if precision == "bf16" else 4
    cast = s + e if s != e else 0
    norms, residuals = 2 * 2 * s, 2 * (2 * s + e)
    rotated = 2 * (4 * (2 + 2) + 2 * (2 + 2 + 2) + (4 + 4) + 2 * cast)
    forward = norms + 4 * cast + rotated + 2 * e + residuals + (4 + 4) * e
    turned_back = 2 * (4 * (2 + 2) + (2 + 2) + 2 * (2 + 2 + 2) + (4 + 4) + 2 * cast)
    added = (2 + 2) * 3 * s  # two branches to the stream; queries', keys' and values' ways to their norm
    backward = 2 * 5 * s + 6 * cast + turned_back + 2 * e + added + (4 + 4 + 4) * e
    return Traffic(forward * hidden_values, backward * hidden_values)


FOREACH_ADAMW_BYTES = 72
"""Per parameter in fp32, pass by pass: mean (reads 8, writes 4), mean square (4 + 4, 8 + 4), its root (4 + 4), that
over the correction (4 + 4), and epsilon (4 + 4), weight (12 + 4): torch/optim/adam.py of torch 2.13, no decay (C)."""

FLASH_EFFICIENCY = 0.35
"""Of a Hopper GPU's peak, in 16 bits: FlashAttention-2, which is torch's (Shah et al., 2024, FlashAttention-3, arXiv
2407.08608, abstract; R)."""

CAST_BYTES = 6
"""Of a weight to 16 bits, or of its gradient back: reads and writes."""


def eager_step_s(model: Transformer, layout: Layout, device: Device, precision: Precision) -> float:
    """Seconds of one step of distlab.train on one GPU, AdamW by foreach, in one micro-batch."""
    layer = layer_time(model, layout, device, Kernels(gradient_bytes=4))
    traffic = eager_bytes(layout.micro_batch * model.sequence * model.hidden, precision)
    casts = CAST_BYTES * model.layer_parameters if precision == "bf16" else 0
    forward_s = (traffic.forward + casts) / device.element_Bps
    layer_s = layer.forward_products_s + layer.backward_products_s + forward_s
    layer_s += (traffic.backward + casts) / device.element_Bps
    attention_s = _slower_attention_s(model, layout, device) if precision == "bf16" else 0.0
    layer_s += FORWARD_AND_BACKWARD * attention_s
    if layout.recompute != "none":  # selective keeps the results of products and attention
        layer_s += forward_s
    if layout.recompute == "full":
        layer_s += layer.forward_products_s + attention_s
    update_s = FOREACH_ADAMW_BYTES * model.parameters / device.stream_Bps
    return model.layers * layer_s + sum(output_time(model, layout, device)) + update_s


FORWARD_AND_BACKWARD = 3.5
"""Products in attention, over those of its forward pass, which has 2: the backward pass has 5 (Dao et al., 2022)."""


def _slower_attention_s(model: Transformer, layout: Layout, device: Device) -> float:
    """What a layer's causal attention takes in its forward pass beyond the efficiency of products."""
    tokens = layout.micro_batch * model.sequence
    flop = 2 * tokens * model.sequence * model.heads * model.head_width
    return max(0.0, flop / (FLASH_EFFICIENCY * device.peak_flops) - flop / device.product_flops)


def device_for(name: str, precision: Precision) -> Device:
    """The GPU of the registry, as the fit to A100s has it; for fp32 its ordinary units, by the same share of peak."""
    chip = accelerator(name)
    device = device_of(chip)
    return device if precision == "bf16" else replace(device, peak_flops=chip.peak("fp32").flop_per_s)


def gpu_memory_run(row: Row) -> MemoryRun:
    """How the models see a run of the file: one GPU, whose norms are one kernel each."""
    model = Transformer(
        "distlab's GPT", int(row["layers"]), int(row["hidden"]), int(row["heads"]), int(row["vocabulary"]),
        int(row["sequence"]), learned_positions=False, biases=False,
    )  # fmt: skip
    samples = int(row["micro_batch"])
    layout = Layout(micro_batch=samples, global_batch=samples, recompute=cast(Recompute, row["recompute"]))
    precision: Literal["fp32", "autocast"] = "fp32" if _precision(row) == "fp32" else "autocast"
    return MemoryRun(model, layout, MemorySettings(precision=precision, loss="torch", fused_optimizer=False))


def _precision(row: Row) -> Precision:
    if row["precision"] not in get_args(Precision):
        raise SettingError(
            f"precision is {row['precision']!r}; it is one of {', '.join(get_args(Precision))}."
        )
    return cast(Precision, row["precision"])


def _steps(name: str, folder: Path) -> Iterator[Scored]:
    family = f"{name}_steps"
    for row in rows(f"{family}.csv", folder):
        run, precision = gpu_memory_run(row), _precision(row)
        named = (
            f"{row['layers']} layers of {row['hidden']}, {row['micro_batch']} x {row['sequence']} tokens, {precision}, "
            f"recompute {row['recompute']}"
        )
        step_s = eager_step_s(run.model, run.layout, device_for(name, precision), precision) + float(
            row["load_s"]
        )
        yield Scored(
            family, f"time: {named}", step_s, float(row["step_s"]), "step", False, unit="s", inputs=run
        )
        if row["recompute"] != "selective":
            peak = training_memory(run.model, run.layout, run.settings).peak_bytes + _copied_bytes(run)
            measured = float(row["peak_allocated_bytes"])
            yield Scored(family, f"peak: {named}", peak, measured, "peak", False, unit="bytes", inputs=run)


def _copied_bytes(run: MemoryRun) -> float:
    """FlashAttention lays out its result as it finds the queries, which rotary positions left head by head: the next
    product keeps a copy in its own order. (torch's attention in fp32 has that order.)"""
    if run.settings.precision == "fp32":
        return 0.0
    layers = run.model.layers if run.layout.recompute == "none" else 1
    return 2 * layers * run.layout.micro_batch * run.model.sequence * run.model.hidden


# Products.


def _products(name: str, folder: Path) -> Iterator[Scored]:
    """By the share of the peak that the best 16-bit product reached, for all types."""
    family = f"{name}_products"
    chip = accelerator(name)
    share = chip.ceiling("bf16").value.flop_per_s / chip.peak("bf16").flop_per_s
    for row in rows(f"{family}.csv", folder):
        m, n, k = (int(row[side]) for side in ("m", "n", "k"))
        peak = chip.peak(cast(Dtype, row["dtype"])).flop_per_s
        device = replace(device_of(chip), peak_flops=peak, gemm_efficiency=share)
        case = f"{row['dtype']}: {m} x {k} with {k} x {n}"
        yield Scored(
            family, case, product_s(m, n, k, device), float(row["seconds"]), "product", False, unit="s"
        )
