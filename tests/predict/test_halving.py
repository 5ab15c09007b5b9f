"""Successive halving: its budget by hand, Ray's own rule against ours, and what stopping early costs."""

from __future__ import annotations

import random

import pytest

from distlab.errors import SettingError
from distlab.predict.halving import (
    _percentile,
    asynchronous,
    budget,
    power_law_curves,
    rung_steps,
    spent,
    synchronous,
)


def test_the_budget_by_hand() -> None:
    rungs = budget(64, 1, 64, 4)
    assert [(rung.trials, rung.steps) for rung in rungs] == [(64, 1), (16, 4), (4, 16), (1, 64)]
    assert spent(rungs) == 64 * 1 + 16 * 3 + 4 * 12 + 1 * 48
    assert rung_steps(5, 80, 2) == [5, 10, 20, 40, 80]
    assert rung_steps(5, 79, 2) == [5, 10, 20, 40]


def test_settings_that_make_no_rungs_are_refused() -> None:
    for least, most, eta in ((0, 4, 2), (8, 4, 2), (1, 4, 1)):
        with pytest.raises(SettingError):
            rung_steps(least, most, eta)


def test_curves_that_do_not_cross_keep_the_best_trial() -> None:
    curves = [lambda steps, i=i: i + 1 / steps for i in range(16)]
    assert synchronous(curves, 1, 16, 2).best == 0
    assert synchronous(curves, 1, 16, 2).spent == spent(budget(16, 1, 16, 2))
    found = asynchronous(curves, 1, 16, 2, 4, random.Random(0))
    assert found.best == 0
    assert found.steps[0] == 16


def test_the_first_at_a_rung_always_goes_on() -> None:
    worst_first = [lambda steps, i=i: -float(i) for i in range(8)]
    assert asynchronous(worst_first, 1, 8, 2, 1, random.Random(0)).steps == (8,) * 8
    best_first = [lambda steps, i=i: float(i) for i in range(8)]
    assert asynchronous(best_first, 1, 8, 2, 1, random.Random(0)).steps == (8, *(1,) * 7)


def test_ray_stops_the_same_trials() -> None:
    scheduler = pytest.importorskip("ray.tune.schedulers.async_hyperband")
    losses = [random.Random(3).random() for _ in range(1)] + [random.Random(i).random() for i in range(40)]
    bracket = scheduler._Bracket(1, 1, 4, 0)
    recorded: list[float] = []
    for number, loss in enumerate(losses):

        class Trial:
            trial_id = str(number)

        stops = bracket.on_result(Trial, 1, -loss) == "STOP"
        assert stops == (bool(recorded) and loss > _percentile(recorded, 25))
        recorded.append(loss)


def test_synthetic_curves_fall_and_are_the_same_again() -> None:
    first, again = (power_law_curves(4, 0.0, random.Random(1)) for _ in range(2))
    assert [curve(8) for curve in first] == [curve(8) for curve in again]
    assert all(curve(1) > curve(64) for curve in first)
