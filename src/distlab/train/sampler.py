"""Which samples make a step, and which of them a rank takes.

A plan depends on the data set, the configuration and the seed, never on the number of ranks or on what was
asked before: step k has the same samples at every world size, and training goes on after a crash, in the
middle of an epoch or with other ranks, from the number of the step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from distlab.train.config import DataConfig
from distlab.train.data import Dataset
from distlab.train.permutation import Permutation


class BatchPlan:
    """The global batch of every step: in each epoch every sample exactly once, in a new order.

    The three ways of `config.batching`:

    - `shuffled`: a shuffle, cut every `global_batch` samples; the last batch of an epoch is smaller. A short
      sample that meets a long one is padded to its length.
    - `by_length`: samples sorted by length (like lengths shuffled), cut every `global_batch`; then the order
      of the batches is shuffled. Hardly any padding, but steps of very different numbers of tokens, and
      samples of like length meet again in every epoch.
    - `token_budget`: sorted and shuffled likewise, but a batch takes samples as long as their number times
      the longest is at most `token_budget` (a longer sample is a batch of its own). Steps of like cost.

    Where all samples have one length, nothing is written down of an epoch but the order of its samples, and that
    only where they are few (see permutation.py): a plan for 10^8 samples costs no more than one for ten.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        self.tokens = dataset.tokens
        self.samples = len(dataset)
        if dataset.tokens_per_sample is None:
            self._lengths = np.array([dataset.tokens(index) for index in range(self.samples)])
            self._equal_size = None
            self.steps_per_epoch = len(self._cut(np.argsort(self._lengths)))
        else:
            by_budget = config.batching == "token_budget"
            self._equal_size = (
                max(1, config.token_budget // dataset.tokens_per_sample) if by_budget else config.global_batch
            )
            self.steps_per_epoch = -(-self.samples // self._equal_size)
        self._planned = (0, self._batches(0))

    def global_batch(self, step: int) -> list[int]:
        """Sample ids of optimizer step `step` (0 is the first); steps may be asked for in any order."""
        epoch = self.epoch(step)
        if self._planned[0] != epoch:
            self._planned = (epoch, self._batches(epoch))
        return self._planned[1](step % self.steps_per_epoch)

    def epoch(self, step: int) -> int:
        """The epoch in which `step` lies (0 is the first)."""
        return step // self.steps_per_epoch

    def share(self, batch: Sequence[int], world_size: int, rank: int) -> list[list[int]]:
        """A rank's part of a global batch: always `config.micro_batches` lists of ids, some perhaps empty.

        Over all ranks each id appears once. The batch, longest sample first, is dealt out to the ranks like
        cards, round after round; a micro-batch is some consecutive rounds, so many that all micro-batches
        have about the same number of tokens. So the ranks' numbers of samples differ by one at most, their
        tokens in a micro-batch by its longest sample at most, and samples of a micro-batch have like lengths.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of world size {world_size}; it must lie in 0..world_size-1.")
        micro_batches: list[list[int]] = [[] for _ in range(self.config.micro_batches)]
        ordered = sorted(batch, key=self.tokens, reverse=True)
        dealt = [0, *accumulate(self.tokens(index) for index in ordered)]
        for position in range(rank, len(ordered), world_size):
            before = dealt[position - rank]  # tokens of all earlier rounds: the same for every rank
            micro_batches[before * len(micro_batches) // dealt[-1]].append(ordered[position])
        return micro_batches

    def _batches(self, epoch: int) -> Callable[[int], list[int]]:
        """The batch of each step of an epoch."""
        shuffle = np.random.default_rng((self.seed, epoch))
        if self._equal_size is not None:
            return self._equal_batches(self._equal_size, shuffle)
        order = shuffle.permutation(self.samples)
        if self.config.batching == "shuffled":
            return self._cut(order).__getitem__
        by_length = order[np.argsort(self._lengths[order], kind="stable")]  # like lengths stay shuffled
        batches = self._cut(by_length)
        return [batches[i] for i in shuffle.permutation(len(batches))].__getitem__

    def _equal_batches(self, size: int, shuffle: np.random.Generator) -> Callable[[int], list[int]]:
        """The same batches as above, each made when it is asked for."""
        samples = Permutation(self.samples, shuffle)
        batches = None if self.config.batching == "shuffled" else Permutation(self.steps_per_epoch, shuffle)

        def batch(step: int) -> list[int]:
            i = step if batches is None else int(batches.part(step, step + 1)[0])
            ids: list[int] = samples.part(i * size, (i + 1) * size).tolist()
            return ids

        return batch

    def _cut(self, order: NDArray[np.int64]) -> list[list[int]]:
        """Batches of consecutive samples; by length, how many there are is the same for every shuffle."""
        indices: list[int] = order.tolist()
        if self.config.batching != "token_budget":
            size = self.config.global_batch
            return [indices[start : start + size] for start in range(0, len(indices), size)]
        batches: list[list[int]] = []
        for index in indices:  # ascending: the newest sample is the longest
            if not batches or (len(batches[-1]) + 1) * self.tokens(index) > self.config.token_budget:
                batches.append([])
            batches[-1].append(index)
        return batches


def padding_share(dataset: Dataset, config: DataConfig, world_size: int = 1, seed: int = 0) -> float:
    """Part of the tokens in the first epoch's micro-batches that is padding, between 0 and 1.

    A micro-batch is as long as its longest sample.
    """
    plan = BatchPlan(dataset, config, seed)
    padded = 0
    for step in range(plan.steps_per_epoch):
        for rank in range(world_size):
            for micro_batch in plan.share(plan.global_batch(step), world_size, rank):
                padded += len(micro_batch) * max(map(plan.tokens, micro_batch), default=0)
    return 1 - sum(map(plan.tokens, range(plan.samples))) / padded
