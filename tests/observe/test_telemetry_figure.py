"""Figures of telemetry say whose numbers they hold, break where something is missing, and shade what is held down."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distlab.figures.telemetry import side_by_side, telemetry
from distlab.observe.sample import GpuSample, Reading
from distlab.observe.simulated import simulate
from distlab.observe.thermal import H100

BIBLIOGRAPHY = Path(__file__).parents[2] / "book" / "references.bib"


def lines(svg: str) -> list[str]:
    """Paths of lines in colour, as drawn: `M` begins a piece."""
    found = re.findall(
        r'<path d="([^"]+)"[^>]*(?:fill="none"[^>]*stroke="#0072b2"|stroke="#0072b2"[^>]*fill="none")', svg
    )
    return [path for path in found if path.count("L") > 3]


def test_a_figure_of_simulated_gpus_says_so_in_its_image() -> None:
    readings = simulate("overheating", seconds=200, gpus=2)
    for figure in (telemetry(readings, ["power_W"], [0, 1]), side_by_side({"hot": readings})):
        assert "SIMULATED H100 80GB, tier simulated" in figure.svg.replace("</tspan>", "")
        assert "SIMULATED" in figure.caption
        assert "power" in figure.alt


def test_a_gpu_that_was_lost_has_a_gap_in_its_line() -> None:
    readings = simulate("xid-79", seconds=200, gpus=2)
    (lost,) = lines(telemetry(readings, ["power_W"], [1]).svg)
    (there,) = lines(telemetry(readings, ["power_W"], [0]).svg)
    assert (lost.count("M"), there.count("M")) == (2, 1)


def test_a_value_that_is_not_known_has_a_gap_too() -> None:
    powers = [300.0, 310.0, 320.0, 330.0, 340.0, None, 310.0, 300.0, 310.0]
    samples = [
        GpuSample(time=i, gpu=0, uuid="a", name="x", tier="gpu", power_W=p) for i, p in enumerate(powers)
    ]
    (line,) = lines(telemetry([Reading((sample,)) for sample in samples], ["power_W"], [0]).svg)
    assert line.count("M") == 2


def test_what_holds_the_clock_down_is_named_and_shaded() -> None:
    hot = telemetry(simulate("overheating", seconds=200, gpus=2), ["sm_clock_MHz"], [0, 1])
    assert "Shaded: GPU 0's clock is held down by sw thermal slowdown." in hot.caption
    assert 'opacity="0.12"' in hot.svg
    well = telemetry(simulate("training", seconds=60, gpus=2), ["sm_clock_MHz"], [0, 1])
    assert "Shaded" not in well.caption
    assert 'opacity="0.12"' not in well.svg


def test_nothing_to_draw_is_said() -> None:
    readings = simulate("idle", seconds=2, gpus=1)
    with pytest.raises(ValueError, match="nothing to draw"):
        telemetry(readings, ["power_W"], [5])
    with pytest.raises(ValueError, match="nothing to draw"):
        side_by_side({"idle": readings}, gpu=5)


def test_every_constant_of_the_model_has_a_source() -> None:
    keys = set(re.findall(r"^@\w+\{([^,]+),", BIBLIOGRAPHY.read_text(), re.M))
    assert {constant.source for constant in H100.values()} <= keys | {"distlab_model"}
