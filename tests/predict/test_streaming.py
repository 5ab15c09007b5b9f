"""A queue of blocks, by hand."""

from __future__ import annotations

import pytest

from distlab.errors import SettingError
from distlab.predict.streaming import filling


def test_without_a_limit_the_surplus_piles_up_and_spills() -> None:
    found = filling(5, 3, block_bytes=10, store_bytes=50, seconds=5)
    assert found.in_store == [0, 20, 40, 50, 50, 50]
    assert found.on_disk == [0, 0, 0, 10, 30, 50]


def test_a_budget_bounds_the_store_and_costs_no_throughput() -> None:
    free = filling(5, 3, block_bytes=10, store_bytes=1e9, seconds=50)
    held = filling(5, 3, block_bytes=10, store_bytes=1e9, seconds=50, budget_bytes=40)
    assert max(held.in_store) <= 40
    assert held.taken == free.taken


def test_a_slow_reader_leaves_nothing_to_hold() -> None:
    assert max(filling(2, 3, 10, 100, 20).in_store) == 0
    with pytest.raises(SettingError):
        filling(2, 3, 10, 100, 0)
