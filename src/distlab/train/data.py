"""The digits data and a sampler that shares out each global batch without dropping or repeating a sample."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

HELD_OUT = 360
"""Of scikit-learn's 1,797 digits, this many are kept for testing, the same ones in every run."""


@dataclass(frozen=True)
class Digits:
    """Images of shape (n, 1, 8, 8) in [0, 1] and labels of shape (n,), split for training and testing."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits() -> Digits:
    """The optical recognition of handwritten digits data set, as it ships inside scikit-learn."""
    from sklearn import datasets  # type: ignore[import-untyped]

    bunch = datasets.load_digits()
    images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1797))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    return Digits(images[train], labels[train], images[test], labels[test])


class Shard(NamedTuple):
    """A rank's part of one global batch."""

    indices: list[int]
    """May be empty: the last batch can have fewer samples than there are ranks."""
    global_size: int
    """Samples that all ranks together take in this step."""


class ShardedSampler:
    """Deals each global batch of a seeded shuffle out to the ranks, like cards.

    Over an epoch the ranks' shards hold every index exactly once, whatever `length` and `world_size` are
    (torch's DistributedSampler repeats or drops some to make shards even). Step k has the same global batch
    at every world size, so that runs at different world sizes do the same mathematics.
    """

    def __init__(self, length: int, global_batch: int, world_size: int, rank: int, seed: int) -> None:
        """ValueError where the rank lies outside the world, or a size is not positive."""
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of world size {world_size}; rank must lie in 0..world_size-1.")
        if global_batch < 1 or length < 0:
            raise ValueError(f"global_batch is {global_batch}, length {length}; need at least 1 and 0.")
        self.length = length
        self.global_batch = global_batch
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle. Call it before each epoch, with the same number on every rank."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Steps of one epoch: the same for every rank."""
        return -(-self.length // self.global_batch)

    def __iter__(self) -> Iterator[Shard]:
        # A string as seed: seed 0 in epoch 1 and seed 1 in epoch 0 must not be the same shuffle.
        order = list(range(self.length))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        for start in range(0, self.length, self.global_batch):
            batch = order[start : start + self.global_batch]
            yield Shard(batch[self.rank :: self.world_size], len(batch))
