"""Which lab gets the GPUs on which day, for cohorts that share a machine.

    week = [Booking("mod-202-lab-4", gpus=2, minutes=120), Booking("mod-203-lab-1", gpus=1, minutes=150)]
    for use in days_needed(week, learners=24, machine=Machine(gpus=8, open_minutes=480)):
        print(use.booking.lab, use.slots_a_day, use.days)

A booking holds its GPUs alone from its begin to its end: what measures time cannot share. Days are given whole to one
lab, so that nobody's measurement meets another lab's load on the machine's processor or network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from distlab.errors import SettingError


@dataclass(frozen=True)
class Booking:
    """What one learner, or one pair, takes of the machine for a lab."""

    lab: str
    gpus: int
    minutes: int
    """On the GPUs: the lab's other hours need none."""
    learners: int = 1
    """Who share the booking."""


@dataclass(frozen=True)
class Machine:
    """Some GPUs that can be booked for some time of a day."""

    gpus: int
    open_minutes: int
    changeover_minutes: int = 10
    """Between two bookings: the one before ends, its memory is free, `distlab doctor` runs."""


@dataclass(frozen=True)
class Use:
    """What a lab takes for a whole cohort."""

    booking: Booking
    slots_a_day: int
    days: int
    gpu_hours: float
    """That are booked, whether computed in or not."""


def days_needed(bookings: Iterable[Booking], learners: int, machine: Machine) -> list[Use]:
    """Days of the machine for each lab of a cohort of `learners`.

    SettingError where a booking fits into no day of it.
    """
    used = []
    for booking in bookings:
        side_by_side = machine.gpus // booking.gpus
        after_another = machine.open_minutes // (booking.minutes + machine.changeover_minutes)
        slots = side_by_side * after_another
        if slots == 0:
            raise SettingError(
                f"{booking.lab} takes {booking.gpus} GPUs for {booking.minutes} minutes; the machine has "
                f"{machine.gpus} for {machine.open_minutes}: shorten the booking or open longer."
            )
        bookings_of_all = -(-learners // booking.learners)
        hours = bookings_of_all * booking.gpus * booking.minutes / 60
        used.append(Use(booking, slots, -(-bookings_of_all // slots), hours))
    return used


@dataclass(frozen=True)
class Day:
    """A day of the machine, counted from 1 over the working days."""

    number: int
    lab: str
    learners: int


def calendar(cohorts: Sequence[tuple[Sequence[Booking], int, Sequence[int]]], machine: Machine) -> list[Day]:
    """The days of cohorts side by side, in order.

    cohorts: for each its bookings in the order of its course, its number of learners, and which days of a week of
    five (1 to 5) are its own. SettingError where two cohorts claim one day of the week, or one has none.
    """
    claimed = [day for _, _, weekdays in cohorts for day in weekdays]
    if len(set(claimed)) < len(claimed) or not all(weekdays for _, _, weekdays in cohorts):
        raise SettingError(
            f"The weekdays {claimed} are not shared out: each cohort has its own, and at least one."
        )
    if not all(1 <= day <= 5 for day in claimed):
        raise SettingError(f"The weekdays {claimed} are not all between 1 and 5.")
    days = []
    for bookings, learners, weekdays in cohorts:
        turn = 0
        for use in days_needed(bookings, learners, machine):
            left = learners
            for _ in range(use.days):
                week, weekday = divmod(turn, len(weekdays))
                today = min(left, use.slots_a_day * use.booking.learners)
                days.append(Day(5 * week + sorted(weekdays)[weekday], use.booking.lab, today))
                left -= today
                turn += 1
    return sorted(days, key=lambda day: day.number)
