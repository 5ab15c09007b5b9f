"""Figures by themselves: they say what they show, on what, and no word or mark covers another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from distlab.predict import network
from distlab.predict.cluster import DGX_H100
from distlab.predict.convnet_cases import convnet_cluster
from distlab.predict.convnet_step import convnet_step
from distlab.predict.convnets import convnet
from distlab.predict.goodput import Checkpoint, Recovery
from distlab.predict.hardware import accelerator
from distlab.predict.models import MODELS
from distlab.predict.plots import drawing
from distlab.predict.plots.axes import wrapped
from distlab.predict.plots.chart import Chart, in_short, mesh, time_text
from distlab.predict.plots.exchange import over_payload, over_ranks
from distlab.predict.plots.growth import growth
from distlab.predict.plots.intervals import intervals
from distlab.predict.plots.overlap import overlap
from distlab.predict.plots.placement import placement
from distlab.predict.plots.ranking import ranking
from distlab.predict.plots.step import StepChart, step_chart
from distlab.predict.plots.timeline import idle_s
from distlab.predict.plots.waterfall import memory_waterfall
from distlab.predict.search import Query, search
from distlab.predict.step_time import Software, predict_step
from distlab.predict.training_memory import training_memory
from distlab.predict.transformer import Layout

LLAMA, MIXTRAL = MODELS["llama3-70b"].model, MODELS["mixtral-8x7b"].model
H100 = accelerator("h100")
WIDE = Layout(data=16, tensor=8, pipeline=4, global_batch=128)


def memory(name: str, layout: Layout) -> Chart:
    return memory_waterfall(training_memory(MODELS[name].model, layout), H100, f"Memory: {name}", layout)


def step(name: str, layout: Layout) -> StepChart:
    model, software = MODELS[name].model, Software()
    return step_chart(model, layout, DGX_H100, software, predict_step(model, layout, DGX_H100, software))


def resnet() -> Chart:
    net, cluster = convnet("resnet50"), convnet_cluster("horovod_roce")
    steps = [convnet_step(net, 64, gpus, cluster) for gpus in (1, 4, 64)]
    return overlap(net, steps[-1], steps, ((16, 0.9), (256, 0.8)), hardware=cluster.name)


CHARTS: dict[str, Callable[[], Chart]] = {
    "a limit far to the left": lambda: memory(
        "llama3-70b", Layout(data=64, zero_stage=3, micro_batch=4, global_batch=256)
    ),
    "one GPU": lambda: step("gpt2", Layout(global_batch=8)),
    "stages": lambda: step("llama3-70b", WIDE),
    "part of a step": lambda: step("gpt2", Layout(global_batch=2000)),
    "growth": lambda: growth(LLAMA, WIDE, DGX_H100),
    "kernels at one place": lambda: placement(LLAMA, WIDE, DGX_H100.device),
    "experts": lambda: placement(MIXTRAL, Layout(data=8, expert=8, global_batch=8), DGX_H100.device),
    "payload": lambda: over_payload("all_reduce", network.system("a100_dgx", 16, 8), 1e9),
    "ranks": lambda: over_ranks(
        "all_reduce", 2**26, lambda n: network.system("dgx_h100", n, min(n, 8)), 8, where=", dgx_h100"
    ),
    "Young and Daly at the best": lambda: intervals(Recovery(2e5, 60, 600), Checkpoint(7200, 10)),
    "cnn": resnet,
    "best layouts": lambda: ranking(search(Query(MODELS["gpt-22b"].model, DGX_H100, 32, 64))),
}


def words_of(canvas: Any, renderer: Any) -> list[tuple[str, Any]]:
    """Every text that is drawn, with the box of its letters: ticks beyond their axis are not."""
    unseen = set()
    for axis in canvas.findobj(Axis):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        unseen |= {label for tick in beyond for label in (tick.label1, tick.label2)}
    texts = [text for text in canvas.findobj(Text) if text.get_visible() and text not in unseen]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]


@functools.cache
def drawn(name: str) -> tuple[Any, Any, Any]:
    """A chart of CHARTS, its figure as a file has it, and the renderer that has drawn it."""
    chart = CHARTS[name]()
    with drawing._drawn(chart) as canvas:
        drawing.framed(canvas, chart)
        agg: Any = FigureCanvasAgg(canvas)
        canvas.draw_without_rendering()
    return chart, canvas, agg.get_renderer()


@pytest.mark.parametrize("name", CHARTS)
def test_no_word_covers_another(name: str) -> None:
    chart, canvas, renderer = drawn(name)
    words = words_of(canvas, renderer)
    for (first, a), (second, b) in itertools.combinations(words, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1 or high <= 1, f"{first!r} and {second!r} overprint"
    for text, box in words:
        assert -1 <= box.x0 < box.x1 <= canvas.bbox.x1 + 1, f"{text!r} is cut off"
        assert -1 <= box.y0 < box.y1 <= canvas.bbox.y1 + 1, f"{text!r} is cut off"
    assert [text for text, _ in words].count(chart.title) == 1
    assert chart.about.endswith("predicted")
    assert chart.heading in chart.in_words()


def test_a_layout_in_short() -> None:
    assert in_short(Layout()) == "1 GPU, micro-batch 1, batch 1"
    zero = replace(WIDE, schedule="zero_bubble")
    assert ("zero-bubble" in in_short(WIDE), "zero-bubble" in in_short(zero)) == (False, True)
    assert in_short(WIDE).startswith("512 GPUs = TP 8 x PP 4 x DP 16, ")
    many = Layout(data=8, context=2, expert=4, zero_stage=3, recompute="full", micro_batch=2, global_batch=16)
    for part in ("CP 2 x DP 8", "EP 4", "ZeRO 3", "recompute full", "micro-batch 2, batch 16"):
        assert part in in_short(many)


def test_the_first_stage_idles_for_the_bubble_and_the_output_layer() -> None:
    """Its share of the schedule is not the bubble's of the step, and the caption says what is between them."""
    chart = drawn("stages")[0]
    found = predict_step(LLAMA, WIDE, DGX_H100)
    terms = {term.name: term.seconds for term in found.terms}
    assert idle_s(chart.plan) == pytest.approx(terms["pipeline bubble"] + terms["output layer"])
    assert (
        f"{chart.idle_share:.0%} of the schedule: {time_text(terms['pipeline bubble'])} of bubble"
        in chart.caption
    )
    assert f"{time_text(terms['output layer'])} in which only the last stage has work" in chart.caption
    assert "Stage 0 idles" not in drawn("one GPU")[0].caption


@pytest.mark.parametrize(("name", "whole"), [("stages", True), ("one GPU", True), ("part of a step", False)])
def test_a_schedule_and_its_sum_have_one_axis(name: str, whole: bool) -> None:
    chart, canvas, _ = drawn(name)
    above, below = canvas.axes[:2]
    assert chart.whole == whole
    assert (above.get_xlim() == below.get_xlim()) == whole
    assert above.get_position().x0 == pytest.approx(below.get_position().x0)
    assert above.get_position().x1 == pytest.approx(below.get_position().x1)


@pytest.mark.parametrize("name", ["kernels at one place", "experts"])
def test_kernels_at_one_place_share_a_mark(name: str) -> None:
    chart, canvas, _ = drawn(name)
    axes = canvas.axes[0]
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    places = [axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0])) for line in marks]
    for (x0, y0), (x1, y1) in itertools.combinations(places, 2):
        assert max(abs(x1 - x0), abs(y1 - y0)) * 72 / canvas.dpi > 6, "as wide as a mark"
    labels = [line.get_label().replace("\n", " ") for line in marks]
    assert all(kernel.name in " ".join(labels) for kernel in chart.kernels)
    assert all("TFLOP/s at" in label for label in labels)


def test_times_have_a_unit_that_fits() -> None:
    _, canvas, _ = drawn("payload")
    labels = {label.get_text() for label in canvas.axes[0].get_yticklabels()}
    assert labels >= {"100 us", "1 ms", "100 ms", "1 s"}
    assert [time_text(x) for x in (2e-6, 0.2, 30, 90, 7200, 2e5, 1e9)] == [
        "2 us", "200 ms", "30 s", "1.5 min", "2 h", "2.31 days", "11,574 days"
    ]  # fmt: skip


def test_a_curve_over_ranks_names_all_links_that_it_meets() -> None:
    """What was asked for is inside a node; the curve leaves it."""
    assert "InfiniBand" in drawn("ranks")[0].about


def test_lines_break_between_words() -> None:
    words = "one two three four five six seven eight nine ten"
    lines = wrapped(words, 80).split("\n")
    assert len(lines) > 2
    assert " ".join(lines) == words
    assert wrapped("of 123 " * 5, 20).split("\n")[0] == "of 123"
    assert wrapped("unbreakable" * 9, 80) == "unbreakable" * 9


def test_layouts_are_ranked_as_they_were_found() -> None:
    found = search(Query(MODELS["gpt-22b"].model, DGX_H100, 32, 64))
    chart = drawn("best layouts")[0]
    factor = {"s": 1.0, "ms": 1e3}[chart.unit]
    assert [row.total for row in chart.rows] == pytest.approx(
        [ranked.step.step_s * factor for ranked in found.best[: len(chart.rows)]]
    )
    assert all(
        row.name.startswith(mesh(ranked.layout)) for row, ranked in zip(chart.rows, found.best, strict=False)
    )
