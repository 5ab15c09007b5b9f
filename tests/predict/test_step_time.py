"""Step time: against published steps, fitted and held out; how it must move; limits; that the terms add up."""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict import cluster, megatron
from distlab.predict.cluster import A100, DGX_H100, SELENE, Cluster, axis_link, collective_s
from distlab.predict.collectives import Link
from distlab.predict.kernels import Kernels, layer_time, optimizer_s, product_s
from distlab.predict.megatron import FITTED, Case
from distlab.predict.scaling import pipeline_efficiency
from distlab.predict.step_time import Software, StepTime, predict_step
from distlab.predict.transformer import Layout, Recompute, Schedule, Transformer

GPT = Transformer("GPT-22B", 48, 6144, 64, 51200, 2048)
MIXTURE = Transformer(
    "8 experts",
    32,
    4096,
    32,
    32000,
    4096,
    kv_heads=8,
    feed_forward=14336,
    gated=True,
    experts=8,
    active_experts=2,
)
NO_NETWORK = replace(SELENE, inside=Link(0, math.inf), across=Link(0, math.inf))


def step(
    model: Transformer = GPT, machine: Cluster = SELENE, software: Software | None = None, **cut: Any
) -> StepTime:
    return predict_step(model, Layout(**{"global_batch": 64, **cut}), machine, software)


def term(step: StepTime, name: str) -> float:
    return next(term.seconds for term in step.terms if term.name == name)


def errors(cases: Sequence[Case], machine: Cluster) -> list[float]:
    return [abs(case.step(machine).step_s / case.measured_step_s - 1) for case in cases]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Published steps.


def test_published_steps_of_the_fit() -> None:
    found = errors(FITTED, SELENE)
    assert mean(found) < 0.028
    assert max(found) < 0.06


def test_constants_are_the_stated_fit() -> None:
    fitted = megatron.fit(FITTED)
    assert fitted.device.gemm_efficiency == cluster.GEMM_EFFICIENCY
    assert fitted.device.element_efficiency == cluster.ELEMENT_EFFICIENCY
    # From elsewhere, too: the descent does not stay where it begins.
    elsewhere = replace(SELENE, device=replace(A100, gemm_efficiency=0.74, element_efficiency=0.8))
    assert megatron.fit(FITTED, elsewhere).device.gemm_efficiency == pytest.approx(0.84, abs=0.021)


def test_each_model_held_out() -> None:
    """Fitted on the others, predicted for the one left out: the error to expect on a model not seen."""
    found: list[float] = []
    for name in {case.model.name for case in FITTED}:
        others = megatron.fit([case for case in FITTED if case.model.name != name])
        found += errors([case for case in FITTED if case.model.name == name], others)
    assert len(found) == len(FITTED)
    assert mean(found) < 0.035
    assert max(found) < 0.075


def test_530b_on_2240_gpus_was_not_fitted() -> None:
    for case, mfu in megatron.held_out_530b():
        assert case.step().mfu == pytest.approx(mfu, rel=0.025)
        assert case.layout.gpus == 2240


def test_the_larger_tables() -> None:
    """Every row of the two tables in DISTLAB_CASES, with the same parameters."""
    folder = os.environ.get("DISTLAB_CASES")
    if not folder:
        warnings.warn("DISTLAB_CASES is not set: only the cases in the package were scored", stacklevel=1)
        return
    cases = []
    for name, read in (
        ("megatron_iteration_time", megatron.iteration_case),
        ("megatron_weak_scaling", megatron.weak_scaling_case),
    ):
        lines = (Path(folder) / f"{name}.csv").read_text().splitlines()
        cases += [read(row) for row in csv.DictReader(line for line in lines if not line.startswith("#"))]
    assert len(cases) >= len(FITTED)
    found = [abs(case.signed_error()) for case in cases]
    assert mean(found) < 0.035
    assert max(found) < 0.09


def test_a_layer_of_22b() -> None:
    """Korthikanti et al., table 4 (recalled): forward 7.7 ms, backward 11.9 ms, with sequence parallelism 7.2."""
    layout = Layout(tensor=8, micro_batch=4, global_batch=4)
    time = layer_time(GPT, layout, A100, Kernels(fused_attention=False))
    reduce_s = 2 * collective_s("all_reduce", 2 * 4 * 2048 * 6144, 8, 1, SELENE)
    assert time.forward_s + reduce_s == pytest.approx(7.7e-3, rel=0.09)
    assert time.backward_s == pytest.approx(11.9e-3, rel=0.09)
    shared = layer_time(GPT, replace(layout, sequence_parallel=True), A100, Kernels(fused_attention=False))
    assert shared.forward_s + reduce_s == pytest.approx(7.2e-3, rel=0.09)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [("hidden", "x", "hidden"), ("gpus", "7", "divide"), ("tensor_parallel", "3", "not known"),
     ("tflops_per_gpu", "nan", "above 0")],
)  # fmt: skip
def test_a_wrong_row_names_its_field(field: str, value: str, match: str) -> None:
    row = {
        "params_B": "39.1", "heads": "64", "hidden": "8192", "layers": "48", "tensor_parallel": "8",
        "pipeline_parallel": "2", "gpus": "512", "global_batch": "1536", "tflops_per_gpu": "138",
    }  # fmt: skip
    assert megatron.weak_scaling_case(row).model.hidden == 8192
    with pytest.raises(SettingError, match=match):
        megatron.weak_scaling_case({**row, field: value})


def test_an_unknown_recomputation_is_refused() -> None:
    with pytest.raises(SettingError, match="recompute is 'some'"):
        megatron.iteration_case({"recompute": "some"})


# How it must move.


@settings(max_examples=40, deadline=None)
@given(batches=st.integers(1, 20), layers=st.integers(1, 20), data=st.sampled_from([1, 2, 8]))
def test_more_work_takes_longer(batches: int, layers: int, data: int) -> None:
    model = replace(GPT, layers=4 * layers)
    cut: dict[str, Any] = {"tensor": 4, "pipeline": 4, "data": data}
    now = step(model, global_batch=batches * data, **cut).step_s
    assert step(model, global_batch=(batches + 1) * data, **cut).step_s > now
    assert step(replace(model, layers=4 * layers + 4), global_batch=batches * data, **cut).step_s > now


CUTS: list[dict[str, Any]] = [
    {"tensor": 8, "pipeline": 4, "interleave": 3, "data": 2},
    {"data": 16, "zero_stage": 3},
    {"data": 64, "tensor": 1},
    {"context": 4, "tensor": 4, "data": 2},
]


@settings(max_examples=40, deadline=None)
@given(cut=st.sampled_from(CUTS), faster=st.floats(1.0, 100), which=st.sampled_from(["inside", "across"]))
def test_a_faster_network_is_never_slower(cut: dict[str, Any], faster: float, which: str) -> None:
    link = SELENE.inside if which == "inside" else SELENE.across
    quick = Link(link.alpha_s / faster, link.bandwidth_Bps * faster)
    better = replace(SELENE, inside=quick) if which == "inside" else replace(SELENE, across=quick)
    assert step(machine=better, **cut).step_s <= step(**cut).step_s * (1 + 1e-12)


@given(
    faster=st.floats(1.0, 10), what=st.sampled_from(["gemm_efficiency", "memory_Bps", "element_efficiency"])
)
@settings(max_examples=30, deadline=None)
def test_a_faster_gpu_is_never_slower(faster: float, what: str) -> None:
    device = replace(A100, **{what: getattr(A100, what) * faster})
    cut: dict[str, Any] = {"tensor": 8, "pipeline": 4, "data": 2}
    assert step(machine=replace(SELENE, device=device), **cut).step_s <= step(**cut).step_s


def test_recomputation_costs_time_and_no_mfu_counts_it() -> None:
    none, selective, full = (
        predict_step(GPT, Layout(tensor=8, global_batch=4, micro_batch=4, recompute=how), SELENE)
        for how in ("none", "selective", "full")
    )
    assert none.step_s < selective.step_s < full.step_s
    assert none.mfu == none.hfu
    assert full.mfu < selective.mfu < none.mfu
    assert full.hfu > full.mfu


# Limits and sums.


@pytest.mark.parametrize("cut", CUTS)
def test_terms_add_up_and_say_why(cut: dict[str, Any]) -> None:
    made = step(**cut)
    assert made.step_s == pytest.approx(math.fsum(term.seconds for term in made.terms))
    assert all(term.seconds >= 0 and term.why for term in made.terms)
    assert 0 < made.mfu < 1


def test_one_gpu_has_no_communication() -> None:
    alone = step(replace(GPT, layers=2))
    for name in (
        "tensor parallel",
        "pipeline sends",
        "pipeline bubble",
        "gradient reduction",
        "parameter gathering",
    ):
        assert term(alone, name) == 0


@pytest.mark.parametrize("cut", CUTS)
def test_an_infinite_network_leaves_the_work_and_the_bubble(cut: dict[str, Any]) -> None:
    made = step(machine=NO_NETWORK, **cut)
    for name in ("tensor parallel", "context parallel", "pipeline sends", "gradient reduction"):
        assert term(made, name) == 0


@pytest.mark.parametrize("interleave", [1, 2, 3])
def test_the_bubble_is_the_known_one(interleave: int) -> None:
    made = step(machine=NO_NETWORK, pipeline=4, tensor=8, interleave=interleave, global_batch=32)
    bubble = term(made, "pipeline bubble")
    work = sum(term(made, name) for name in ("matrix products", "element-wise"))
    assert work / (work + bubble) == pytest.approx(pipeline_efficiency(4, 32, interleave))


def test_schedules_from_long_to_short() -> None:
    bubbles = {}
    schedules: tuple[tuple[Schedule, int], ...] = (
        ("gpipe", 1),
        ("1f1b", 1),
        ("interleaved", 3),
        ("zero_bubble", 1),
    )
    for schedule, chunks in schedules:
        layout = Layout(tensor=8, pipeline=4, interleave=chunks, schedule=schedule, global_batch=16)
        bubbles[schedule] = term(predict_step(GPT, layout, NO_NETWORK), "pipeline bubble")
    assert bubbles["gpipe"] == bubbles["1f1b"] > bubbles["zero_bubble"] > 0
    # Forward, input's and weights' gradients alike would leave a third (Qi et al., 2023, ZB-H1); element-wise work has
    # no gradients of weights, so that more is left.
    assert 1 / 3 < bubbles["zero_bubble"] / bubbles["1f1b"] < 2 / 3
    assert bubbles["interleaved"] == pytest.approx(bubbles["1f1b"] / 3)


def test_gradients_hide_behind_the_backward_pass() -> None:
    cut: dict[str, Any] = {"tensor": 8, "data": 4, "global_batch": 64, "micro_batch": 4}
    hidden, bare = step(**cut), step(software=Software(overlap_gradients=False), **cut)
    assert 0 < term(hidden, "gradient reduction") < term(bare, "gradient reduction")
    assert bare.step_s - hidden.step_s < term(bare, "gradient reduction")


def test_zero_shares_the_optimizer_and_gathers_parameters() -> None:
    plain, first, third = (step(data=8, zero_stage=stage) for stage in (0, 1, 3))
    assert term(first, "optimizer") == pytest.approx(term(plain, "optimizer") / 8)
    assert term(plain, "optimizer") == optimizer_s(GPT.embedding_parameters + 48 * GPT.layer_parameters, A100)
    across = step(data=64, zero_stage=3, global_batch=64, machine=replace(SELENE, across=Link(0, 1e9)))
    assert term(across, "parameter gathering") > term(third, "parameter gathering") == 0


def test_what_a_slow_network_shows() -> None:
    slow = replace(SELENE, inside=Link(0, 1e9), across=Link(0, 1e9))
    sharded = step(data=16, zero_stage=3, machine=slow)
    # Gathered forward and backward, scattered once, each 15/16 of two bytes a parameter: less what the computing hides.
    each_s = 15 / 16 * 2 * (48 * GPT.layer_parameters + GPT.embedding_parameters) / 1e9
    micro_batches = 64 // 16
    work_s = sum(term(sharded, name) for name in ("matrix products", "element-wise"))
    shown_s = term(sharded, "parameter gathering") + term(sharded, "gradient reduction")
    assert shown_s == pytest.approx(micro_batches * 3 * each_s - work_s)
    assert term(sharded, "gradient reduction") == pytest.approx(micro_batches * each_s)
    # Keys and values of the three others, forward once and backward twice: less three times the attention.
    ringed = step(context=4, global_batch=1, machine=slow)
    pair_s = 3 * 2 * 2 * 512 * 6144 / 1e9
    attention_s = layer_time(GPT, Layout(context=4), A100, Kernels()).attention_s
    assert term(ringed, "context parallel") == pytest.approx(48 * 3 * (pair_s - attention_s))


def test_experts_exchange_tokens() -> None:
    together, spread = step(MIXTURE, data=16, expert=1), step(MIXTURE, data=16, expert=8)
    assert term(together, "expert parallel") == 0 < term(spread, "expert parallel")
    assert spread.model_flops == together.model_flops
    # Each rank still computes as many tokens' experts, but holds and updates an eighth of them.
    assert term(spread, "optimizer") < term(together, "optimizer") / 3


def test_a_slow_loader_shows_only_beyond_the_computing() -> None:
    quick, slow = step(tensor=8, software=Software(data_s=1e-3)), step(tensor=8, software=Software(data_s=10))
    assert term(quick, "data loading") == 0
    assert slow.step_s > 640


# Parts.


def test_a_product_is_a_roofline_with_waves() -> None:
    m, n = 27 * 256, 4 * 128  # 108 tiles, one for each multiprocessor
    full = product_s(m, n, 8192, A100)
    assert full == pytest.approx(2 * m * n * 8192 / A100.product_flops)
    # One row more begins another wave of smaller tiles at the least.
    assert product_s(m + 1, n, 8192, A100) > 1.4 * full
    # A vector is bound by the bytes of the matrix.
    assert product_s(1, 8192, 8192, A100) == pytest.approx(2 * 8192**2 / A100.stream_Bps, rel=0.001)


@given(m=st.integers(1, 5000), n=st.integers(1, 5000), k=st.integers(1, 5000))
def test_no_product_beats_the_peak(m: int, n: int, k: int) -> None:
    assert 2 * m * n * k / product_s(m, n, k, A100) <= A100.product_flops * (1 + 1e-12)


def test_where_a_group_lies_decides_its_link() -> None:
    assert axis_link(8, 1, SELENE) == SELENE.inside
    # One member of each node: one card. All eight: their cards together, as far as the node's inside carries them.
    assert axis_link(16, 8, SELENE).bandwidth_Bps == SELENE.across.bandwidth_Bps
    assert axis_link(32, 2, SELENE).bandwidth_Bps == 4 * SELENE.across.bandwidth_Bps
    assert (
        axis_link(64, 1, SELENE).bandwidth_Bps
        == 8 * SELENE.across.bandwidth_Bps
        < SELENE.inside.bandwidth_Bps
    )


def test_tensor_parallelism_across_nodes_costs_more_than_a_pipeline() -> None:
    inside = step(tensor=8, pipeline=2, global_batch=256).step_s
    assert step(tensor=16, global_batch=256).step_s > 1.1 * inside


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_attention_that_never_reaches_memory_is_faster(recompute: Recompute) -> None:
    layout = Layout(tensor=8, global_batch=8, recompute=recompute)
    fused = predict_step(GPT, layout, SELENE).step_s
    assert fused < predict_step(GPT, layout, SELENE, Software(Kernels(fused_attention=False))).step_s


def test_tokens_days_and_cost() -> None:
    priced = replace(SELENE, price_per_gpu_hour=2.0)
    made = step(machine=priced, tensor=8, data=2)
    assert made.tokens == 64 * 2048
    assert made.tokens_per_day == pytest.approx(made.tokens / made.step_s * 86400)
    assert made.days(made.tokens) * 86400 == pytest.approx(made.step_s)
    assert made.cost(made.tokens) == pytest.approx(made.step_s / 3600 * 16 * 2.0)
    with pytest.raises(SettingError, match="price_per_gpu_hour"):
        step(tensor=8).cost(1e9)


def test_h100_is_faster_than_a100() -> None:
    old, new = step(tensor=8), step(tensor=8, machine=DGX_H100)
    assert 1.5 < old.step_s / new.step_s < 989 / 312


def test_an_impossible_cut_is_refused() -> None:
    with pytest.raises(SettingError, match="tensor is 5"):
        step(tensor=5)
