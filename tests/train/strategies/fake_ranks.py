"""A process group whose other ranks do not exist: sizes and counts of any world, in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from distlab.train.config import TrainConfig
from distlab.train.models import build_model
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Batch


@contextmanager
def fake_ranks(world_size: int, rank: int = 0) -> Iterator[None]:
    """This process is `rank` of `world_size`; what others would send never comes, and nothing waits for it."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Collectives(TorchDispatchMode):
    """Counts torch's calls of collectives, by name, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in func.namespace and not func.__name__.startswith(("wait", "_wrap")):
            self.counts[func.__name__.split(".")[0].strip("_")] += 1
        return func(*args, **(kwargs or {}))


def gradient_collectives(config: TrainConfig) -> Counter[str]:
    """Collectives in the forward and backward passes of one step of a GPT, on fake ranks or on real ones."""
    strategy = build_strategy(config, torch.device("cpu"))
    strategy.prepare(build_model(config.model, config.seed))
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    micro_batches = config.data.micro_batches
    batch = Batch([(tokens, tokens)] * micro_batches, 4 * micro_batches, learning_rate=0.1)
    for _ in range(2):  # DDP agrees on new buckets after its first step
        strategy.gradients(batch)
    with Collectives() as seen:
        strategy.gradients(batch)
    return seen.counts
