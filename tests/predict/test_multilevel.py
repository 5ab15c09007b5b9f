"""Several levels of checkpoints: reduced to Young's formula for one, and held against drawn failures."""

from __future__ import annotations

import math

import pytest

from distlab.errors import SettingError
from distlab.predict.goodput import Checkpoint, Recovery, goodput, young_interval_s
from distlab.predict.multilevel import Level, first_order_waste, optimal_intervals_s, simulated_waste

MTBF_S = 3.09 * 3600
DISK = Level("file system", 60, 1.0)
TWO = [Level("partner's memory", 0.5, 0.95), Level("file system", 60, 0.05)]


def test_one_level_is_youngs_formula() -> None:
    (interval,) = optimal_intervals_s([DISK], MTBF_S)
    assert interval == pytest.approx(young_interval_s(60, MTBF_S))
    assert first_order_waste([DISK], [interval], MTBF_S) == pytest.approx(math.sqrt(2 * 60 / MTBF_S))


def test_drawn_failures_of_one_level_agree_with_the_closed_form() -> None:
    exact = goodput(Recovery(MTBF_S), Checkpoint(1200, 60)).waste
    assert simulated_waste([DISK], [1200.0], MTBF_S, failures=20_000, seed=1) == pytest.approx(
        exact, rel=0.02
    )


def test_two_levels_agree_with_drawn_failures_and_beat_one() -> None:
    intervals = optimal_intervals_s(TWO, MTBF_S)
    model = first_order_waste(TWO, intervals, MTBF_S)
    assert model == pytest.approx(sum(math.sqrt(2 * level.cost_s * level.share / MTBF_S) for level in TWO))
    assert simulated_waste(TWO, intervals, MTBF_S, failures=20_000) == pytest.approx(model, rel=0.06)
    assert model < 0.4 * first_order_waste([DISK], optimal_intervals_s([DISK], MTBF_S), MTBF_S)
    for factor in (0.5, 2.0):  # the intervals are the best ones
        assert first_order_waste(TWO, [factor * t for t in intervals], MTBF_S) > model


def test_the_same_seed_is_the_same_run() -> None:
    assert simulated_waste(TWO, [100, 5000], MTBF_S, 500, 7) == simulated_waste(
        TWO, [100, 5000], MTBF_S, 500, 7
    )
    assert simulated_waste(TWO, [100, 5000], MTBF_S, 500, 7) != simulated_waste(
        TWO, [100, 5000], MTBF_S, 500, 8
    )


@pytest.mark.parametrize(
    ("levels", "intervals", "words"),
    [
        ([TWO[0]], [100.0], "add up to 0.95"),
        (TWO, [100.0], "give one for each"),
        (TWO, [100.0, 0.0], "interval of file system"),
    ],
)
def test_what_does_not_fit_is_refused(levels: list[Level], intervals: list[float], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        first_order_waste(levels, intervals, MTBF_S)


def test_a_level_has_a_cost_and_a_share() -> None:
    with pytest.raises(SettingError, match="cost_s of disk"):
        Level("disk", 0, 0.5)
    with pytest.raises(SettingError, match="share of disk"):
        Level("disk", 1, 0)
