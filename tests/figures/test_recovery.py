"""Diagrams of failures and recovery: inline SVG for every reader, and no meaning by colour alone."""

from __future__ import annotations

import pytest

from distlab.figures import Figure, recovery
from tests.figures.fit import check_fits_a_phone

LAYERS = [("group", 600.0), ("agent", 700.0), ("watchdog", 900.0)]
STACKED = recovery.stacked(
    {"one": {"saving": 3.0, "lost": 1400.0}, "two": {"lost": 700.0}},
    "Two.",
    "two bars",
    limit=500,
    limit_words="budget",
)


@pytest.mark.parametrize(
    "figure",
    [
        STACKED,
        recovery.saves(),
        recovery.placement(),
        recovery.timeouts(LAYERS, "group", 60, "Nested."),
        recovery.restarters([("agent", "a rank"), ("job", "a node")]),
    ],
    ids=lambda figure: figure.alt[:20],
)
def test_inline_svg_that_fits_a_phone(figure: Figure) -> None:
    check_fits_a_phone(figure)


def test_parts_of_a_bar_have_numbers_and_a_legend() -> None:
    assert ">2<" in STACKED.svg
    assert "1  saving" in STACKED.svg
    assert "2  lost" in STACKED.svg
    assert "1,403 s" in STACKED.svg


def test_a_timeout_that_fires_before_recovery_ends_is_marked() -> None:
    assert "kills it" not in recovery.timeouts(LAYERS, "group", 60, "").svg
    early = recovery.timeouts(LAYERS, "group", 200, "")
    assert "kills it" in early.svg
    assert "agent would kill it first" in early.alt


def test_a_ring_of_copies_loses_a_shard_twice_as_often() -> None:
    figure = recovery.placement(6)
    assert "3 of 15 pairs" in figure.svg
    assert "6 of 15 pairs" in figure.svg
