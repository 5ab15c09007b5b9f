"""CSV rows of measured cases, scored; their columns are `validation.columns`, or `distlab scorecard --formats`.

A weak-scaling row of tensor and pipeline sizes of which run_table_1.sh says nothing has micro-batches of 1 and one
chunk, unless it says otherwise. Models of activations are those of the folder's iteration_s files, or of
`PUBLISHED_MODELS`.

No parameter is touched. A case counts as fitted where a fit of `network.systems` or `cluster` used that measurement;
activations have no fitted parameter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import cache, lru_cache
from typing import cast, get_args

from distlab.errors import SettingError, printable
from distlab.predict import megatron, recorded
from distlab.predict.activations import relative_activations
from distlab.predict.collectives import Op
from distlab.predict.hardware import node
from distlab.predict.models import MODELS
from distlab.predict.network import (
    PROTOCOLS,
    SYSTEMS,
    Algorithm,
    Protocol,
    Topology,
    predict_collective,
    system,
)
from distlab.predict.network.systems import RECORDED, cards, held_out
from distlab.predict.states import MemorySettings
from distlab.predict.step_time import Software
from distlab.predict.transformer import Layout, Recompute, Transformer
from distlab.predict.validation import MemoryRun, Row, Scored, count, positive, shown, size_bytes
from distlab.predict.validation.columns import FORMATS

# Collectives.

GENERIC_SYSTEMS = (
    (("a100", "pairwise"), "a100_pairwise_nvlink"),
    (("a100", "pcie"), "a100_pairwise_nvlink"),
    (("h100", "pairwise"), "h100_pairwise_nvlink"),
    (("h100", "pcie"), "h100_pairwise_nvlink"),
    (("b200",), "dgx_b200"),
    (("h200",), "dgx_h200"),
    (("h100",), "dgx_h100"),
    (("a100",), "dgx_a100"),
    (("v100",), "dgx_2"),
    (("mi300x",), "nd96isr_mi300x_v5"),
)
"""For a system that is neither one of `SYSTEMS` nor a node of the registry: words in its name, and the machine that
stands for it. The first whose words are all there is taken."""

GENERIC_CARDS = {
    "l40s": "pcie4_x16",
    "l4": "pcie4_x16",
    "a10": "pcie4_x16",
    "a10g": "pcie4_x16",
    "a40": "pcie4_x16",
    "t4": "pcie3_x16",
}
"""Cards that their slots join (datasheets, S; A40 R, whose bridges between pairs are left out)."""


NODE_MOST = 1024
"""GPUs of one node: beyond what is sold."""


def system_for(name: str) -> str:
    """The name under which `network.system` knows the machine. SettingError where nothing in it tells the hardware."""
    if name in SYSTEMS or name in RECORDED:
        return RECORDED.get(name, name)
    try:
        return node(name).name
    except (KeyError, ValueError):
        pass
    found = next((to for words, to in GENERIC_SYSTEMS if all(word in name.lower() for word in words)), None)
    if found is None:
        known = ", ".join([*dict.fromkeys(words[0] for words, _ in GENERIC_SYSTEMS), *GENERIC_CARDS])
        raise SettingError(
            f"system is {shown(name)}, which names no known hardware; it is one of {', '.join(SYSTEMS)}, a node of "
            f"the hardware registry, or has a word of {known} in it."
        )
    return found


@lru_cache(maxsize=1024)
def topology_for(name: str, gpus: int, gpus_per_node: int) -> Topology:
    """The group on the machine of that name, or on the generic one of its hardware. ValueError where there is none."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    slot = next((to for card, to in GENERIC_CARDS.items() if card in words), None)
    if (
        gpus % gpus_per_node and gpus_per_node <= NODE_MOST
    ):  # some are not full: the fullest equal ones stand for them
        gpus_per_node = next(each for each in range(gpus_per_node, 0, -1) if gpus % each == 0)
    if slot is None:
        return system(system_for(name), gpus, gpus_per_node)
    return cards(slot, gpus, gpus_per_node)


def score_collective(row: Row, family: str) -> Scored:
    name, gpus, per_node = row.get("system") or "", count(row, "gpus"), count(row, "gpus_per_node")
    payload, time_ms = size_bytes(row, "payload_bytes"), positive(row, "time_ms")
    op, algorithm, protocol = _operation(row), *_way(row)
    if gpus == 1:
        raise SettingError("gpus is 1; a collective over one GPU sends nothing.")
    topology = topology_for(name, gpus, per_node)
    predicted_ms = 1e3 * predict_collective(op, payload, topology, algorithm, protocol).total_s
    case = f"{printable(name)} {gpus} GPUs, {per_node} per node, {payload:.12g} bytes"
    fitted = op == "all_reduce" and (name, gpus, per_node, payload) in _fitted_collectives()
    if words := [word for word in (op, algorithm, protocol) if word not in (None, "all_reduce")]:
        name, case = f"{name} {' '.join(map(str, words))}", f"{case}, {' '.join(map(str, words))}"
    run = (name, gpus, per_node)
    return Scored(family, case, predicted_ms, time_ms, "collective", fitted, run, payload, "ms")


def _operation(row: Row) -> Op:
    """all_reduce as `all-reduce`, `AllReduce` or `ncclAllReduce`, too."""
    text = row.get("op") or row.get("operation") or "all_reduce"
    plain = re.sub(r"[^a-z]|^nccl|_perf$", "", text.lower())
    for op in get_args(Op):
        if op.replace("_", "") == plain:
            return cast(Op, op)
    raise SettingError(f"op is {shown(text)}; it is one of {', '.join(get_args(Op))}.")


def _way(row: Row) -> tuple[Algorithm | None, Protocol | None]:
    """The algorithm and the protocol that the row names."""
    found = []
    for field, known in (("algorithm", get_args(Algorithm)), ("protocol", PROTOCOLS)):
        text = row.get(field) or ""
        name = next((one for one in known if one.lower() == text.lower().replace("-", "_")), None)
        if text and name is None:
            raise SettingError(f"{field} is {shown(text)}; it is one of {', '.join(known)}.")
        found.append(name)
    return cast("Algorithm | None", found[0]), cast("Protocol | None", found[1])


@cache
def _fitted_collectives() -> frozenset[tuple[str, int, int, float]]:
    """Cells of the recorded runs that took part in a fit of `network.systems`."""
    return frozenset(
        (run.system, run.gpus, run.gpus_per_node, size)
        for run in recorded.all_reduce_runs()
        for position, (size, _) in enumerate(run.samples)
        if not held_out(position, size)
    )


# Steps.


def _score_iteration(row: Row, family: str) -> Scored:
    check_counts(row)
    positive(row, "iteration_s")
    return _there(score_step(megatron.iteration_case(row), family), row)


def _score_weak_scaling(row: Row, family: str) -> Scored:
    check_counts(row)
    positive(row, "tflops_per_gpu")
    ranks = (count(row, "tensor_parallel"), count(row, "pipeline_parallel"))
    told = row.get("micro_batch") or row.get("interleave")
    if ranks in megatron.MICRO_BATCH_AND_CHUNKS and not told:
        return _there(score_step(megatron.weak_scaling_case(row), family), row)
    plain = {"micro_batch": "1", "interleave": "1", "recompute": "full", "overlap_tensor": "no"}
    named = {"model": megatron.weak_scaling_name(row), "iteration_s": row["tflops_per_gpu"]}
    case = megatron.iteration_case({**plain, **{name: text for name, text in row.items() if text}, **named})
    return _there(score_step(replace(case, name=case.model.name, unit="tflops_per_gpu"), family), row)


def _there(scored: Scored, row: Row) -> Scored:
    """Named by its cluster, too, where the row has one."""
    return (
        replace(scored, case=f"{scored.case}, {printable(row['cluster'])}") if row.get("cluster") else scored
    )


def score_step(case: megatron.Case, family: str) -> Scored:
    fitted = _key(case) in _fitted_steps()
    unit = "s" if case.unit == "iteration_s" else "TFLOP/s"
    name, predicted = printable(case.name), case.predict()
    return Scored(family, name, predicted, case.measured, "step", fitted, unit=unit, inputs=case)


def _key(case: megatron.Case) -> tuple[Transformer, Layout, Software, str, str]:
    return _unnamed(case.model), case.layout, case.software, case.unit, case.cluster.name


@lru_cache(maxsize=1024)
def _unnamed(model: Transformer) -> Transformer:
    return replace(model, name="")


@cache
def _fitted_steps() -> frozenset[Hashable]:
    return frozenset(map(_key, megatron.FITTED))


def check_counts(row: Row) -> None:
    """SettingError where one that is needed is not there, or one is no number of what there can be."""
    for column in FORMATS["tflops_per_gpu"].columns:
        if column.values == "count" and (column.needed or row.get(column.name, "0") not in ("", "0")):
            count(row, column.name)


# Activations.

PUBLISHED_MODELS = {
    size: replace(MODELS[f"gpt-{size.lower()}"].model, name=size) for size in ("22B", "175B", "530B", "1T")
}
"""Korthikanti et al., 2022 (arXiv 2205.05198), table 3 (22B and 175B: V; 530B and 1T: R)."""

PUBLISHED_TENSOR = 8
"""Tensor-parallel ranks of all of them."""

MEGATRON_MEMORY = MemorySettings(
    precision="mixed_fp32_gradients", attention="scores", dropout=True, gradient_buffers=True
)
"""What the paper's figure counts: dropout masks, and scores that are kept."""

ACTIVATION_CELLS: dict[str, tuple[bool, Recompute]] = {
    "sequence_parallel": (True, "none"),
    "selective": (False, "selective"),
    "selective+sequence": (True, "selective"),
    "full": (False, "full"),
}
"""By column: whether sequences are split too, and what is computed again."""

FIGURE_7 = {
    "22B": (66.84, 49.42, 16.18, 7.64),
    "175B": (62.04, 56.53, 18.49, 8.71),
}
"""Korthikanti et al., 2022, figure 7: percent, in the order of `ACTIVATION_CELLS`."""


def score_activations(row: Row, family: str, column: str, models: Mapping[str, Transformer]) -> Scored:
    name = (row.get("model") or "").strip()
    model = models.get(name) or next(
        (m for key, m in PUBLISHED_MODELS.items() if re.search(rf"\b{key}\b", name, re.IGNORECASE)), None
    )
    if model is None:
        raise SettingError(
            f"model is {shown(name)}; it is one of {', '.join(PUBLISHED_MODELS)}, or of a file of iteration times "
            "beside this one."
        )
    measured = positive(row, column)
    sequence_parallel, recompute = ACTIVATION_CELLS[column]
    layout = Layout(tensor=PUBLISHED_TENSOR, sequence_parallel=sequence_parallel, recompute=recompute)
    layout.check(model)
    predicted = 100 * relative_activations(model, layout, MEGATRON_MEMORY)
    run = MemoryRun(model, layout, MEGATRON_MEMORY)
    case = f"{printable(name)} {column}"
    return Scored(family, case, predicted, measured, "activations", False, unit="%", inputs=run)


# All.

Score = Callable[[Row, str], Scored]


def scorer(measured: str, models: Mapping[str, Transformer]) -> Score:
    """Of the format of that name."""
    plain: dict[str, Score] = {
        "time_ms": score_collective,
        "iteration_s": _score_iteration,
        "tflops_per_gpu": _score_weak_scaling,
    }
    return plain.get(measured) or (lambda row, family: score_activations(row, family, measured, models))
