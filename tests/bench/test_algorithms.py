"""The two all-reduces by hand: the library's sums on any number of ranks, and the crossover of known times."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist

from distlab.bench.algorithms import Race, Row, measure, recursive_doubling, ring
from distlab.errors import SettingError
from distlab.predict.collectives import Link
from distlab.train.launch import launch

LENGTHS = (0, 1, 2, 7, 24)


def _differences() -> list[float]:
    """How far both are from the library's sum, for each length; run on every rank."""
    found = []
    for length in LENGTHS:
        given = torch.randn(
            1, length, generator=torch.Generator().manual_seed(length + 100 * dist.get_rank())
        )
        wanted = given.clone()
        dist.all_reduce(wanted)
        for algorithm in (ring, recursive_doubling):
            mine = given.clone()
            algorithm(mine)
            found.append(float((mine - wanted).abs().max()) if length else 0.0)
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
def test_both_sum_as_the_library_does(world_size: int) -> None:
    for differences in launch(_differences, world_size, threads_per_rank=1):
        assert max(differences) < 1e-5


def test_ranks_measure_both_and_the_link() -> None:
    payloads = [2**12, 2**26]  # the large one takes longer than what else the machine may have to do
    race = launch(measure, 2, {"ring": ring, "doubling": recursive_doubling}, payloads, 3)[0]
    assert race.world_size == 2
    assert [row.payload_bytes for row in race.rows] == payloads
    assert all(
        set(row.median_s) == {"ring", "doubling"} and min(row.median_s.values()) > 0 for row in race.rows
    )
    assert race.link.bandwidth_Bps > 0


def _race(*ratios: float) -> Race:
    """Payloads 1, 4, 16, ... KiB, for which the ring takes so many times as long as doubling."""
    rows = [Row(1024 * 4**i, {"ring": 0.5 * ratio, "doubling": 0.5}) for i, ratio in enumerate(ratios)]
    return Race(4, Link(1e-3, 1e9), rows)


def test_the_crossover_lies_where_the_ratio_passes_one() -> None:
    found = _race(4.0, 2.0, 0.5, 0.25).crossover_bytes()
    assert found == pytest.approx(math.sqrt(4096 * 16384))
    assert _race(2.0, 1.0, 0.5).crossover_bytes() == pytest.approx(4096)
    assert _race(0.9, 0.5).crossover_bytes() == 0.0
    assert _race(3.0, 1.5).crossover_bytes() is None


def test_one_lucky_payload_is_no_crossover() -> None:
    found = _race(4.0, 0.9, 2.0, 0.5).crossover_bytes()
    assert found is not None
    assert found > 16384


def test_nonsense_is_refused() -> None:
    with pytest.raises(SettingError, match="1 ranks"):
        launch(measure, 1, {"ring": ring}, [2**10, 2**12])
