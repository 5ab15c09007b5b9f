"""Diagrams of networks: inline SVG for every reader, and the slow cell is marked by more than its colour."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, networks

RATES = [[0.0, 9.0, 4.0], [9.0, 0.0, 9.0], [4.0, 9.0, 0.0]]
SIGNATURES = networks.signatures(
    {"a": [[1.0, 0.5], [0.2, 1.0]], "b": [[1.0, 1.0], [1.0, 1.0]]}, "two", "Two."
)


@pytest.mark.parametrize(
    "figure",
    [
        networks.channel(),
        networks.gpudirect(),
        networks.wirings(),
        networks.dragonfly_groups(),
        networks.patterns(),
        networks.matrix(RATES, "GB/s", "rates of three", "Three."),
        SIGNATURES,
    ],
    ids=lambda figure: figure.alt[:20],
)
def test_inline_svg_in_the_colours_of_the_page(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert "currentColor" in figure.svg
    assert "<style" not in figure.svg
    assert float(root.get("viewBox", "").split()[2]) <= 440


def test_a_slow_pair_is_bold_and_its_rate_is_written() -> None:
    texts = ET.fromstring(networks.matrix(RATES, "GB/s", "a", "c").svg).findall("{*}text")
    slow = [t for t in texts if t.text == "4.0"]
    assert len(slow) == 2
    assert all(t.get("font-weight") == "600" for t in slow)
    assert not any(t.get("font-weight") for t in texts if t.text == "9.0")


def test_only_slow_pairs_of_a_signature_are_filled() -> None:
    filled = [r for r in ET.fromstring(SIGNATURES.svg).findall("{*}rect") if r.get("fill") != "none"]
    assert sorted(float(r.get("fill-opacity", "0")) for r in filled) == [0.45, 1.0]
