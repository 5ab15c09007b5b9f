"""The layout search: equal to brute force on small spaces, its bounds, its reasons, and how the best one must move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.cluster import DGX_H100, SELENE
from distlab.predict.kernels import Kernels
from distlab.predict.megatron import FITTED
from distlab.predict.search import Objective, Query, Why, best_with, nearest, search, why, why_with
from distlab.predict.search.bounds import Bounds
from distlab.predict.search.space import Mesh, cells, divisors, layout_of, mesh_of, meshes, obstacle
from distlab.predict.states import MemorySettings, local_key_value_heads
from distlab.predict.step_time import Software, StepModel, predict_step
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout, Recompute, Schedule, Transformer, ZeroStage
from distlab.predict.units import GIB

DENSE = Transformer("dense", 4, 512, 4, 1000, 64)
MIXTURE = Transformer("mixture", 2, 256, 4, 500, 64, kv_heads=2, gated=True, experts=4, active_experts=2)
SPACES = [(DENSE, 4, 8), (DENSE, 6, 12), (MIXTURE, 4, 8)]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
TIGHT = replace(DGX_H100, network=replace(DGX_H100.network, gpus_per_node=2), price_per_gpu_hour=2.0)
"""Nodes of two GPUs, so that small groups cross them."""


class Tried(NamedTuple):
    layout: Layout
    step_s: float
    reserved_bytes: float


def query(model: Transformer, gpus: int, batch: int, most_bytes: float = 80e9, **more: Any) -> Query:
    cluster = replace(TIGHT, device=replace(TIGHT.device, memory_bytes=most_bytes))
    return Query(model, cluster, gpus, batch, **{"reserve_bytes": 0.0, "tokens": 1e9, **more})


def every_layout(model: Transformer, gpus: int, batch: int) -> Iterator[Layout]:
    """All there are, found by trying all numbers."""
    up_to = range(1, gpus + 1)
    for tensor, pipeline, context, data in itertools.product(up_to, repeat=4):
        if tensor * pipeline * context * data != gpus:
            continue
        for expert, micro_batch, chunks, parallel, schedule, recompute, stage in itertools.product(
            range(1, model.experts + 1), range(1, batch + 1), range(1, model.layers + 1), (False, True),
            get_args(Schedule), get_args(Recompute), get_args(ZeroStage),
        ):  # fmt: skip
            if (parallel and tensor == 1) or (stage and data * context == 1):
                continue
            if (chunks > 1) != (schedule == "interleaved") or (pipeline == 1 and schedule != "1f1b"):
                continue
            try:
                layout = Layout(
                    data, tensor, pipeline, context, expert, parallel, chunks, schedule, micro_batch, batch,
                    recompute, stage,
                )  # fmt: skip
                layout.check(model)
                local_key_value_heads(model, layout)
            except SettingError:
                continue
            if chunks == 1 or layout.micro_batches % pipeline == 0:
                yield layout


@cache
def brute(index: int) -> tuple[Tried, ...]:
    model, gpus, batch = SPACES[index]
    return tuple(
        Tried(
            layout,
            predict_step(model, layout, TIGHT).step_s,
            training_memory(model, layout).reserved_bytes,
        )
        for layout in every_layout(model, gpus, batch)
    )


def value_of(tried: Tried, asked: Query) -> float:
    if asked.objective == "memory":
        return tried.reserved_bytes
    return asked.cost(tried.step_s, tried.layout.gpus) if asked.objective == "cost" else tried.step_s


def limit_of(index: int, share: float) -> float:
    """A GPU's memory with which about that share of the layouts fits."""
    sizes = sorted(tried.reserved_bytes for tried in brute(index))
    return sizes[min(len(sizes) - 1, int(share * len(sizes)))]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    index=st.sampled_from(range(len(SPACES))),
    objective=st.sampled_from(OBJECTIVES),
    share=st.floats(0, 1),
    keep=st.integers(1, 8),
)
def test_the_best_are_those_of_brute_force(index: int, objective: Objective, share: float, keep: int) -> None:
    """And each other layout is counted under one reason."""
    most_bytes = limit_of(index, share)
    # With nodes of two GPUs the cost would be of fewer, too: 6 are three nodes, 4 are two or one.
    whole = replace(TIGHT.network, gpus_per_node=SPACES[index][1])
    asked = query(*SPACES[index], most_bytes, objective=objective, keep=keep)
    table = brute(index)
    if objective == "cost":
        asked = replace(asked, cluster=replace(asked.cluster, network=whole))
        steps = StepModel(asked.model, asked.cluster, asked.program)
        table = tuple(row._replace(step_s=steps.step(row.layout).step_s) for row in table)
    found = search(asked)
    fits = [tried for tried in table if tried.reserved_bytes <= most_bytes]
    best: dict[Mesh, float] = {}
    for tried in fits:
        mesh = mesh_of(tried.layout)
        best[mesh] = min(best.get(mesh, float("inf")), value_of(tried, asked))
    got = [value_of(Tried(r.layout, r.step.step_s, r.memory.reserved_bytes), asked) for r in found.best]
    assert got == pytest.approx(sorted(best.values())[:keep])
    for ranked in found.best:
        assert best[mesh_of(ranked.layout)] == pytest.approx(got[found.best.index(ranked)])
        assert ranked.headroom_bytes == most_bytes - ranked.memory.reserved_bytes >= 0
    by_rule = sum(row.count for row in found.rejected if row.kind == "rule" and row.of == "layouts")
    assert found.layouts == len(table) + by_rule
    counted = sum(row.count for row in found.rejected if row.of == "layouts")
    assert counted + len(found.best) == found.layouts


@pytest.mark.parametrize("index", range(len(SPACES)))
def test_bounds_hold(index: int) -> None:
    asked = query(*SPACES[index])
    bounds = Bounds(asked, StepModel(asked.model, asked.cluster, asked.program))
    table = {tried.layout: tried for tried in brute(index)}
    seen, made, tight = 0, 0, 0
    for mesh in meshes(asked, asked.gpus):
        if obstacle(asked.model, mesh, asked.global_batch) is not None:
            continue
        for cell, _ in cells(asked, mesh):
            first = layout_of(asked, cell, cell.choices[0], "none")
            least_s, least_bytes = bounds.time_s(cell, first), bounds.cell_bytes(cell, first)
            of_cell = []
            made += 1
            for choice, recompute in itertools.product(cell.choices, cell.recomputes):
                part = cell._replace(recomputes=(recompute,))
                part_s, part_bytes = bounds.time_s(part, first), bounds.cell_bytes(part, first)
                assert least_s <= part_s * (1 + 1e-12)
                assert (
                    least_bytes
                    <= part_bytes
                    <= bounds.memory_bytes(layout_of(asked, cell, choice, recompute)) * (1 + 1e-12)
                )
                assert part_s <= table[layout_of(asked, cell, choice, recompute)].step_s * (1 + 1e-12)
                tried = table[layout_of(asked, cell, choice, recompute)]
                seen += 1
                of_cell.append(tried.step_s)
                peak_bytes = tried.reserved_bytes * (1 - asked.settings.fragmentation)
                assert least_s <= tried.step_s * (1 + 1e-12)
                assert least_bytes <= bounds.memory_bytes(tried.layout) * (1 + 1e-12)
                assert bounds.memory_bytes(tried.layout) <= peak_bytes * (1 + 1e-12)
            tight += least_s > 0.9 * min(of_cell)
    assert seen == len(table)
    assert tight > 0.5 * made  # a bound of 0 would hold, too


@pytest.mark.parametrize("index", range(len(SPACES)))
def test_more_memory_never_makes_the_best_slower(index: int) -> None:
    last = float("inf")
    for share in (0.02, 0.1, 0.3, 0.6, 1.0):
        found = search(query(*SPACES[index], limit_of(index, share), keep=1))
        assert found.best[0].step.step_s <= last
        last = found.best[0].step.step_s


@pytest.mark.parametrize("index", range(len(SPACES)))
def test_each_objective_has_the_best_of_its_kind(index: int) -> None:
    most_bytes = limit_of(index, 0.5)
    time, cost, memory = (
        search(query(*SPACES[index], most_bytes, objective=objective)).best[0]
        for objective in ("time", "cost", "memory")
    )
    assert time.step.step_s <= min(memory.step.step_s, cost.step.step_s)
    assert memory.headroom_bytes >= max(time.headroom_bytes, cost.headroom_bytes)
    assert cost.cost is not None
    assert time.cost is not None
    assert memory.cost is not None
    assert cost.cost <= min(time.cost, memory.cost)


def test_the_cost_may_be_lower_on_fewer_gpus() -> None:
    large = Transformer("large", 4, 4096, 32, 32000, 2048)
    found = search(query(large, 8, 8, objective="cost", keep=50))
    assert found.query.gpu_counts == (8, 4, 2)
    assert found.best[0].layout.gpus < 8
    assert {ranked.layout.gpus for ranked in found.best} == {8, 4, 2}
    best = found.best[0]
    assert best.cost == pytest.approx(best.step.step_s / 3600 * best.layout.gpus * 2.0 * 1e9 / (8 * 2048))
    # Fewer days need more GPUs, and cost more.
    fastest = search(replace(found.query, objective="time")).best[0]
    assert best.days is not None
    assert fastest.days is not None
    days = (best.days + fastest.days) / 2
    quick = search(replace(found.query, days=days, keep=1))
    assert quick.best[0].days is not None
    assert quick.best[0].days <= days < best.days
    assert quick.best[0].cost is not None
    assert best.cost is not None
    assert quick.best[0].cost > best.cost
    assert quick.count("days") > 0
    assert why(quick, best.layout).kind == "days"


def test_why_of_every_layout_of_a_space() -> None:
    most_bytes = limit_of(0, 0.5)
    found = search(query(*SPACES[0], most_bytes))
    best = found.best[0]
    for tried in brute(0)[::7]:
        said = why(found, tried.layout)
        assert said.text.endswith(".")
        if tried.layout == best.layout:
            assert said.kind == "best"
        elif tried.reserved_bytes > most_bytes:
            assert said.kind == "memory"
            assert said.over_bytes == pytest.approx(tried.reserved_bytes - most_bytes)
        else:
            assert said.kind == "behind"
            assert said.slower_s == pytest.approx(tried.step_s - best.step.step_s)
            assert sum(gap.seconds for gap in said.differences) == pytest.approx(said.slower_s, abs=1e-12)
            assert said.behind == said.slower_s
            if said.slower_s > 1e-9 * best.step.step_s:
                assert said.differences[0].term in said.text
            else:
                assert "as long" in said.text


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_how_far_behind_is_in_the_objectives_unit(objective: Objective) -> None:
    asked = query(*SPACES[0], limit_of(0, 0.7), objective=objective)
    found = search(asked)
    second = found.best[1]
    said = why(found, second.layout)
    values = [
        value_of(Tried(row.layout, row.step.step_s, row.memory.reserved_bytes), asked)
        for row in found.best[:2]
    ]
    assert said.kind == "behind"
    assert said.behind == pytest.approx(values[1] - values[0])
    assert {"time": "a step takes", "cost": "it costs", "memory": "GiB more"}[objective] in said.text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": 2}, "the layout has 2 GPUs; the search is for 4"),
        ({"global_batch": 16}, "global_batch is 16; the search is for 8"),
        ({"data": 1, "context": 4, "zero_stage": 0, "expert": 1}, None),
        ({"data": 2, "pipeline": 2, "schedule": "interleaved"}, "interleave is 1 with schedule 'interleaved'"),
        ({"data": 2, "pipeline": 2, "schedule": "interleaved", "interleave": 2, "micro_batch": 4},
         "micro_batches is 1, which pipeline 2 does not divide"),
        ({"schedule": "gpipe"}, "schedule is 'gpipe' without a pipeline"),
        ({"sequence_parallel": True}, "sequence_parallel is true with tensor 1"),
        ({"data": 1, "tensor": 4, "zero_stage": 1}, "zero_stage is 1, with no ranks"),
    ],
)  # fmt: skip
def test_why_names_the_rule(changed: dict[str, Any], words: str | None) -> None:
    found = search(query(*SPACES[0]))
    said = why(found, replace(Layout(data=4, global_batch=8), **changed))
    assert (said.kind == "rule") == (words is not None)
    assert words is None or words in said.text


def test_the_nearest_are_the_best_with_one_field_changed() -> None:
    most_bytes = limit_of(1, 0.4)
    found = search(query(*SPACES[1], most_bytes))
    fits = [tried for tried in brute(1) if tried.reserved_bytes <= most_bytes]
    rows = nearest(found)
    assert {name for name, _, _ in rows} >= {"micro_batch", "zero_stage", "recompute"}
    for name, value, said in rows:
        have = [tried.step_s for tried in fits if getattr(tried.layout, name) == value]
        assert (said.kind in ("rule", "memory")) == (not have), (name, value, said)
        if have:
            assert said.step is not None
            assert said.step.step_s == pytest.approx(min(have))
            assert best_with(found, {name: value}) is not None


def test_why_with_fields_that_cannot_be() -> None:
    found = search(query(*SPACES[0]))
    for fields, words in (
        ({"tensor": 3}, "tensor is 3, which does not divide heads, 4"),
        ({"context": 8}, "which does not divide 4 GPUs"),
        ({"micro_batch": 3}, "which data times micro_batch"),
    ):
        said = why_with(found, fields)
        assert said.kind == "rule"
        assert words in said.text


def test_fixed_fields_are_kept() -> None:
    found = search(query(*SPACES[0], fixed={"pipeline": 2, "zero_stage": 1, "recompute": "full"}, keep=9))
    assert found.best
    for ranked in found.best:
        layout = ranked.layout
        assert (layout.pipeline, layout.zero_stage, layout.recompute) == (2, 1, "full")
    assert "pipeline 2 alone" in why(found, Layout(data=4, global_batch=8)).text
    for fixed, words in (
        (
            {"tensor": 3},
            r"gpus is 4 and global_batch 8, of which no layout has tensor 3 \(tensor must divide gpus, 4",
        ),
        (
            {"micro_batch": 3},
            r"no layout has micro_batch 3 \(micro_batch must divide global_batch, 8\); choose",
        ),
        ({"interleave": 7}, r"no layout has interleave 7 \(pipeline times interleave must divide layers"),
        ({"expert": 5}, r"no layout has expert 5 \(expert must divide experts, 1\)"),
        ({"schedule": "gpipe", "interleave": 2}, "no layout has schedule gpipe, interleave 2"),
    ):
        with pytest.raises(SettingError, match=words):
            search(query(*SPACES[0], fixed=fixed))
    thin = replace(DENSE, heads=2)
    with pytest.raises(SettingError, match=r"no layout has tensor 4 \(tensor must divide heads\)"):
        search(query(thin, 4, 8, fixed={"tensor": 4}))


def test_where_nothing_fits() -> None:
    found = search(query(*SPACES[0], 1e6))
    assert found.best == ()
    assert found.count("memory") + found.count("rule") >= found.layouts
    with pytest.raises(SettingError, match="no layout fits"):
        why_with(found, {"tensor": 2})
    assert nearest(found) == ()
    said: Why = why(found, Layout(data=4, global_batch=8))
    assert said.kind == "memory"
    assert "more than the 0.0 that are usable; the largest term is" in said.text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"gpus": 0}, "gpus is 0"),
        ({"gpus": True}, "gpus is True"),
        ({"gpus": 2**21}, "gpus is 2097152; a search takes at most"),
        ({"global_batch": 10**18}, "global_batch is 1000000000000000000; a search takes at most"),
        ({"model": replace(DENSE, layers=10**12)}, "layers is 1000000000000; a search takes at most"),
        ({"objective": "speed"}, "objective is 'speed'"),
        ({"objective": "cost", "tokens": None}, "tokens is missing"),
        ({"days": 3.0, "tokens": None}, "tokens is missing"),
        ({"days": -3.0}, "days is -3.0"),
        ({"reserve_bytes": 80e9}, "reserve_bytes, 8e"),
        ({"fixed": {"layers": 3}}, "'layers' of fixed is no field"),
        ({"software": Software(Kernels(fused_attention=False))}, "fused_attention is False with attention 'flash'"),
        ({"settings": MemorySettings(precision="fp32")}, "precision is 'fp32'"),
        ({"software": Software(Kernels(gradient_bytes=4))}, "gradient_bytes is 4"),
    ],
)  # fmt: skip
def test_nonsense_names_the_field(more: dict[str, Any], words: str) -> None:
    usual = query(*SPACES[0])
    with pytest.raises(SettingError, match=words.replace("'", ".")):
        replace(usual, **more)
    free = replace(usual.cluster, price_per_gpu_hour=None)
    with pytest.raises(SettingError, match="price_per_gpu_hour is not set"):
        replace(usual, objective="cost", cluster=free)


def test_settings_that_do_not_go_with_a_zero_stage_are_counted() -> None:
    found = search(query(*SPACES[0], settings=MemorySettings(optimizer="adafactor"), keep=9))
    assert all(ranked.layout.zero_stage == 0 for ranked in found.best)
    assert any(row.reason.startswith("settings") and row.count for row in found.rejected)


def test_a_trillion_parameters_on_16384_gpus() -> None:
    """The whole space is accounted for, and the best layout is really in it."""
    model = Transformer("GPT 1T", 128, 25600, 160, 51200, 2048)
    shares: list[float] = []
    found = search(Query(model, DGX_H100, 16384, 4096), shares.append)
    counted = sum(row.count for row in found.rejected if row.of == "layouts")
    assert counted + len(found.best) == found.layouts > 400_000
    assert found.meshes == 680  # 16 choose 2 + ...: exponents of 2 that add up to at most 14, three of them
    for ranked in found.best:
        assert training_memory(model, ranked.layout).reserved_bytes <= DGX_H100.device.memory_bytes - 3 * GIB
        assert ranked.layout.gpus == 16384
        assert predict_step(model, ranked.layout, DGX_H100) == ranked.step
    assert 0.3 < found.best[0].step.mfu < 0.6
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] < 1


def test_published_layouts_are_near_the_best() -> None:
    """Narayanan et al. chose by hand and by trial, on A100 with the software of 2021: the search finds much the same.

    Their memory is not known: fp32 gradients in buffers, dropout, attention scores kept, a tenth lost to fragments.
    """
    settings = MemorySettings(
        "adamw", "mixed_fp32_gradients", "scores", dropout=True, gradient_buffers=True, fragmentation=0.1
    )
    fixed = {"recompute": "full", "zero_stage": 0, "context": 1, "sequence_parallel": False}
    cases = [case for case in FITTED if case.unit == "tflops_per_gpu" and case.layout.pipeline > 1]
    behind = {}
    for case in cases:
        cut = case.layout
        found = search(
            Query(case.model, SELENE, cut.gpus, cut.global_batch, settings=settings, fixed=fixed, keep=1)
        )
        said = why_with(found, {"tensor": cut.tensor, "pipeline": cut.pipeline})
        behind[case.name] = said.slower_s / found.best[0].step.step_s
    print({name: f"{share:.1%}" for name, share in behind.items()})
    assert len(behind) == 3
    assert max(behind.values()) < 0.15
    assert behind["529.6B"] == 0  # tensor 8, pipeline 35: the search's own choice


def test_divisors() -> None:
    assert divisors(36) == (1, 2, 3, 4, 6, 9, 12, 18, 36)
    assert divisors(1) == (1,)
