"""Diagrams of parallelism: what they show is computed right, and every reader can see it."""

import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, efficiency, parallelism, schedules
from distlab.figures.parallelism import causal_work, owners
from distlab.predict.scaling import pipeline_efficiency

FIGURES = {
    "cuts": parallelism.cuts(),
    "sequence": parallelism.sequence_parallel(),
    "causal": parallelism.causal_balance(4),
    "causal 2": parallelism.causal_balance(2),
    "mesh 4": parallelism.mesh(4),
    "mesh 8": parallelism.mesh(8),
    "pipeline": schedules.pipeline_schedules(),
    "pipeline 3": schedules.pipeline_schedules(3, 6),
    "synchrony": schedules.synchrony(),
    "chain": efficiency.chain(
        ["datasheet", "after the step", "after failures"],
        {"layout B": [1.0, 0.6, 0.55], "layout A": [1.0, 0.43, 0.4]},
        "Two jobs.",
    ),
}


@pytest.mark.parametrize("figure", FIGURES.values(), ids=FIGURES)
def test_marks_and_words_stay_on_the_canvas(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    width, height = map(float, root.get("viewBox", "").split()[2:])
    assert width <= 440
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
        assert -0.1 <= x <= x + w <= width + 0.1
        assert -0.1 <= y <= y + h <= height + 0.1
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        size, x = float(text.get("font-size", "0")), float(text.get("x", "0"))
        assert size >= 9
        assert float(text.get("y", "0")) <= height
        long = 0.56 * size * len(text.text or "")  # an average letter
        left = {"start": x, "middle": x - long / 2, "end": x - long}[text.get("text-anchor", "start")]
        assert left >= -4, text.text
        assert left + long <= width + 4, text.text


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_chunks_from_both_ends_make_the_work_of_a_causal_mask_equal(ranks: int) -> None:
    even, uneven = causal_work(owners(ranks, zigzag=True)), causal_work(owners(ranks, zigzag=False))
    assert sum(even) == sum(uneven) == 2 * ranks**2
    assert set(even) == {2.0 * ranks}
    assert max(uneven) == 2 * (2 * ranks - 1)


def test_a_schedule_is_as_idle_as_the_formula_says() -> None:
    idle = f"idle {1 - pipeline_efficiency(4, 8):.0%}"
    assert idle in FIGURES["pipeline"].svg
    assert f"idle {1 - pipeline_efficiency(4, 8, 2):.0%}" in FIGURES["pipeline"].svg


def test_workers_that_meet_less_often_do_more_steps_while_waits_are_as_long() -> None:
    often = schedules.synchronous((1.0, 1.5), 0.2, until=12.4)
    seldom = schedules.synchronous((1.0, 1.5), 0.2, until=12.4, every=4)
    never = schedules.asynchronous((1.0, 1.5), until=12.4)
    steps = [sum(not bar.waits for bar in bars) for bars in (often, seldom, never)]
    assert steps == [14, 16, 20]
    assert sum(bar.end - bar.start for bar in seldom if bar.waits) == pytest.approx(4.0)
    assert not any(bar.waits for bar in never)


def test_tensor_groups_are_neighbours() -> None:
    assert "2 in each node" in FIGURES["mesh 4"].svg
    assert "1 in each node" in FIGURES["mesh 8"].svg


def test_a_chain_is_of_two_jobs_with_a_share_for_each_stage() -> None:
    assert "layout A 40%" in FIGURES["chain"].alt
    with pytest.raises(ValueError, match="2 shares"):
        efficiency.chain(["a", "b"], {"B": [1.0, 0.5], "A": [1.0]}, "")
