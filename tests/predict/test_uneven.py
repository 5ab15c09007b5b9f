"""Uneven ranks: the slowest of many against simulation and tables, and shares against all others there are."""

import itertools
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.errors import SettingError
from distlab.predict.uneven import expected_slowest_s, proportional, slowest_s


@pytest.mark.parametrize(("ranks", "deviations"), [(1, 0.0), (2, 0.56419), (10, 1.53875), (100, 2.50759)])
def test_expected_largest_of_normal_draws(ranks: int, deviations: float) -> None:
    """Tables of normal order statistics (Harter, 1961)."""
    assert expected_slowest_s(1.0, 1.0, ranks) == pytest.approx(1 + deviations, rel=0.02)


def test_against_a_simulation() -> None:
    draw = random.Random(0)
    drawn = fmean(max(draw.gauss(0.5, 0.02) for _ in range(256)) for _ in range(400))
    assert expected_slowest_s(0.5, 0.02, 256) == pytest.approx(drawn, rel=0.005)


@given(
    total=st.integers(0, 12),
    speeds=st.lists(st.floats(0.5, 8), min_size=1, max_size=3),
)
def test_no_other_way_to_deal_out_whole_pieces_is_faster(total: int, speeds: list[float]) -> None:
    shares = proportional(total, speeds)
    assert sum(shares) == total
    assert min(shares) >= 0
    others = (
        other for other in itertools.product(range(total + 1), repeat=len(speeds)) if sum(other) == total
    )
    least = min(slowest_s(other, speeds) for other in others)
    assert slowest_s(shares, speeds) <= least * (1 + 1e-12)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingError, match="speeds"):
        proportional(4, [1.0, 0.0])
    with pytest.raises(SettingError, match="ranks"):
        expected_slowest_s(1.0, 0.1, 0)
    with pytest.raises(SettingError, match="shares"):
        slowest_s([1], [1.0, 2.0])
