"""The calendar of shared GPUs: nobody is forgotten, nothing is booked twice."""

from __future__ import annotations

from collections import Counter

import pytest

from distlab.course.gpu_calendar import Booking, Machine, calendar, days_needed
from distlab.errors import SettingError

MACHINE = Machine(gpus=8, open_minutes=480)
FIRST = [Booking("a", gpus=2, minutes=110), Booking("b", gpus=4, minutes=230, learners=2)]
SECOND = [Booking("c", gpus=1, minutes=150)]


def test_days_by_hand() -> None:
    a, b = days_needed(FIRST, 24, MACHINE)
    assert (a.slots_a_day, a.days) == (4 * 4, 2), (
        "four side by side, four times 110 + 10 minutes in eight hours"
    )
    assert a.gpu_hours == pytest.approx(24 * 2 * 110 / 60)
    assert (b.slots_a_day, b.days) == (2 * 2, 3), "12 pairs, 4 a day"
    assert b.gpu_hours == pytest.approx(12 * 4 * 230 / 60)


@pytest.mark.parametrize("learners", [1, 7, 24, 100])
def test_everybody_has_a_day_and_no_day_two_labs(learners: int) -> None:
    days = calendar([(FIRST, learners, [1, 3]), (SECOND, 2 * learners, [2, 4, 5])], MACHINE)
    assert len({day.number for day in days}) == len(days)
    assert [day.number for day in days] == sorted(day.number for day in days)
    had: Counter[str] = Counter()
    for day in days:
        had[day.lab] += day.learners
        assert ((day.number - 1) % 5 + 1 in (1, 3)) == (day.lab in ("a", "b"))
    assert had == {"a": learners, "b": learners, "c": 2 * learners}
    labs = [day.lab for day in days if day.lab != "c"]
    assert labs == sorted(labs), "in the order of the course"


def test_what_cannot_be() -> None:
    with pytest.raises(SettingError, match="shorten"):
        days_needed([Booking("d", gpus=16, minutes=10)], 1, MACHINE)
    with pytest.raises(SettingError, match="shorten"):
        days_needed([Booking("d", gpus=1, minutes=475)], 1, MACHINE)
    for weekdays in ([1, 2], [], [6]):
        with pytest.raises(SettingError, match="weekdays"):
            calendar([(FIRST, 1, [1]), (SECOND, 1, weekdays)], MACHINE)
