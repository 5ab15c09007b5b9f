"""Which samples make a step, and which of them a rank takes.

A plan depends on the data set, the configuration and the seed, never on the number of ranks or on what was
asked before: step k has the same samples at every world size, and training goes on after a crash, in the
middle of an epoch or with other ranks, from the number of the step alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from distlab.train.config import DataConfig
from distlab.train.data import Dataset


class BatchPlan:
    """The global batch of every step: in each epoch every sample exactly once, in a new order.

    The three ways of `config.batching`:

    - `shuffled`: a shuffle, cut every `global_batch` samples; the last batch of an epoch is smaller. A short
      sample that meets a long one is padded to its length.
    - `by_length`: samples sorted by length (like lengths shuffled), cut every `global_batch`; then the order
      of the batches is shuffled. Hardly any padding, but steps of very different numbers of tokens.
    - `token_budget`: sorted and shuffled likewise, but a batch takes samples as long as their number times
      the longest is at most `token_budget` (a longer sample is a batch of its own). Steps of like cost.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.tokens = [dataset.tokens(index) for index in range(len(dataset))]
        self.steps_per_epoch = len(self._cut(self._order(random.Random(0))))
        self._planned: tuple[int, list[list[int]]] = (-1, [])

    def global_batch(self, step: int) -> list[int]:
        """Sample ids of optimizer step `step` (0 is the first); steps may be asked for in any order."""
        epoch = self.epoch(step)
        if self._planned[0] != epoch:
            self._planned = (epoch, self._batches(epoch))
        return self._planned[1][step % self.steps_per_epoch]

    def epoch(self, step: int) -> int:
        """The epoch in which `step` lies (0 is the first)."""
        return step // self.steps_per_epoch

    def share(self, batch: Sequence[int], world_size: int, rank: int) -> list[list[int]]:
        """A rank's part of a global batch: always `config.micro_batches` lists of ids, some perhaps empty.

        Over all ranks each id appears once. The batch, longest sample first, is dealt out to the ranks like
        cards, round after round; a micro-batch is some consecutive rounds. So the ranks' numbers of samples
        differ by one at most, their tokens in a micro-batch by its longest sample at most, and the samples
        of a micro-batch have like lengths.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world size {world_size}; it must lie in 0..world_size-1.")
        micro_batches: list[list[int]] = [[] for _ in range(self.config.micro_batches)]
        ordered = sorted(batch, key=lambda index: -self.tokens[index])
        total = sum(self.tokens[index] for index in ordered)
        dealt = 0
        for start in range(0, len(ordered), world_size):
            round_ = ordered[start : start + world_size]
            if rank < len(round_):
                micro_batches[len(micro_batches) * dealt // total].append(round_[rank])
            dealt += sum(self.tokens[index] for index in round_)
        return micro_batches

    def _batches(self, epoch: int) -> list[list[int]]:
        # A string as seed: seed 0 in epoch 1 and seed 1 in epoch 0 must not be the same shuffle.
        shuffle = random.Random(f"{self.seed}/{epoch}")
        batches = self._cut(self._order(shuffle))
        if self.config.batching != "shuffled":
            shuffle.shuffle(batches)
        return batches

    def _order(self, shuffle: random.Random) -> list[int]:
        order = list(range(len(self.tokens)))
        shuffle.shuffle(order)
        if self.config.batching != "shuffled":
            order.sort(key=self.tokens.__getitem__)  # stable: like lengths stay shuffled
        return order

    def _cut(self, order: list[int]) -> list[list[int]]:
        """Batches of consecutive samples; how many is the same for every shuffle."""
        if self.config.batching != "token_budget":
            size = self.config.global_batch
            return [order[start : start + size] for start in range(0, len(order), size)]
        batches: list[list[int]] = []
        for index in order:  # ascending: the newest sample is the longest
            if not batches or (len(batches[-1]) + 1) * self.tokens[index] > self.config.token_budget:
                batches.append([])
            batches[-1].append(index)
        return batches


def padding_share(dataset: Dataset, config: DataConfig, world_size: int = 1, seed: int = 0) -> float:
    """Part of the tokens in one epoch's micro-batches that is padding, between 0 and 1.

    A micro-batch is as long as its longest sample.
    """
    plan = BatchPlan(dataset, config, seed)
    padded = 0
    for step in range(plan.steps_per_epoch):
        for rank in range(world_size):
            for micro_batch in plan.share(plan.global_batch(step), world_size, rank):
                padded += len(micro_batch) * max((plan.tokens[index] for index in micro_batch), default=0)
    return 1 - sum(plan.tokens) / padded
