"""The pipeline's schedules, piece by piece, against the closed forms of their bubble."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from distlab.errors import SettingError
from distlab.figures.timelines import pipeline_slots
from distlab.predict.cluster import DGX_H100
from distlab.predict.plots.step import MOST_STAGES, durations, step_chart
from distlab.predict.plots.timeline import Durations, Slot, idle_s, schedule
from distlab.predict.scaling import pipeline_efficiency
from distlab.predict.step_time import Software, bubble_of, predict_step
from distlab.predict.transformer import Layout, Schedule, Transformer

TIMES = Durations(1.0, 2.0, 0.9, 0.3, 0.6)
KINDS: tuple[Schedule, ...] = ("gpipe", "1f1b", "interleaved", "zero_bubble")
GPT = Transformer("GPT", layers=16, hidden=1024, heads=16, vocabulary=32000, sequence=1024)


def end_s(plan: tuple[Slot, ...]) -> float:
    return max(slot.end_s for slot in plan)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("p", "m"), list(itertools.product((1, 2, 4, 8), (1, 2, 3, 8, 16, 17))))
def test_a_schedule_is_one(kind: Schedule, p: int, m: int) -> None:
    """Every piece once, one at a time on a stage, and none before what it needs."""
    for v in (1, 2, 3):
        plan = schedule(p, m, TIMES, kind, v)
        split = kind == "zero_bubble" and p > 1
        chunks = 1 if split else v
        works = ("forward", "backward", *(("weights",) if split else ()))
        assert Counter(slot[:4] for slot in plan) == Counter(
            itertools.product(range(p), works, range(chunks), range(m))
        )
        ends = {slot[:4]: slot.end_s for slot in plan}
        for before, after in itertools.pairwise(plan):
            if before.stage == after.stage:
                assert before.end_s <= after.start_s
        for slot in plan:
            if slot.work == "forward" and slot.stage:
                assert slot.start_s >= ends[slot.stage - 1, "forward", slot.chunk, slot.micro_batch]
            if slot.work == "forward" and not slot.stage and slot.chunk:
                assert slot.start_s >= ends[p - 1, "forward", slot.chunk - 1, slot.micro_batch]
            if slot.work == "backward":
                assert slot.start_s >= ends[slot.stage, "forward", slot.chunk, slot.micro_batch]
                if slot.stage < p - 1:
                    assert slot.start_s >= ends[slot.stage + 1, "backward", slot.chunk, slot.micro_batch]
            if slot.work == "weights":
                assert slot.start_s >= ends[slot.stage, "backward", slot.chunk, slot.micro_batch]


@pytest.mark.parametrize(("p", "v"), list(itertools.product((1, 2, 4, 8), (1, 2, 3))))
def test_its_bubble_is_the_closed_form(p: int, v: int) -> None:
    """(p - 1)/v of a micro-batch (Narayanan et al., SC'21), where the micro-batches are a multiple of p; less twice the
    gradients of weights (Qi et al., 2023), where there are p or more."""
    for m in (p, 2 * p, 5 * p):
        alone_s = m * (1 + 2 + 0.3 + 0.6)
        for kind in ("gpipe", "1f1b", "interleaved"):
            assert end_s(schedule(p, m, TIMES, kind, v)) == pytest.approx(alone_s + (p - 1) * 3 / v)
        without = schedule(p, m, Durations(1.0, 2.0), "1f1b", v)
        assert idle_s(without) / end_s(without) == pytest.approx(1 - pipeline_efficiency(p, m, v))
        zero = schedule(p, m, TIMES, "zero_bubble", v)
        assert end_s(zero) == pytest.approx(alone_s + (p - 1) * (3 - 2 * 0.9))


def test_groups_that_are_not_whole_cost_more_than_the_closed_form() -> None:
    """Megatron-LM refuses them: interleaving cannot overlap the last group."""
    assert end_s(schedule(4, 10, Durations(1.0, 2.0), "1f1b", 2)) > 10 * 3 + 3 * 3 / 2


def test_gpipe_is_the_book_s() -> None:
    slots = pipeline_slots(4, 6)
    plan = schedule(4, 6, Durations(1.0, 2.0), "gpipe")
    for slot in plan:
        letter = {"forward": "F", "backward": "B"}[slot.work]
        assert slots[slot.stage][round(slot.start_s)] == f"{letter}{slot.micro_batch}"


def test_1f1b_keeps_no_more_than_the_stages_that_follow() -> None:
    """p - stage micro-batches in flight (Narayanan et al., SC'21, section 2.2.1)."""
    for stage in range(4):
        flying = most = 0
        for slot in (slot for slot in schedule(4, 12, TIMES) if slot.stage == stage):
            flying += {"forward": 1, "backward": -1}.get(slot.work, 0)
            most = max(most, flying)
        assert most == 4 - stage


@pytest.mark.parametrize("name", ["stages", "micro_batches", "interleave"])
def test_counts_below_one_are_named(name: str) -> None:
    counts = {"stages": 2, "micro_batches": 2, "interleave": 2, name: 0}
    with pytest.raises(SettingError, match=f"{name} is 0"):
        schedule(counts["stages"], counts["micro_batches"], TIMES, "1f1b", counts["interleave"])


@pytest.mark.parametrize("p", [2, 5, 8])
@pytest.mark.parametrize("m", [1, 2, 3, 7, 8, 20])
def test_zero_bubble_is_the_closed_form_for_few_micro_batches_too(p: int, m: int) -> None:
    for weights_s in (0.0, 0.5, 1.0):
        for times in (Durations(1.0, 2.1, weights_s), Durations(1.0, 2.1, weights_s, 0.3, 0.6)):
            alone_s = m * (3.1 + times.output_forward_s + times.output_backward_s)
            bubble_s = bubble_of("zero_bubble", 1, m, p, 3.1, weights_s)
            assert end_s(schedule(p, m, times, "zero_bubble")) == pytest.approx(alone_s + bubble_s)


@pytest.mark.parametrize(
    ("kind", "micro_batches"),
    [(kind, m) for kind in KINDS for m in (4, 16, 2, 3) if kind != "interleaved" or m % 4 == 0],
)
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_step_s_schedule_takes_what_the_step_model_says(
    kind: Schedule, micro_batches: int, recompute: str
) -> None:
    v = 2 if kind == "interleaved" else 1
    layout = Layout(
        data=2,
        tensor=2,
        pipeline=4,
        interleave=v,
        schedule=kind,
        global_batch=2 * micro_batches,
        recompute=recompute,  # type: ignore[arg-type]
    )
    software = Software()
    found = predict_step(GPT, layout, DGX_H100, software)
    times = durations(GPT, layout, DGX_H100, software, found)
    plan = schedule(4, layout.micro_batches, times, kind, v)
    beside = ("parameter gathering", "gradient reduction", "optimizer", "data loading")
    inside_s = sum(term.seconds for term in found.terms if term.name not in beside)
    assert end_s(plan) == pytest.approx(inside_s)


@pytest.mark.parametrize("micro_batches", [8, 10])
def test_interleaving_wants_whole_groups(micro_batches: int) -> None:
    layout = Layout(pipeline=4, interleave=2, global_batch=micro_batches)
    if micro_batches % 4:
        with pytest.raises(SettingError, match="micro_batches is 10, which pipeline 4 does not"):
            predict_step(GPT, layout, DGX_H100)
    else:
        predict_step(GPT, layout, DGX_H100)


def test_long_and_deep_pipelines_are_cut() -> None:
    deep = Transformer("deep", layers=64, hidden=512, heads=8, vocabulary=1000, sequence=128)
    layout = Layout(pipeline=64, global_batch=1024)
    software = Software()
    chart = step_chart(deep, layout, DGX_H100, software, predict_step(deep, layout, DGX_H100, software))
    assert len(chart.stages) == MOST_STAGES
    assert (chart.stages[0], chart.stages[-1]) == (0, 63)
    assert chart.micro_batches < chart.of_micro_batches == 1024
    assert f"{chart.micro_batches} of 1024 micro-batches" in chart.caption
