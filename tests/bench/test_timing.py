"""Times: the policy's number of calls, and what a list of times comes to."""

from __future__ import annotations

import gc
import statistics

import pytest
import torch
import torch.distributed as dist

from distlab.bench.timing import (
    COLLECTIVE_CALLS_LEAST,
    COLLECTIVE_CALLS_MOST,
    Policy,
    measured,
    slowest,
    summary,
    timed,
)
from distlab.errors import SettingError
from distlab.train.launch import launch


def test_a_summary_by_hand() -> None:
    found = summary([float(i) for i in range(1, 101)])
    assert (found.iterations, found.min_s, found.median_s, found.p99_s) == (100, 1, 50.5, 99)
    assert found.mean_s == 50.5
    assert found.variation == pytest.approx(statistics.pstdev(range(1, 101)) / 50.5)
    assert summary([2.0]).p99_s == 2.0
    assert summary([2.0]).variation == 0


def test_the_collector_rests_while_calls_are_timed() -> None:
    assert gc.isenabled()
    resting: list[bool] = []
    assert len(timed(lambda: resting.append(gc.isenabled()), 3)) == 3
    assert resting == [False] * 3
    assert gc.isenabled()


@pytest.mark.parametrize(
    "setting", [{"warmup": -1}, {"iterations": 0}, {"budget_s": 0}, {"budget_s": float("nan")}]
)
def test_a_policy_refuses_numbers_that_are_none(setting: dict[str, int]) -> None:
    with pytest.raises(SettingError, match="is"):
        Policy(**setting)


def _counts() -> list[int]:
    counts = []
    for policy in (
        Policy(warmup=2, iterations=3),
        Policy(warmup=0, iterations=1),
        Policy(warmup=3, budget_s=1e-9),  # the first call is over it: no other warm-up
        Policy(warmup=3, budget_s=10.0),
    ):
        calls: list[int] = []
        samples = measured(lambda calls=calls: calls.append(1), policy)  # type: ignore[misc]
        counts += [len(calls), len(samples)]
    rank = torch.tensor(float(dist.get_rank()))
    assert slowest([1.0 + float(rank), 5.0 - float(rank)]) == [2.0, 5.0]
    return counts


def test_calls_are_counted_as_the_policy_says_on_all_ranks_alike() -> None:
    first, second = launch(_counts, 2, backend="gloo", threads_per_rank=1)
    assert (
        first
        == second
        == [
            5,
            3,
            1,
            1,
            1 + COLLECTIVE_CALLS_LEAST,
            COLLECTIVE_CALLS_LEAST,
            3 + COLLECTIVE_CALLS_MOST,
            COLLECTIVE_CALLS_MOST,
        ]
    )
