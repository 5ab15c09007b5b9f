"""Figures simulate what they claim, are valid SVG, can be read in both themes and without seeing."""

import re
import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, Series, diagrams, plot, timelines
from distlab.figures.runs import run_log
from distlab.figures.telemetry import side_by_side, telemetry
from distlab.observe.simulated import simulate
from distlab.predict.scaling import pipeline_efficiency
from distlab.train.records import LogLine


def log_line(step: int) -> LogLine:
    return LogLine(
        step=step, epoch=0, loss=2.0 / (step + 1), learning_rate=0.1, samples=8, tokens=8, step_s=0.02, data_s=0.001,
        compute_s=0.015, communication_s=0.004, rank=0, world_size=2, attempt=0, tier="cpu", time=0.0, run_s=1.0,
        samples_per_s=400.0, tokens_per_s=400.0, ram_bytes=10**9, vram_bytes=None, mfu=None, cost=0.0,
    )  # fmt: skip


def drawn() -> list[Figure]:
    return [
        diagrams.topology(),
        diagrams.memory_map(7.5e9, 64, 80e9),
        diagrams.tensor_parallel(),
        diagrams.placement([["a", "a", "", "b"], ["b", "b", "", ""]], "caption", "alt"),
        timelines.ring_all_reduce(4),
        timelines.buckets(0.1, [25.0] * 4, [0.02, 0.03, 0.04, 0.04]),
        timelines.buckets(0.284, [25.0] * 199, [0.0023] * 199),
        timelines.pipeline(4, 8),
        timelines.hang(4, 2, ["7", "8", "9"]),
        run_log([log_line(step) for step in range(400)]),
        telemetry(simulate("overheating", seconds=200, gpus=2), ["temperature_C", "sm_clock_MHz"], [0, 1]),
        side_by_side({name: simulate(name, seconds=5, gpus=1) for name in ("training", "data-starved")}),
        plot(
            [Series("model", [1, 10], [1, 2]), Series("measured", [1, 10], [1.1, 1.9], "points")],
            x="payload (MiB)",
            y="time (ms)",
            alt="model and measurement, which agree",
            caption="A plot.",
            log_x=True,
            level=(1.5, "limit"),
        ),
    ]


@pytest.mark.parametrize("figure", drawn(), ids=lambda figure: figure.alt[:24])
def test_a_figure_is_inline_svg_for_every_reader(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == figure.alt
    assert len(figure.alt) >= 3
    assert "currentColor" in figure.svg, "text in the page's own colour"
    assert not re.search(r'(fill|stroke)="(black|white|#000000|#ffffff)"', figure.svg), "theme-bound colour"
    assert "<style" not in figure.svg, "a style sheet in the figure would apply to the whole page"
    assert "http" not in figure.svg.replace("http://www.w3.org/", ""), "nothing is loaded"
    assert float(root.get("viewBox", "").split()[2]) <= 480, "wider text would be too small on a phone"
    to_pixels = 4 / 3 if "scale(1.33333)" in figure.svg else 1  # matplotlib counts in points
    sizes = [
        float(e.get("font-size", "").removesuffix("px")) * to_pixels
        for e in root.iter()
        if e.get("font-size")
    ]
    assert min(sizes) >= 9


def test_figures_come_out_the_same_twice() -> None:
    assert [f.svg for f in drawn()] == [f.svg for f in drawn()]


def test_marks_stay_on_the_canvas() -> None:
    for figure in drawn()[:-2]:
        root = ET.fromstring(figure.svg)
        width, height = map(float, root.get("viewBox", "").split()[2:])
        for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
            x, y, w, h = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
            assert x >= 0
            assert y >= 0
            assert x + w <= width + 0.5, figure.alt
            assert y + h <= height + 0.5, figure.alt


def test_caption_and_alt_text_cannot_inject_markup() -> None:
    html = Figure("<svg/>", "a", "<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in html


def test_a_bucket_timeline_says_what_the_model_computes() -> None:
    # The wire starts with the first of 4 buckets (25 ms) and is busy for 4 x 40 ms: 85 ms after the pass.
    assert "exposed 85 ms" in timelines.buckets(0.100, [1.0] * 4, [0.040] * 4).svg


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_the_ring_ends_with_every_chunk_complete_everywhere(world_size: int) -> None:
    states = timelines.ring_states(world_size)
    assert len(states) - 1 == 2 * (world_size - 1)
    assert states[-1] == [[world_size] * world_size] * world_size
    half = states[world_size - 1]
    assert [row.count(world_size) for row in half] == [1] * world_size, "one finished chunk on each rank"


@pytest.mark.parametrize(("stages", "microbatches"), [(1, 1), (2, 3), (4, 4), (4, 8)])
def test_the_pipeline_schedule_is_feasible_and_has_the_predicted_bubble(
    stages: int, microbatches: int
) -> None:
    slots = timelines.pipeline_slots(stages, microbatches)
    for m in range(microbatches):
        starts = [row.index(f"F{m}") for row in slots]
        assert starts == sorted(starts)
        assert len(set(starts)) == stages, "a stage waits for the one before"
        backwards = [row.index(f"B{m}") for row in slots]
        assert backwards == sorted(backwards, reverse=True)
        assert all(b > f for f, b in zip(starts, backwards, strict=True))
    busy = sum(bool(s) for row in slots for s in row) / (stages * len(slots[0]))
    assert busy == pytest.approx(pipeline_efficiency(stages, microbatches))
