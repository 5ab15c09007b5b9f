from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distlab.train.config import DataConfig, ModelConfig, TrainConfig
from distlab.train.data import load_data
from distlab.train.permutation import Permutation
from distlab.train.sampler import BatchPlan, padding_share

patient = settings(deadline=None, max_examples=50)


class Lengths:
    """A data set of which the sampler needs to know no more."""

    tokens_per_sample: int | None = None

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, index: int) -> int:
        return self.lengths[index]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        raise AssertionError("planning must not load samples")


class Equal(Lengths):
    """Samples of one length, however many."""

    def __init__(self, length: int, count: int) -> None:
        super().__init__(range(count))
        self.tokens_per_sample = length

    def tokens(self, index: int) -> int:
        assert self.tokens_per_sample is not None
        return self.tokens_per_sample


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=120)
configs = st.builds(
    DataConfig,
    batching=st.sampled_from(["shuffled", "by_length", "token_budget"]),
    global_batch=st.integers(1, 40),
    token_budget=st.integers(1, 400),
    micro_batches=st.integers(1, 5),
)
seeds = st.integers(0, 3)


@patient
@given(lengths, configs, seeds)
def test_every_epoch_has_every_sample_once(lengths: list[int], config: DataConfig, seed: int) -> None:
    plan = BatchPlan(Lengths(lengths), config, seed)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        assert {plan.epoch(step) for step in steps} == {epoch}
        batches = [plan.global_batch(step) for step in steps]
        assert all(batches)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@patient
@given(lengths, configs, seeds, st.randoms(use_true_random=False))
def test_any_step_at_any_time(
    lengths: list[int], config: DataConfig, seed: int, order: random.Random
) -> None:
    """Resume: what a step is does not depend on which steps were asked for before."""
    plan = BatchPlan(Lengths(lengths), config, seed)
    steps = list(range(2 * plan.steps_per_epoch))
    in_order = [plan.global_batch(step) for step in steps]
    order.shuffle(steps)
    for step in steps[:10]:
        assert plan.global_batch(step) == in_order[step]
        assert BatchPlan(Lengths(lengths), config, seed).global_batch(step) == in_order[step]


@patient
@given(lengths, configs, seeds)
def test_sizes_of_batches(lengths: list[int], config: DataConfig, seed: int) -> None:
    plan = BatchPlan(Lengths(lengths), config, seed)
    batches = [[lengths[index] for index in plan.global_batch(step)] for step in range(plan.steps_per_epoch)]
    if config.batching == "token_budget":
        assert all(len(batch) == 1 or len(batch) * max(batch) <= config.token_budget for batch in batches)
        by_length = sorted(batches, key=max)  # and no batch could take the shortest sample of the next
        for batch, following in pairwise(by_length):
            assert (len(batch) + 1) * min(following) > config.token_budget
    else:
        sizes = sorted((len(batch) for batch in batches), reverse=True)
        full, rest = divmod(len(lengths), config.global_batch)
        assert sizes == [config.global_batch] * full + [rest] * (rest > 0)
    if config.batching == "shuffled":
        assert all(len(batch) == config.global_batch for batch in batches[:-1])
    else:  # like lengths together: the ranges of the batches touch at most
        ranges = sorted((min(batch), max(batch)) for batch in batches)
        assert all(low[1] <= high[0] for low, high in pairwise(ranges))


@patient
@given(lengths, configs, st.integers(1, 9))
def test_shares_hold_every_sample_once_and_are_balanced(
    lengths: list[int], config: DataConfig, world_size: int
) -> None:
    plan = BatchPlan(Lengths(lengths), config, 0)
    for step in range(min(3, plan.steps_per_epoch)):
        batch = plan.global_batch(step)
        shares = [plan.share(batch, world_size, rank) for rank in range(world_size)]
        assert {len(share) for share in shares} == {config.micro_batches}
        samples = [[index for part in share for index in part] for share in shares]
        assert sorted(index for part in samples for index in part) == sorted(batch)
        assert max(map(len, samples)) - min(map(len, samples)) <= 1
        for micro_batch in zip(*shares, strict=True):
            tokens = [sum(lengths[index] for index in part) for part in micro_batch]
            longest = max((lengths[index] for part in micro_batch for index in part), default=0)
            assert max(tokens) - min(tokens) <= longest


@patient
@given(lengths, configs, st.integers(1, 4))
def test_micro_batches_are_of_like_lengths_and_tokens(
    lengths: list[int], config: DataConfig, world_size: int
) -> None:
    plan = BatchPlan(Lengths(lengths), config, 0)
    batch = plan.global_batch(0)
    whole = list(zip(*(plan.share(batch, world_size, rank) for rank in range(world_size)), strict=True))
    groups = [[lengths[index] for part in micro_batch for index in part] for micro_batch in whole]
    present = [group for group in groups if group]
    assert all(min(long) >= max(short) for long, short in pairwise(present))
    total = sum(lengths[index] for index in batch)
    for group in groups:  # beyond an equal part by less than one round of the deal
        assert sum(group) < total / config.micro_batches + world_size * max(group, default=1)


@patient
@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 7))
def test_samples_of_one_length_are_dealt_like_cards(size: int, micro_batches: int, world_size: int) -> None:
    plan = BatchPlan(Lengths([1] * 60), DataConfig(micro_batches=micro_batches), 0)
    batch = plan.global_batch(0)[:size]
    for rank in range(world_size):
        share = plan.share(batch, world_size, rank)
        assert [index for part in share for index in part] == batch[rank::world_size]
        if size % (world_size * micro_batches) == 0:
            assert {len(part) for part in share} == {size // (world_size * micro_batches)}


@pytest.mark.parametrize("batching", ["shuffled", "by_length", "token_budget"])
def test_epochs_and_seeds_are_different_shuffles(batching: Any) -> None:
    config = DataConfig(batching=batching, global_batch=10, token_budget=40)
    orders = set()
    for seed in range(3):
        plan = BatchPlan(Lengths([1, 2, 3, 4] * 25), config, seed)
        for epoch in range(3):
            steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
            orders.add(str([plan.global_batch(step) for step in steps]))
            lengths = [plan.tokens(plan.global_batch(step)[0]) for step in steps]
            assert lengths != sorted(lengths)  # batches of like lengths come in no order
    assert len(orders) == 9


@patient
@given(st.integers(1, 60), st.integers(1, 120), configs, seeds)
def test_samples_known_to_be_equal_make_the_batches_of_samples_that_are(
    length: int, count: int, config: DataConfig, seed: int
) -> None:
    known, found = (
        BatchPlan(data, config, seed) for data in (Equal(length, count), Lengths([length] * count))
    )
    assert known.steps_per_epoch == found.steps_per_epoch
    for step in range(2 * known.steps_per_epoch):
        assert known.global_batch(step) == found.global_batch(step)


@pytest.mark.parametrize("batching", ["shuffled", "by_length", "token_budget"])
def test_a_plan_of_a_hundred_million_samples_takes_little_memory(batching: Any) -> None:
    config = DataConfig(batching=batching, global_batch=1000, token_budget=64_000)
    tracemalloc.start()
    plan = BatchPlan(Equal(64, 10**8), config, 0)
    taken = [index for step in (0, 1, 10**5 - 1, 10**5) for index in plan.global_batch(step)]
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    assert plan.steps_per_epoch == 10**5
    assert len(set(taken[:3000])) == 3000
    assert all(0 <= index < 10**8 for index in taken)
    assert 4e7 < sum(taken) / len(taken) < 6e7


@pytest.mark.parametrize("count", [1, 2, 3, 64, 65, 1000])
def test_an_order_that_is_computed_has_each_number_once(count: int) -> None:
    orders = set()
    for seed in range(4):
        order = Permutation(count, np.random.default_rng(seed), shuffled=0)
        whole = order.part(0, count).tolist()
        assert sorted(whole) == list(range(count))
        assert [int(order.part(i, i + 1)[0]) for i in range(count)] == whole
        orders.add(str(whole))
    assert len(orders) > 1 or count < 3


def test_an_order_that_is_computed_is_as_random_as_a_shuffle() -> None:
    """Places, steps between neighbours and their parities, against what chance would make of them."""
    count = 10**5
    for seed in range(5):
        order = Permutation(count, np.random.default_rng(seed), shuffled=0).part(0, count)
        centred = (order - order.mean()) / order.std()
        for pairs in (centred * np.linspace(-1, 1, count) * 3**0.5, centred[1:] * centred[:-1]):
            assert abs(pairs.mean()) < 5 / count**0.5
        ascents = (order[1:] > order[:-1]).mean()  # half, with a variance of 1 / (12 count)
        assert abs(ascents - 0.5) < 5 / (12 * count) ** 0.5
        assert abs((order[::2] % 2).mean() - 0.5) < 5 / count**0.5


@pytest.mark.parametrize(("world_size", "rank"), [(0, 0), (2, 2), (2, -1)])
def test_rank_outside_the_world(world_size: int, rank: int) -> None:
    plan = BatchPlan(Lengths([1] * 10), DataConfig(), 0)
    with pytest.raises(ValueError, match=f"rank is {rank} of world size {world_size}"):
        plan.share([0, 1], world_size, rank)


def test_padding_share_by_hand() -> None:
    data = Lengths([1, 4, 1, 4])
    by_length = DataConfig(batching="by_length", global_batch=2)
    assert padding_share(data, by_length) == 0
    together = DataConfig(global_batch=4)
    assert padding_share(data, together) == pytest.approx(1 - 10 / 16)
    assert padding_share(data, together, world_size=2) == pytest.approx(1 - 10 / 16)  # each rank: 4 and 1
    assert padding_share(data, DataConfig(global_batch=4, micro_batches=2)) == 0
    budget = DataConfig(batching="token_budget", token_budget=12)  # 1 + 1 + 4 fit: 3 x 4
    assert padding_share(data, budget) == pytest.approx(1 - 10 / 16)


@patient
@given(st.lists(st.integers(1, 60), min_size=20, max_size=120), seeds)
def test_padding_of_sorted_samples_is_the_least(lengths: list[int], seed: int) -> None:
    shuffled, by_length = (
        padding_share(Lengths(lengths), DataConfig(batching=batching, global_batch=10), seed=seed)  # type: ignore[arg-type]
        for batching in ("shuffled", "by_length")
    )
    assert 0 <= by_length <= shuffled < 1


def test_smart_batching_of_the_text_spares_padding() -> None:
    model = ModelConfig(kind="gpt", width=16, heads=2)
    share = {}
    for batching in ("shuffled", "by_length", "token_budget"):
        config = DataConfig(source="text", batching=batching, global_batch=32, token_budget=2048)  # type: ignore[arg-type]
        training, _ = load_data(TrainConfig(model=model, data=config))
        share[batching] = padding_share(training, config, world_size=2)
    assert share["shuffled"] > 0.2
    assert share["by_length"] < 0.02
    assert share["token_budget"] < 0.02
