"""Time is booked once: what a run is charged for is what it used and what it wasted."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.observe.account import RELEASED_AFTER_S, Account
from distlab.train.records import LogLine
from tests.observe.made_runs import MadeRun

STEP_S = 1.0
"""Of MadeRun's steady steps: 0.1 data, 0.7 compute, 0.2 on the wire."""


def booked(lines: list[LogLine], finished: bool = True) -> Account:
    account = Account()
    for line in lines:
        account.add(line)
    account.settle(finished)
    return account


def parts(account: Account) -> dict[str, float]:
    return {"useful": account.useful_s, **account.wasted_s}


def test_a_run_without_faults_by_hand() -> None:
    run = MadeRun()
    run.attempt(0, 8, flush_after={3, 7})
    account = booked(run.kept)
    # Of each rank: 2 s until the first step, 8 steps, a save of 1 s; the last line comes at once.
    assert account.paid_s == pytest.approx(2 * (2 + 8 * STEP_S + 1))
    assert account.idle_s == pytest.approx(2 * (2 + 1 + 8 * 0.1))
    assert account.useful_s == pytest.approx(2 * 8 * 0.9)
    assert (account.failure_s, account.straggler_s) == (0, 0)
    assert account.step_s == pytest.approx(16)
    assert account.goodput == pytest.approx(8 / 11)
    assert account.tokens == pytest.approx(8 * 160)
    assert len(account.steps.step) == 8


def test_ranks_wait_for_the_slowest_and_not_for_the_wire() -> None:
    run = MadeRun(ranks=3, times=lambda step, rank: (0.0, 2.0 if rank == 1 else 0.5))
    run.attempt(0, 4, start_s=0.0, flush_after={3})
    account = booked(run.kept)
    assert account.straggler_s == pytest.approx(4 * 2 * 1.5)
    assert account.useful_s == pytest.approx(4 * (2.2 + 0.7 + 0.7))


@pytest.mark.parametrize("save_s", [1, 0])
def test_undone_steps_and_the_time_until_the_next_are_failure(save_s: int) -> None:
    run = MadeRun()
    run.attempt(0, 7, flush_after={3} if save_s else None)  # step 6 was computed and never logged
    crashed_at = run.now
    run.attempt(4, 8, down_s=30, flush_after={7})
    account = booked(run.kept)
    # From the end of step 3, whose line may have come late, to the first step after the restart.
    lost_s = crashed_at - (1e9 + 2 + 4) + 30 + 2
    assert account.failure_s == pytest.approx(2 * lost_s)
    assert account.useful_s == pytest.approx(2 * 8 * 0.9)
    assert account.idle_s == pytest.approx(2 * (2 + 8 * 0.1))
    assert sum(parts(account).values()) == pytest.approx(account.paid_s)
    assert account.paid_s == pytest.approx(2 * (run.now - 1 - 1e9))


@pytest.mark.parametrize("resumed", [4, 5])
def test_a_step_that_one_rank_logged_before_the_crash_is_failure(resumed: int) -> None:
    run = MadeRun()
    run.attempt(0, 7)  # logs steps 0 to 5
    first = [line for line in run.written if (line.step, line.rank) != (5, 1)]
    run.attempt(resumed, 8, down_s=30, flush_after={7})
    again = [line for line in run.written if line.attempt == 1]
    account = booked(first + sorted(again, key=lambda line: (line.step, -line.rank)))
    offline = booked(run.kept)
    assert list(account.steps.step) == list(range(8))
    assert account.useful_s == pytest.approx(offline.useful_s)
    assert account.paid_s == pytest.approx(offline.paid_s)
    assert sum(account.wasted_s.values()) == pytest.approx(sum(offline.wasted_s.values()))
    assert sum(parts(account).values()) == pytest.approx(account.paid_s)


def test_a_pause_longer_than_gpus_are_held_is_not_paid() -> None:
    paid = []
    for down_s in (RELEASED_AFTER_S - 10, RELEASED_AFTER_S + 10, 86400):
        run = MadeRun()
        run.attempt(0, 5, flush_after={3})
        run.attempt(4, 8, down_s=down_s, flush_after={7})
        paid.append(booked(run.kept).paid_s)
    assert paid[0] > paid[1] + 2 * (RELEASED_AFTER_S - 15)
    assert paid[2] == pytest.approx(paid[1])


def test_epochs_are_priced_when_they_are_complete() -> None:
    run = MadeRun(steps_per_epoch=3)
    run.attempt(0, 3, flush_after={2})
    assert booked(run.kept).epochs == 0, "the last step of an epoch does not say that it is"
    run = MadeRun(steps_per_epoch=3)
    run.attempt(0, 8, flush_after={2, 7})
    account = booked(run.kept)
    assert account.epochs == 2
    assert account.epochs_paid_s == pytest.approx(2 * (2 + 6 + 1 + 1)), "one step more: its line came late"


def test_a_line_that_never_comes_does_not_stop_the_others() -> None:
    run = MadeRun(ranks=2)
    run.attempt(0, 6, flush_after={5})
    lines = [line for line in run.kept if (line.step, line.rank) != (2, 1)]
    account = booked(lines)
    assert list(account.steps.step) == [0, 1, 2, 3, 4, 5]
    assert account.useful_s == pytest.approx((2 * 6 - 1) * 0.9)


def test_ranks_whose_logs_are_elsewhere_are_not_waited_for() -> None:
    run = MadeRun(ranks=4)
    run.attempt(0, 3, flush_after={2})
    account = Account()
    for line in run.kept:
        if line.rank < 2:
            account.add(line, 2)
    assert list(account.steps.step) == [0, 1, 2]


@st.composite
def runs(draw: st.DrawFn) -> MadeRun:
    """Any number of attempts, each from a step that was saved; the last one reaches the end."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    table: dict[tuple[int, int], tuple[float, float]] = {}

    def times(step: int, rank: int) -> tuple[float, float]:
        slow = 10 if chance.random() < 0.1 else 1
        return table.setdefault((step, rank), (chance.uniform(0, 0.2), slow * chance.uniform(0.01, 1)))

    run = MadeRun(ranks=draw(st.integers(1, 3)), times=times, steps_per_epoch=draw(st.integers(1, 5)))
    saved = 0
    for _ in range(draw(st.integers(0, 3))):
        first, end = saved, saved + draw(st.integers(1, 8))
        # Of an attempt without a line that stays, a log cannot tell when it was.
        flushes = {step for step in range(first, end) if step == first or chance.random() < 0.3}
        down_s = chance.choice([0.0, 5.0, 300.0, 86400.0])
        run.attempt(first, end, down_s=down_s, start_s=chance.uniform(0, 3), flush_after=flushes)
        saved = max(flushes, default=first - 1) + 1
    end = saved + draw(st.integers(1, 8))
    run.attempt(saved, end, down_s=5.0, flush_after={end - 1})
    return run


@settings(max_examples=60, deadline=None)
@given(runs(), st.randoms())
def test_spend_is_the_sum_of_its_parts_and_only_grows(run: MadeRun, chance: random.Random) -> None:
    account = Account()
    before = account.wasted_s | {"paid": 0.0}
    queues = [[line for line in run.written if line.rank == rank] for rank in range(run.ranks)]
    while any(queues):
        # Ranks in any order within a step: all of a synchronous run are within one step of each other.
        least = min(queue[0].time for queue in queues if queue)
        queue = chance.choice([queue for queue in queues if queue and queue[0].time == least])
        account.add(queue.pop(0))
        now = account.wasted_s | {"paid": account.paid_s}
        assert all(now[name] >= before[name] - 1e-9 for name in now), (before, now)
        assert account.paid_s >= sum(parts(account).values()) - 1e-6
        before = now
    account.settle(finished=True)
    assert account.paid_s == pytest.approx(sum(parts(account).values()), abs=1e-5)
    offline = booked(sorted(run.kept, key=lambda line: (line.step, line.rank)))
    assert offline.paid_s == pytest.approx(sum(parts(offline).values()), abs=1e-5)
    # Who followed it and who reads its log afterwards agree, but for whose fault undone steps were.
    assert account.paid_s == pytest.approx(offline.paid_s, abs=1e-5)
    assert account.useful_s == pytest.approx(offline.useful_s, abs=1e-5)
    assert account.tokens == pytest.approx(offline.tokens)
    assert list(account.steps.step) == list(offline.steps.step) == list(range(run.kept[-1].step + 1))
    assert (account.epochs, account.epochs_paid_s) == pytest.approx((offline.epochs, offline.epochs_paid_s))


def test_forged_numbers_do_not_break_the_sums() -> None:
    run = MadeRun()
    run.attempt(0, 4, flush_after={3})
    account = Account()
    for line in run.kept:
        for name in ("run_s", "data_s", "compute_s", "communication_s", "time", "step_s"):
            for value in (1e299, 1e-299, -5.0):
                if name != "step_s" or value > 0:
                    account.add(LogLine(**vars(line) | {name: value}))
    account.settle(finished=True)
    assert all(value >= 0 for value in account.wasted_s.values())
