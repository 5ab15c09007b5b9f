"""Diagrams of performance work: inline SVG that fits a phone, and says in words what it shows."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, performance
from tests.figures.fit import check_fits_a_phone

PADDING = performance.padding({"as they come": [[10], [40], [20]], "packed": [[10, 20], [40]]})


@pytest.mark.parametrize(
    "figure",
    [
        performance.loop(),
        performance.launches(7.3, 1.2),
        performance.launches(1.2, 7.3),
        PADDING,
        performance.packed_mask([3, 5, 2]),
    ],
    ids=lambda figure: figure.alt[:20],
)
def test_inline_svg_that_fits_a_phone(figure: Figure) -> None:
    check_fits_a_phone(figure)


def test_padding_is_what_the_rectangle_holds_beyond_its_samples() -> None:
    assert "as they come: 42% padding" in PADDING.alt  # 70 of 120
    assert "packed: 12% padding" in PADDING.alt  # 70 of 80


def test_a_packed_mask_leaves_out_what_belongs_to_other_samples() -> None:
    marks = [m for m in ET.fromstring(performance.packed_mask([2, 3]).svg) if m.tag.endswith("rect")]
    left = [m for m in marks if float(m.attrib["x"]) < 200]
    assert len(left) == 15  # a triangle of 5
    assert len(marks) - len(left) == 3 + 6  # triangles of 2 and of 3
