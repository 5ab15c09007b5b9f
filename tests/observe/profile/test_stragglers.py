"""Who holds the others back: the rule on made-up own times."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from distlab.observe.profile.analysis import RankProfile, StepTimes, Straggler
from distlab.observe.profile.clocks import align
from distlab.observe.profile.stragglers import chance, find_stragglers, last_arrivals
from distlab.observe.profile.traces import digest
from tests.observe.profile.synthetic import op, step, trace

EMPTY = RankProfile(0, "node", 1, "cpu", None, (), (), (), (), None, None, 0)


def ranks(own: list[list[float]], part: str = "compute_s") -> list[RankProfile]:
    """Ranks with these own times (rank, step); all wait until the slowest of a step is done."""
    found = []
    for rank, times in enumerate(own):
        steps = []
        for number, mine in enumerate(times):
            longest = max(other[number] for other in own)
            even = StepTimes(number, float(number), longest, 0.5, longest - mine, longest - mine, 0.0, 0.0)
            steps.append(replace(even, **{part: getattr(even, part) + mine - 0.5}))
        found.append(replace(EMPTY, rank=rank, steps=tuple(steps)))
    return found


def verdicts(own: list[list[float]], part: str = "compute_s") -> list[Straggler]:
    return find_stragglers(ranks(own, part), {0: (9, 9)})


def noisy(seed: int, count: int, ranks: int, spread: float = 0.02) -> list[list[float]]:
    generator = random.Random(seed)
    return [[1 + generator.gauss(0, spread) for _ in range(count)] for _ in range(ranks)]


@pytest.mark.parametrize("part", ["compute_s", "data_s", "idle_s"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_rank_that_is_behind_in_every_step_is_found_with_its_cause(part: str, world_size: int) -> None:
    own = noisy(1, 10, world_size)
    own[1] = [mine + 0.3 for mine in own[1]]
    found = verdicts(own, part)
    assert [straggler.verdict for straggler in found] == ["even", "persistent", *["even"] * (world_size - 2)]
    slow = found[1]
    assert slow.excess_s == pytest.approx(0.3, abs=0.05)
    assert (slow.cause, slow.steps_behind, slow.steps_compared) == (part.removesuffix("_s"), 10, 10)
    assert slow.robust_z > 3
    assert "Rank 1 holds the others back in 10 of 10 steps, by" in slow.sentence


def test_noise_is_no_straggler() -> None:
    """Of 200 runs of even ranks, as noisy as they come, chance may name one or two (2% for each of the ranks)."""
    named = [
        straggler
        for seed in range(200)
        for straggler in verdicts(noisy(seed, 10, 2, spread=0.2))
        if straggler.verdict == "persistent"
    ]
    assert len(named) <= 8
    assert all(straggler.verdict == "even" for straggler in verdicts(noisy(3, 10, 4, spread=0.005)))


def test_too_few_steps_prove_nothing() -> None:
    uneven = [[1.0] * 4, [1.2, 1.5, 1.3, 1.6]]
    assert [straggler.verdict for straggler in verdicts(uneven)] == ["even", "noise"]
    assert "that may be chance; profile more steps" in verdicts(uneven)[1].sentence
    assert verdicts([[1.0], [2.0]]) == []
    assert verdicts([[1.0] * 10]) == []


def test_an_excess_far_beyond_the_noise_is_no_chance_however_few_the_steps() -> None:
    for count in (2, 4):
        own = noisy(6, count, 2, spread=0.002)
        own[1] = [mine + 1 for mine in own[1]]
        found = verdicts(own, "idle_s")
        assert [one.verdict for one in found] == ["even", "persistent"]
        assert found[1].robust_z > 100
        assert f"Rank 1 holds the others back in {count} of {count} steps" in found[1].sentence


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_steps_of_even_ranks_name_nobody_but_by_chance(count: int) -> None:
    """One rank in 90 at the most (two steps), by the docstring of the rule."""
    named = [
        straggler
        for seed in range(1000)
        for straggler in verdicts(noisy(seed, count, 2, spread=0.2))
        if straggler.verdict == "persistent"
    ]
    assert len(named) <= 2000 / 90 + 3 * 5


def test_ranks_that_do_not_wait_for_each_other_hold_nobody_back() -> None:
    fast, slow = ranks([[1.0] * 10, [1.0] * 10])
    slow = replace(slow, steps=tuple(replace(step, step_s=2.0, compute_s=2.0) for step in slow.steps))
    assert find_stragglers([fast, slow], {}) == []


def test_two_bad_steps_of_ten_are_noise() -> None:
    own = noisy(5, 10, 3)
    own[2][3] += 1
    own[2][7] += 1
    found = verdicts(own)[2]
    assert found.verdict == "noise"
    assert "far behind in 2 of 10 steps" in found.sentence


def test_chance_is_the_binomial_tail() -> None:
    assert chance(10, 10, 2) == pytest.approx(1 / 1024)
    assert chance(9, 10, 2) == pytest.approx(11 / 1024)
    assert chance(0, 7, 3) == pytest.approx(1)


def test_who_comes_last_to_collectives() -> None:
    entered = {0: [10, 110, 210], 1: [60, 112, 260], 2: [12, 111, 211]}
    traces = [
        digest(
            trace([step(0, 0, 300), *(op("c10d::allreduce_", at, at + 1) for at in starts)], rank, 3),
            rank,
        )
        for rank, starts in entered.items()
    ]
    # In the second they come within 2 us of each other: nobody is late.
    assert last_arrivals(traces, align(traces)) == {0: (0, 3), 1: (2, 3), 2: (0, 3)}


def test_ranks_that_did_different_things_are_not_matched() -> None:
    traces = [
        digest(
            trace([step(0, 0, 300), op("c10d::allreduce_", 10, 20, **{"Input Dims": [[[elements]]]})], rank),
            rank,
        )
        for rank, elements in enumerate([8, 9])
    ]
    assert last_arrivals(traces, align(traces)) == {0: (0, 0), 1: (0, 0)}
