"""llm-analysis (github.com/cli99/llm-analysis): step time, activations, states and the all-reduce inside a node.

Its step time is the operations over the GPU's peak, times one efficiency that it is given: here the one of least
squared relative error over `megatron.FITTED`, and for a model left out, over the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache
from typing import Any, get_args

from distlab.predict import megatron
from distlab.predict.cluster import SELENE
from distlab.predict.collectives import Op
from distlab.predict.flops import step_flops
from distlab.predict.hardware import accelerator
from distlab.predict.peers import Estimator, apart
from distlab.predict.transformer import Layout, Transformer
from distlab.predict.validation import MemoryRun, Scored

GPUS = {"h100": "h100-sxm-80gb", "h200": "h100-sxm-80gb", "a100": "a100-sxm-80gb"}
"""By a word in the system's name. It knows no H200, whose links are the H100's."""

LEFT_OUT = "megatron_left_out"


def estimator(cells: Sequence[Scored]) -> Estimator:
    """ImportError where it is not installed."""
    tool = apart.module("llm_analysis.analysis")
    config = apart.module("llm_analysis.config")

    def predict(cell: Scored) -> float | None:
        with apart.quiet():
            if isinstance(cell.inputs, megatron.Case):
                here = cell.inputs.cluster.name == SELENE.name  # its efficiency is that of these
                return _step(cell, cell.inputs, tool, config) if here else None
            if isinstance(cell.inputs, MemoryRun) and cell.kind == "step":
                return _gpu_step(cell, cell.inputs, tool, config)
            if isinstance(cell.inputs, MemoryRun):
                return _memory(cell, cell.inputs, tool, config)
            return _all_reduce(cell, tool, config)

    return predict


# Steps.


def _step(cell: Scored, case: megatron.Case, tool: Any, config: Any) -> float:
    left_out = case.model.name if cell.family == LEFT_OUT else None
    step_s = _step_at_peak_s(case, tool, config) / _efficiency(left_out, tool, config)
    if cell.unit == "s":
        return step_s
    hardware = step_flops(case.model, case.layout.global_batch, case.layout.recompute).hardware
    return hardware / (case.layout.gpus * step_s) / 1e12


@cache
def _efficiency(left_out: str | None, tool: Any, config: Any) -> float:
    """With x for a step at peak over the measured one, sum (x / efficiency - 1)^2 is least for sum x^2 / sum x."""
    cases = [case for case in megatron.FITTED if case.model.name != left_out]
    shares = [_step_at_peak_s(case, tool, config) / case.measured_step_s for case in cases]
    return sum(share**2 for share in shares) / sum(shares)


def _step_at_peak_s(case: megatron.Case, tool: Any, config: Any) -> float:
    return _at_peak_s(case.model, case.layout, config.get_gpu_config_by_name(GPUS["a100"]), tool, config)


def _at_peak_s(model: Transformer, layout: Layout, gpu: Any, tool: Any, config: Any) -> float:
    """Its time of a step where the GPU reaches its peak: what is kept of it is no part of that."""
    analysis = _analysis(model, layout, gpu, config.DtypeConfig(), tool, config)
    summary = analysis.training(
        batch_size_per_gpu=layout.micro_batch,
        global_batch_size=layout.global_batch,
        seq_len=model.sequence,
        activation_recomputation=tool.ActivationRecomputation[layout.recompute.upper()],
    )
    return float(summary["latency_per_iter"])


def _gpu_step(cell: Scored, run: MemoryRun, tool: Any, config: Any) -> float | None:
    """Of a step recorded on another GPU, with the efficiency of the fitted steps; fp32 over the peak of its fp32."""
    name = next((word for word in GPUS if cell.family.startswith(word)), None)
    if name is None:
        return None
    peak = accelerator(name).peak("fp32" if run.settings.precision == "fp32" else "bf16")
    known = config.get_gpu_config_by_name(GPUS[name])
    gpu = dataclasses.replace(known, peak_fp16_TFLOPS=peak.flop_per_s / 1e12)
    return _at_peak_s(run.model, run.layout, gpu, tool, config) / _efficiency(None, tool, config)


def _analysis(model: Transformer, layout: Layout, gpu: Any, dtype: Any, tool: Any, config: Any) -> Any:
    described = config.ModelConfig(
        model.name, model.layers, model.heads, model.hidden, model.vocabulary, model.sequence,
        model.kv_heads, model.mlp_width,
    )  # fmt: skip
    parallelism = config.ParallelismConfig(
        tp_size=layout.tensor,
        pp_size=layout.pipeline,
        dp_size=layout.data,
        sp_size=layout.tensor if layout.sequence_parallel else 1,
    )
    return tool.LLMAnalysis(described, gpu, dtype, parallelism, flops_efficiency=1.0)


# Memory.

WHOLE = ("fp32", "autocast")
"""Precisions whose weights, gradients and norms are in 32 bits; fp32's activations are, too. Others take 16 bits."""


def _memory(cell: Scored, run: MemoryRun, tool: Any, config: Any) -> float | None:
    weights = 32 if run.settings.precision in WHOLE else 16
    bits = 32 if run.settings.precision == "fp32" else 16
    dtype = config.DtypeConfig(weight_bits=weights, activation_bits=bits, embedding_bits=weights)
    gpu = config.get_gpu_config_by_name(GPUS["a100"])  # of which memory asks nothing
    analysis = _analysis(run.model, run.layout, gpu, dtype, tool, config)
    if cell.kind == "activations" and cell.unit == "%":
        bare = _analysis(run.model, Layout(tensor=run.layout.tensor), gpu, dtype, tool, config)
        kept = _layer_activations(run, analysis, run.layout.recompute, weights // 8, tool)
        return 100 * kept / _layer_activations(run, bare, "none", weights // 8, tool)
    if run.settings.optimizer != "adamw":
        return None
    activations = _activations(run, analysis, weights // 8, tool)
    if cell.kind == "activations":
        return activations
    states = _states(run, analysis, tool)
    return states if cell.kind == "states" else states + activations


def _layer_activations(run: MemoryRun, analysis: Any, recompute: str, norm_bytes: int, tool: Any) -> float:
    kept = analysis.get_activation_memory_per_layer(
        run.layout.micro_batch,
        run.model.sequence,
        is_inference=False,
        activation_recomputation=tool.ActivationRecomputation[recompute.upper()],
        layernorm_dtype_bytes=norm_bytes,
        flash_attn=run.settings.attention == "flash",
        softmax_dropout=run.settings.dropout,
    )
    return float(kept)


def _activations(run: MemoryRun, analysis: Any, norm_bytes: int, tool: Any) -> float:
    """Of all layers, the logits and the last norm, as its `training` adds them up."""
    samples, tokens = run.layout.micro_batch, run.model.sequence
    recompute = tool.ActivationRecomputation[run.layout.recompute.upper()]
    layers = run.model.layers * _layer_activations(run, analysis, run.layout.recompute, norm_bytes, tool)
    logits = analysis.get_activation_memory_output_embedding(samples, tokens)
    norm = analysis.get_activation_memory_per_layernorm(samples, tokens, recompute, norm_bytes)
    return float(layers + logits + norm)


def _states(run: MemoryRun, analysis: Any, tool: Any) -> float:
    """It counts an fp32 copy of the weights and two moments. Where weights are fp32 there is no copy: one less."""
    stage = tool.DSZeRO(run.layout.zero_stage)
    other = 4 if run.settings.precision in WHOLE else None
    layers = analysis.get_weight_memory_per_layer(stage)
    layers += sum(analysis.get_memory_optimizer_state_and_gradient_per_layer(4, other, stage))
    rest = analysis.get_memory_embedding(stage) + analysis.get_weight_memory_last_layernorm(stage)
    rest += sum(analysis.get_memory_optimizer_state_and_gradient_embedding(4, other, stage))
    rest += sum(analysis.get_memory_optimizer_state_and_gradient_last_layernorm(4, other, stage))
    return float(run.model.layers * layers + rest)


# Collectives.


def _all_reduce(cell: Scored, tool: Any, config: Any) -> float | None:
    """Its all-reduce of a layer's activations: one token whose values are the payload. Inside a node alone."""
    name, gpus, per_node = cell.run
    gpu = next((to for word, to in GPUS.items() if word in name), None)
    if cell.kind != "collective" or cell.unit != "ms" or gpus != per_node or gpu is None:
        return None
    if any(op in name for op in get_args(Op) if op != "all_reduce"):
        return None
    values = round(cell.payload_bytes / 2)
    one = Transformer("payload", 1, values, 1, 1, 1)
    links = config.get_gpu_config_by_name(gpu)
    analysis = _analysis(one, Layout(tensor=gpus), links, config.DtypeConfig(), tool, config)
    return 1e3 * float(analysis.get_latency_fwd_per_layer_tp_comm(1, 1, 2))
