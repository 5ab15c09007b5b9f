"""Bundles on nodes, by hand; and the price of a useful hour."""

from __future__ import annotations

import math

import pytest

from distlab.errors import SettingError
from distlab.predict.goodput import Checkpoint, Recovery, goodput
from distlab.predict.placement import Strategy, place
from distlab.predict.spot import best_saving, break_even_price, useful_hour


@pytest.mark.parametrize(
    ("strategy", "free", "nodes"),
    [
        ("PACK", [3, 1, 4], [2, 2, 2, 2]),
        ("PACK", [3, 1, 2], [0, 0, 0, 2]),
        ("SPREAD", [3, 1, 4], [2, 0, 1, 2]),
        ("STRICT_PACK", [3, 1, 4], [2, 2, 2, 2]),
        ("STRICT_PACK", [3, 3, 3], None),
        ("STRICT_SPREAD", [3, 1, 4], None),
        ("STRICT_SPREAD", [1, 1, 1, 1], [0, 1, 2, 3]),
    ],
)
def test_four_bundles_of_one(strategy: Strategy, free: list[int], nodes: list[int] | None) -> None:
    assert place([1, 1, 1, 1], free, strategy) == nodes


def test_all_or_none_and_the_largest_first() -> None:
    assert place([1, 4], [4, 2], "PACK") == [1, 0]
    assert place([2, 2], [3, 1], "SPREAD") is None
    with pytest.raises(SettingError, match="whole number"):
        place([0], [4], "PACK")


def test_a_useful_hour_costs_the_hour_over_the_goodput() -> None:
    saving = Checkpoint(600, 30)
    steady, shaky = Recovery(100 * 3600.0, 30, 300), Recovery(2 * 3600.0, 30, 300)
    assert useful_hour(4.0, steady, saving) == pytest.approx(4.0 / goodput(steady, saving).useful)
    even = break_even_price(4.0, steady, saving, shaky, saving)
    assert useful_hour(even, shaky, saving) == pytest.approx(useful_hour(4.0, steady, saving))
    assert useful_hour(4.0, Recovery(1.0, 0, 0), Checkpoint(1e6, 1)) == math.inf
    assert goodput(shaky, best_saving(shaky, saving)).useful >= goodput(shaky, saving).useful
