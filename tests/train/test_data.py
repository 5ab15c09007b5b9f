from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.train.data import HELD_OUT, ShardedSampler, load_digits

sizes = st.tuples(st.integers(0, 200), st.integers(1, 64), st.integers(1, 9), st.integers(0, 5))


def _epoch(length: int, batch: int, world_size: int, rank: int, seed: int, epoch: int) -> list[list[int]]:
    sampler = ShardedSampler(length, batch, world_size, rank, seed)
    sampler.set_epoch(epoch)
    return [shard.indices for shard in sampler]


@given(sizes=sizes, epoch=st.integers(0, 3))
def test_each_index_once_and_the_same_batches_at_every_world_size(
    sizes: tuple[int, int, int, int], epoch: int
) -> None:
    length, batch, world_size, seed = sizes
    alone = _epoch(length, batch, 1, 0, seed, epoch)
    assert sorted(index for step in alone for index in step) == list(range(length))
    ranks = [_epoch(length, batch, world_size, rank, seed, epoch) for rank in range(world_size)]
    for step, whole in enumerate(alone):
        parts = [steps[step] for steps in ranks]
        assert sorted(index for part in parts for index in part) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert {len(steps) for steps in ranks} == {len(alone)} == {len(ShardedSampler(length, batch, 1, 0, seed))}


@given(sizes=sizes)
def test_global_size_is_what_all_ranks_take(sizes: tuple[int, int, int, int]) -> None:
    length, batch, world_size, seed = sizes
    samplers = [list(ShardedSampler(length, batch, world_size, rank, seed)) for rank in range(world_size)]
    for shards in zip(*samplers, strict=True):
        assert {shard.global_size for shard in shards} == {sum(len(shard.indices) for shard in shards)}


def test_epochs_and_seeds_are_different_shuffles() -> None:
    orders = {str(_epoch(100, 100, 1, 0, seed, epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert _epoch(100, 10, 2, 1, 0, 4) == _epoch(100, 10, 2, 1, 0, 4)


@pytest.mark.parametrize(("world_size", "rank"), [(0, 0), (2, 2), (2, -1)])
def test_rank_outside_the_world(world_size: int, rank: int) -> None:
    with pytest.raises(ValueError, match=f"rank {rank} of world size {world_size}"):
        ShardedSampler(10, 5, world_size, rank, 0)


def test_digits_are_all_there_and_split_once() -> None:
    digits = load_digits()
    assert digits.train_images.shape == (1797 - HELD_OUT, 1, 8, 8)
    assert digits.test_images.shape == (HELD_OUT, 1, 8, 8)
    assert digits.train_images.min() == 0
    assert digits.train_images.max() == 1
    assert set(digits.train_labels.tolist()) == set(digits.test_labels.tolist()) == set(range(10))
    assert digits.train_labels.equal(load_digits().train_labels)
