"""Diagrams of frameworks: inline SVG for every reader, drawn from the schedules they show."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from distlab.figures import Figure, frameworks
from distlab.predict.fusion import Message

MESSAGES = [Message(3, 100, 0.010, 0.020), Message(1, 10, 0.030, 0.040)]
SENDING = frameworks.sending(0.030, {"buckets": MESSAGES, "cycles": MESSAGES[:1]})
BARS = frameworks.bars({"one": (10.0, 0.0), "two": (5.0, 2.0)}, "ms", "two bars", "Two.")


@pytest.mark.parametrize(
    "figure",
    [
        frameworks.reducer(),
        frameworks.negotiation(),
        frameworks.prefetch(),
        frameworks.operator(),
        frameworks.pairing(),
        frameworks.holders(),
        SENDING,
        BARS,
    ],
    ids=lambda figure: figure.alt[:20],
)
def test_inline_svg_in_the_colours_of_the_page(figure: Figure) -> None:
    root = ET.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert "currentColor" in figure.svg
    assert "<style" not in figure.svg
    width = float(root.get("viewBox", "").split()[2])
    assert width <= 440
    for rect in root.findall("{*}rect"):
        assert 0 <= float(rect.get("x", 0)) <= float(rect.get("x", 0)) + float(rect.get("width", 0)) <= width


def test_a_message_is_as_long_as_it_takes_and_says_how_many_it_holds() -> None:
    root = ET.fromstring(SENDING.svg)
    backward, first, second, alone = (float(rect.get("width", 0)) for rect in root.findall("{*}rect"))
    assert first == second == alone == pytest.approx(backward / 3, abs=0.1)
    assert [t.text for t in root.findall("{*}text")].count("3") == 2
    assert "buckets 40 ms, cycles 20 ms" in SENDING.alt


def test_a_bar_has_its_number_and_its_part_is_dashed() -> None:
    root = ET.fromstring(BARS.svg)
    whole, rest, part = root.findall("{*}rect")
    assert float(whole.get("width", 0)) == pytest.approx(
        2 * (float(rest.get("width", 0)) + float(part.get("width", 0))), abs=0.2
    )
    assert part.get("stroke-dasharray")
    assert {"10 ms", "5 ms"} <= {t.text for t in root.findall("{*}text")}
