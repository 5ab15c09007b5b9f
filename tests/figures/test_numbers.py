"""Diagrams of number formats agree with torch about bits and ranges, and keep to the page's rules."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
import torch

from distlab.figures import Figure, numbers

TORCH = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "E5M2": torch.float8_e5m2,
    "E4M3": torch.float8_e4m3fn,
}


@pytest.mark.parametrize(
    "figure",
    [
        numbers.formats(),
        numbers.ranges({"gradients": (-30, -4), "far": (10, 20)}),
        numbers.lost_update(0.02, 3e-5, 1.2e-4),
        numbers.recipe(),
        numbers.granularity(),
        numbers.overflow(),
    ],
    ids=lambda figure: figure.alt[:20],
)
def test_inline_svg_in_the_colours_of_the_page(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert "currentColor" in figure.svg
    assert "<style" not in figure.svg
    width, height = map(float, root.get("viewBox", "").split()[2:])
    assert width <= 440
    for text in root.findall("{*}text"):
        assert 0 <= float(text.get("x", "nan")) <= width
        assert 0 <= float(text.get("y", "nan")) <= height


@pytest.mark.parametrize("name", TORCH)
def test_bits_and_ranges_are_those_of_torch(name: str) -> None:
    exponent, fraction = numbers.LAYOUTS[name]
    info = torch.finfo(TORCH[name])
    assert 1 + exponent + fraction == info.bits
    assert info.eps == 2.0**-fraction
    least, normal, largest = numbers.RANGES[name]
    assert info.smallest_normal == pytest.approx(2.0**normal)
    assert normal - fraction == least
    assert math.log2(info.max) == pytest.approx(largest, abs=0.05)


def test_a_row_has_a_box_for_every_bit() -> None:
    boxes = ET.fromstring(numbers.formats().svg).findall("{*}rect")
    assert len(boxes) - 3 == sum(1 + sum(bits) for bits in numbers.LAYOUTS.values())
