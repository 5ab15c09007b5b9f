"""Pairs: everyone meets everyone once, what is measured is between the right two, and a slow row is named."""

from __future__ import annotations

from itertools import chain, combinations

import pytest

from distlab.bench.pairs import Pairs, measure, rounds, suspects
from distlab.errors import SettingError
from distlab.record.slow_link import read
from distlab.train.launch import launch


@pytest.mark.parametrize("n", [2, 3, 8, 31, 32])
def test_everyone_meets_everyone_once_and_nobody_is_in_two_places(n: int) -> None:
    found = rounds(n)
    assert sorted(chain.from_iterable(found)) == list(combinations(range(n), 2))
    assert len(found) == n - 1 + n % 2
    for pairs in found:
        ranks = list(chain.from_iterable(pairs))
        assert len(ranks) == len(set(ranks)) >= n - 1


def test_ranks_measure_what_they_exchange() -> None:
    found = launch(measure, 3, 2**16, 2)
    assert all(isinstance(each, Pairs) for each in found)
    rates = found[0].GBps
    assert [rates[a][a] for a in range(3)] == [0.0] * 3
    assert all(rates[a][b] > 0 for a in range(3) for b in range(3) if a != b)
    assert found[0].payload_bytes == 2**16
    assert found[0].all_reduce_s > 0


def test_a_slow_row_is_named_and_a_slow_cell_is_not() -> None:
    rates = [[0.0 if a == b else 10.0 for b in range(6)] for a in range(6)]
    assert suspects(rates) == []
    rates[1][4] = rates[4][1] = 3.0
    assert suspects(rates) == []
    for b in range(6):
        if b != 2:
            rates[2][b] = rates[b][2] = 5.0
    assert suspects(rates) == [2]


def test_the_recording_names_the_host_whose_cable_was_slow() -> None:
    recording = read()
    healthy, *slowed = recording.runs
    assert healthy.share == 1.0
    assert suspects(healthy.GBps) == []
    for run in slowed:
        assert suspects(run.GBps) == [recording.slow_host]
        assert run.all_reduce_s * run.share == pytest.approx(healthy.all_reduce_s, rel=0.15), (
            "as slow as its cable"
        )


@pytest.mark.parametrize("call", [lambda: rounds(1), lambda: measure(0), lambda: measure(64, 0)])
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(SettingError):
        call()  # type: ignore[operator]
