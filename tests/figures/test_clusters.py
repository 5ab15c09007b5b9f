"""Diagrams of clusters: inline SVG for every reader, with the numbers in words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, clusters

PLACED = {"PACK": [3, 1, 0], "STRICT_PACK": None}
OTHERS = [1, 0, 2]


@pytest.mark.parametrize(
    "figure",
    [
        clusters.anatomy(),
        clusters.placements(PLACED, OTHERS),
        clusters.two_autoscalers(),
        clusters.waits([("decides", 0, 5, "Ray"), ("boots", 5, 90, "cloud")], "s", "Two waits.", "Waits."),
        clusters.halving([1, 4, 16, 1], "Four trials.", "Trials."),
    ],
    ids=["anatomy", "placements", "two autoscalers", "waits", "halving"],
)
def test_inline_svg_in_the_colours_of_the_page(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert "currentColor" in figure.svg
    assert float(root.get("viewBox", "").split()[2]) <= 440


def test_whose_a_wait_is_stands_in_words() -> None:
    svg = clusters.waits([("boots", 0, 85, "cloud")], "s", "One.", "One.").svg
    assert "boots: 85.0 s, cloud" in svg


def test_a_group_that_waits_says_so() -> None:
    figure = clusters.placements(PLACED, OTHERS)
    assert "waits" in figure.svg
    assert "STRICT_PACK: the group waits" in figure.alt
