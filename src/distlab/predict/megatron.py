"""Published steps of Megatron-LM on A100, as cases: what was run, with which switches, and how long it took.

    for case in FITTED: print(case.name, case.predict(), case.measured)

`iteration_case` and `weak_scaling_case` read a row of `megatron_iteration_time.csv` and `megatron_weak_scaling.csv`.

What the tables leave out stands in the script that ran them (NVIDIA/Megatron-LM, examples/sc21/run_table_1.sh, V): the
micro-batches and chunks of the weak-scaling runs, and that those without a pipeline took torch's
DistributedDataParallel, which overlaps, those with one Megatron's own, which did not. Both papers' runs kept attention
scores in memory. By 2022 Megatron-LM ran tensor-parallel collectives beside the weights' gradients (Korthikanti et
al., section 4.2.2), in 2021 it did not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal, cast, get_args

from distlab.errors import SettingError
from distlab.predict.cluster import SELENE, Cluster, cluster
from distlab.predict.flops import step_flops
from distlab.predict.kernels import Kernels
from distlab.predict.models import MODELS
from distlab.predict.step_time import Software, StepTime, predict_step
from distlab.predict.transformer import Layout, Recompute, Schedule, Transformer, ZeroStage

Unit = Literal["iteration_s", "tflops_per_gpu"]

VOCABULARY, SEQUENCE = 51200, 2048

_UNFUSED = Kernels(fused_attention=False)

MICRO_BATCH_AND_CHUNKS = {
    (1, 1): (16, 1),
    (2, 1): (16, 1),
    (4, 1): (16, 1),
    (8, 1): (8, 1),
    (8, 2): (4, 1),
    (8, 4): (2, 3),
    (8, 8): (2, 2),
    (8, 16): (1, 2),
    (8, 35): (1, 3),
    (8, 64): (1, 1),
}
"""By tensor- and pipeline-parallel ranks, from run_table_1.sh: samples of a micro-batch, chunks of a stage."""

MODEL_DEFAULTS: dict[str, int | bool | None] = {
    field.name: field.default for field in fields(Transformer) if field.default is not MISSING
}
"""Columns that a row may have of the model beside those of the tables, and what holds without them (None: what follows
from other columns)."""

LAYOUT_DEFAULTS: dict[str, int | None] = {
    "data_parallel": None,
    "context_parallel": 1,
    "expert_parallel": 1,
    "zero_stage": 0,
}
"""The same of the layout; data-parallel ranks follow from the others, and are checked."""

SOFTWARE_FLAGS = ("fused_attention", "overlap_gradients", "overlap_tensor")
"""The same of the program: `Kernels.fused_attention` and `Software`."""

FLAGS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Case:
    """One measured step."""

    name: str
    model: Transformer
    layout: Layout
    software: Software
    unit: Unit
    measured: float
    cluster: Cluster = SELENE
    """On which it was measured."""

    def step(self, cluster: Cluster | None = None) -> StepTime:
        """On its own cluster, or on that one."""
        return predict_step(self.model, self.layout, cluster or self.cluster, self.software)

    def predict(self, cluster: Cluster | None = None) -> float:
        """In the unit of what was measured."""
        step = self.step(cluster)
        return step.step_s if self.unit == "iteration_s" else step.flops_per_gpu / 1e12

    def signed_error(self, cluster: Cluster | None = None) -> float:
        """(predicted - measured) / measured."""
        return self.predict(cluster) / self.measured - 1

    @property
    def measured_step_s(self) -> float:
        """The same in seconds, where a rate was published."""
        if self.unit == "iteration_s":
            return self.measured
        flops = step_flops(self.model, self.layout.global_batch, self.layout.recompute).hardware
        return flops / (self.layout.gpus * self.measured * 1e12)


def iteration_case(row: Mapping[str, str]) -> Case:
    """A row of `megatron_iteration_time.csv` (Korthikanti et al., 2022), or one with the columns of `MODEL_DEFAULTS`,
    `LAYOUT_DEFAULTS` and `SOFTWARE_FLAGS`, and cluster, schedule and sequence_parallel, too."""
    recompute, sequence_parallel = _recompute(row)
    layout = _layout(row, micro_batch=_whole(row, "micro_batch"), interleave=_whole(row, "interleave"))
    layout = replace(layout, recompute=recompute, sequence_parallel=sequence_parallel)
    software = _software(row, overlap_gradients=layout.pipeline == 1, overlap_tensor=True)
    model = row.get("model") or "model"
    name = f"{model} {row['recompute']}"
    measured = _number(row, "iteration_s")
    return Case(name, _gpt(model, row), layout, software, "iteration_s", measured, _cluster(row))


def weak_scaling_case(row: Mapping[str, str]) -> Case:
    """A row of `megatron_weak_scaling.csv` (Narayanan et al., SC'21). What it lacks is run_table_1.sh's."""
    ranks = (_whole(row, "tensor_parallel"), _whole(row, "pipeline_parallel"))
    if ranks not in MICRO_BATCH_AND_CHUNKS:
        raise SettingError(
            f"tensor_parallel and pipeline_parallel are {ranks}, of which the micro-batch is not known; it is for "
            f"{sorted(MICRO_BATCH_AND_CHUNKS)}."
        )
    micro_batch, chunks = MICRO_BATCH_AND_CHUNKS[ranks]
    # Other batches or layers than the table's: the largest part of these that still divides them.
    data = max(1, _whole(row, "gpus") // (ranks[0] * ranks[1]))
    micro_batch = math.gcd(micro_batch, _whole(row, "global_batch") // data)
    chunks = math.gcd(chunks, _whole(row, "layers") // ranks[1])
    if _whole(row, "global_batch") // (data * micro_batch) % ranks[1]:
        chunks = 1  # interleaving wants whole groups of micro-batches
    recompute, sequence_parallel = (
        _recompute(row) if row.get("recompute") else ("full", _flag(row, *_SEQUENCE))
    )
    layout = _layout(row, micro_batch, chunks)
    layout = replace(layout, recompute=recompute, sequence_parallel=sequence_parallel)
    software = _software(row, overlap_gradients=layout.pipeline == 1, overlap_tensor=False)
    name = weak_scaling_name(row)
    measured = _number(row, "tflops_per_gpu")
    return Case(name, _gpt(name, row), layout, software, "tflops_per_gpu", measured, _cluster(row))


def weak_scaling_name(row: Mapping[str, str]) -> str:
    """Its billions of parameters; else what the row calls its model."""
    return f"{row['params_B']}B" if row.get("params_B") else row.get("model") or "?B"


_SEQUENCE = ("sequence_parallel", False)


def _cluster(row: Mapping[str, str]) -> Cluster:
    """SELENE, or nodes of the registry. SettingError names the nearest."""
    return cluster(row["cluster"]) if row.get("cluster") else SELENE


def _software(row: Mapping[str, str], overlap_gradients: bool, overlap_tensor: bool) -> Software:
    """As the table's runs did, but for what the row says."""
    kernels = replace(_UNFUSED, fused_attention=_flag(row, "fused_attention", False))
    gradients = _flag(row, "overlap_gradients", overlap_gradients)
    return Software(kernels, gradients, _flag(row, "overlap_tensor", overlap_tensor))


def _recompute(row: Mapping[str, str]) -> tuple[Recompute, bool]:
    """What is computed again, and whether sequence parallelism is on."""
    kinds: tuple[Recompute, ...] = get_args(Recompute)
    text = row.get("recompute")
    if text in ("sequence", "sequence_parallel"):  # as activation_memory.csv calls it
        return "none", True
    sequence_parallel = _flag(row, *_SEQUENCE)
    for kind in kinds:
        if text in (kind, f"{kind}+sequence"):
            return kind, sequence_parallel or text != kind
    raise SettingError(
        f"recompute is {text!r}; it is none, selective or full, each with +sequence or without."
    )


def _gpt(name: str, row: Mapping[str, str]) -> Transformer:
    layers, hidden, heads = (_whole(row, field) for field in ("layers", "hidden", "heads"))
    # Neither table has columns of these two: a line above it says them, of all of its rows.
    vocabulary, sequence = (
        _whole(row, field) if row.get(field) else usual
        for field, usual in (("vocabulary", VOCABULARY), ("sequence", SEQUENCE))
    )
    more: dict[str, Any] = {
        field: _flag(row, field, usual) if isinstance(usual, bool) else _whole(row, field)
        for field, usual in MODEL_DEFAULTS.items()
        if row.get(field)
    }
    return Transformer(name, layers, hidden, heads, vocabulary, sequence, **more)


def _layout(row: Mapping[str, str], micro_batch: int, interleave: int) -> Layout:
    gpus, tensor, pipeline = (
        _whole(row, field) for field in ("gpus", "tensor_parallel", "pipeline_parallel")
    )
    context, expert, zero_stage = (
        _whole(row, field) if row.get(field) else LAYOUT_DEFAULTS[field]
        for field in ("context_parallel", "expert_parallel", "zero_stage")
    )
    ranks, named = tensor * pipeline, f"tensor_parallel times pipeline_parallel, {tensor} x {pipeline}"
    if context != 1:
        ranks *= context or 0
        named = f"tensor_parallel times pipeline_parallel times context_parallel, {tensor} x {pipeline} x {context}"
    if ranks < 1 or gpus % ranks:
        raise SettingError(f"gpus is {gpus}, which {named}, does not divide.")
    data = gpus // ranks
    if row.get("data_parallel") and _whole(row, "data_parallel") != data:
        raise SettingError(
            f"data_parallel is {_whole(row, 'data_parallel')}; gpus over {named}, are {data}: correct one of them."
        )
    schedule = row.get("schedule") or ("interleaved" if interleave > 1 else "1f1b")
    if schedule not in get_args(Schedule):
        raise SettingError(f"schedule is {schedule!r}; it is one of {', '.join(get_args(Schedule))}.")
    return Layout(
        data=data,
        tensor=tensor,
        pipeline=pipeline,
        context=context or 1,
        expert=expert or 1,
        interleave=interleave,
        schedule=cast(Schedule, schedule),
        micro_batch=micro_batch,
        global_batch=_whole(row, "global_batch"),
        zero_stage=cast(ZeroStage, zero_stage),
    )


def _flag(row: Mapping[str, str], field: str, usual: bool) -> bool:
    text = row.get(field) or ""
    if text and text.lower() not in FLAGS:
        raise SettingError(f"{field} is {text!r}; it is yes or no.")
    return FLAGS.get(text.lower(), usual)


def _whole(row: Mapping[str, str], field: str) -> int:
    try:
        return int(row[field])
    except (KeyError, TypeError, ValueError):
        raise SettingError(f"{field} is {row.get(field)!r}; it must be a whole number.") from None


def _number(row: Mapping[str, str], field: str) -> float:
    try:
        number = float(row[field])
    except (KeyError, TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise SettingError(f"{field} is {row.get(field)!r}; it must be a number above 0.")
    return number


_ITERATION_FIELDS = (
    "model,heads,hidden,layers,tensor_parallel,pipeline_parallel,interleave,gpus,global_batch,micro_batch,recompute,"
    "iteration_s"
)
_ITERATION_ROWS = """\
22B,64,6144,48,8,1,1,8,4,4,full,1.42
22B,64,6144,48,8,1,1,8,4,4,selective+sequence,1.1
175B,96,12288,96,8,8,3,64,64,1,full,18.13
175B,96,12288,96,8,8,3,64,64,1,selective+sequence,13.75"""
"""Korthikanti et al., 2022 (arXiv 2205.05198), tables 3 and 5."""

_WEAK_FIELDS = (
    "params_B,heads,hidden,layers,tensor_parallel,pipeline_parallel,gpus,global_batch,tflops_per_gpu"
)
_WEAK_ROWS = """\
1.7,24,2304,24,1,1,32,512,137
7.5,32,4096,36,4,1,128,512,142
39.1,64,8192,48,8,2,512,1536,138
145.6,96,12288,80,8,8,1536,2304,148
529.6,128,20480,105,8,35,2520,2520,163"""
"""Narayanan et al., SC'21 (arXiv 2104.04473), table 1 (recalled; shapes checked with run_table_1.sh)."""


def _rows(fields: str, lines: str) -> Iterable[dict[str, str]]:
    names = fields.split(",")
    return (dict(zip(names, line.split(","), strict=True)) for line in lines.splitlines())


FITTED: tuple[Case, ...] = (
    *(iteration_case(row) for row in _rows(_ITERATION_FIELDS, _ITERATION_ROWS)),
    *(weak_scaling_case(row) for row in _rows(_WEAK_FIELDS, _WEAK_ROWS)),
)
"""All that the two parameters of `cluster` were fitted on."""


def held_out_530b() -> tuple[tuple[Case, float], ...]:
    """530B on 2,240 A100, and the published MFU (Korthikanti et al., abstract, V): no part of the fit.

    The abstract gives GPUs and MFU; batch and layout (8 times that of 280 GPUs) are recalled (R).
    """
    model = replace(MODELS["gpt-530b"].model, name="530B")
    layout = Layout(
        data=8,
        tensor=8,
        pipeline=35,
        interleave=3,
        schedule="interleaved",
        global_batch=2240,
        recompute="full",
    )
    selective = replace(layout, recompute="selective", sequence_parallel=True)
    cases = []
    for name, cut, mfu in (("full", layout, 0.421), ("selective+sequence", selective, 0.542)):
        flops = step_flops(model, cut.global_batch).model
        step_s = flops / (mfu * cut.gpus * SELENE.device.peak_flops)
        software = Software(_UNFUSED, overlap_gradients=False, overlap_tensor=True)
        cases.append((Case(f"530B x8 {name}", model, cut, software, "iteration_s", step_s), mfu))
    return tuple(cases)


def fit(cases: Sequence[Case], start: Cluster = SELENE) -> Cluster:
    """The cluster with the two efficiencies (0.70 to 0.95, 0.40 to 0.85, steps of 0.01) that fit the cases best.

    Least squares of the step time's relative error; a descent over the grid from the cluster's own values.
    """

    def error(gemm: int, element: int) -> float:
        device = replace(start.device, gemm_efficiency=gemm / 100, element_efficiency=element / 100)
        there = replace(start, device=device)
        return sum((case.step(there).step_s / case.measured_step_s - 1) ** 2 for case in cases)

    at = (round(100 * start.device.gemm_efficiency), round(100 * start.device.element_efficiency))
    best = error(*at)
    while True:
        around = [(at[0] + i, at[1] + j) for i in (-1, 0, 1) for j in (-2, -1, 0, 1, 2)]
        inside = [(g, e) for g, e in around if 70 <= g <= 95 and 40 <= e <= 85]
        least, nearest = min((error(*point), point) for point in inside)
        if least >= best:
            break
        best, at = least, nearest
    device = replace(start.device, gemm_efficiency=at[0] / 100, element_efficiency=at[1] / 100)
    return replace(start, device=device)
