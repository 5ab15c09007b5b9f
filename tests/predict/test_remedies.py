"""Remedies of a step: hidden parts show when what hid them gets shorter, and the cheapest plan is found."""

from __future__ import annotations

import pytest

from distlab.errors import SettingError
from distlab.predict.remedies import Remedy, Step, cheapest, greedy, plan, plans

STEP = Step(load_s=0.1, compute_s=0.6, backward_s=0.4, communication_s=0.4, idle_s=0.1)
HALF = Remedy("half the work", 1, {"compute_s": 0.5})
FEWER = Remedy("half the bytes", 1, {"communication_s": 0.5})
AHEAD = Remedy("fetch ahead", 0.5, ahead=True)


def test_clocks_add_up_to_the_step() -> None:
    for step in (STEP, HALF.applied(STEP), AHEAD.applied(STEP)):
        assert sum(step.clocks().values()) == pytest.approx(step.step_s)


def test_hidden_communication_shows_once_the_backward_pass_is_shorter() -> None:
    assert STEP.exposed_s == 0
    assert HALF.applied(STEP).exposed_s == pytest.approx(0.2)
    assert plan(STEP, [FEWER]).speedup == 1  # worth nothing alone
    both, half = plan(STEP, [HALF, FEWER]), plan(STEP, [HALF])
    assert both.step.step_s == pytest.approx(half.step.step_s - 0.2)


def test_without_overlap_it_is_amdahls_law() -> None:
    step = Step(compute_s=0.75, backward_s=0.5, communication_s=0.25, overlapped=False)
    found = plan(step, [Remedy("a third", 1, {"compute_s": 1 / 3})])
    assert found.speedup == pytest.approx(1 / (0.25 + 0.75 / 3))


def test_loading_ahead_shows_only_what_is_longer_than_the_rest() -> None:
    assert AHEAD.applied(STEP).step_s == pytest.approx(0.7)
    slow = Step(load_s=0.9, compute_s=0.6, ahead=True)
    assert slow.data_s == pytest.approx(0.3)
    assert slow.step_s == pytest.approx(0.9)


def test_a_factor_of_its_own_for_the_backward_pass() -> None:
    again = Remedy("no recomputation", 1, {"compute_s": 0.75, "backward_s": 0.5}).applied(STEP)
    assert again.compute_s == pytest.approx(0.45)
    assert again.backward_s == pytest.approx(0.2)


def test_the_cheapest_plan_against_every_other() -> None:
    remedies = [HALF, FEWER, AHEAD, Remedy("dear", 9, {"compute_s": 0.1})]
    for target in (1.1, 1.5, 2.0):
        best = cheapest(STEP, remedies, target)
        assert best is not None
        assert best.speedup >= target
        assert all(other.days >= best.days for other in plans(STEP, remedies) if other.speedup >= target)
        assert greedy(STEP, remedies, target).days >= best.days
    assert cheapest(STEP, remedies, 100) is None
    assert len(plans(STEP, remedies)) == 16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Step(load_s=-1), "load_s is -1"),
        (lambda: Step(compute_s=1, backward_s=2), "backward_s is 2"),
        (lambda: Remedy("x", 1, {"speed": 2}), "no part 'speed'"),
        (lambda: Remedy("x", 1, {"load_s": -1}), "factor of load_s"),
        (lambda: Remedy("x", -1), "days is -1"),
        (lambda: plans(STEP, [AHEAD] * 17), "17 remedies"),
    ],
)
def test_what_makes_no_sense_is_said(make: object, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make()  # type: ignore[operator]
