"""The training loop: one function that every rank runs.

from distlab.train.launch import launch
from distlab.train.loop import train
results = launch(train, 2, TrainConfig(strategy="ddp"))
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy

from distlab.bench.stamp import stamp
from distlab.train.config import StepRecord, TrainConfig, TrainResult
from distlab.train.data import Digits, Shard, ShardedSampler, load_digits
from distlab.train.launch import device
from distlab.train.models import build_model, gradient_bytes, parameter_count
from distlab.train.strategies import build_strategy


def train(config: TrainConfig) -> TrainResult:
    """Train on this rank's share of the digits; every rank of the process group calls it.

    Ranks may have shards of different size, even empty ones: each divides its summed loss by the *global*
    batch and multiplies by the world size, so that the mean over ranks, which is what DDP takes, is the
    gradient of the mean over the global batch.

    Works without a process group too (strategy `single`).
    """
    world_size, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    place = device()
    digits = load_digits()
    images, labels = digits.train_images.to(place), digits.train_labels.to(place)
    model = build_model(config)
    strategy = build_strategy(config.strategy)
    replica = strategy.prepare(model, place)
    optimizer = torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum)
    shards = _shards(ShardedSampler(len(labels), config.global_batch, world_size, rank, config.seed))

    shares: list[torch.Tensor] = []
    times: list[tuple[int, float, float, float]] = []
    for _ in range(config.steps):
        _synchronise(place)
        start = time.perf_counter()
        shard = next(shards)
        index = torch.tensor(shard.indices, dtype=torch.int64, device=place)
        x, y = images[index], labels[index]
        _synchronise(place)
        data_s = time.perf_counter() - start

        optimizer.zero_grad()
        share = cross_entropy(replica(x), y, reduction="sum") / shard.global_size
        strategy.backward(share * world_size)
        optimizer.step()
        _synchronise(place)
        step_s = time.perf_counter() - start

        shares.append(share.detach())
        times.append((len(shard.indices), step_s, data_s, strategy.communication_s()))

    losses = torch.stack(shares)
    if world_size > 1:  # once, after the clock has stopped
        dist.all_reduce(losses)
    steps = [
        StepRecord(i, loss, samples, step_s, data_s, step_s - data_s - wait_s, wait_s)
        for i, (loss, (samples, step_s, data_s, wait_s)) in enumerate(
            zip(losses.tolist(), times, strict=True)
        )
    ]
    return TrainResult(
        config=config,
        rank=rank,
        world_size=world_size,
        parameters=parameter_count(model),
        payload_bytes=gradient_bytes(model) if world_size > 1 else 0,
        steps=steps,
        accuracy=_accuracy(model, digits, place),
        weights_sum=sum(p.detach().double().sum().item() for p in model.parameters()),
        stamp=stamp(place),
    )


def _shards(sampler: ShardedSampler) -> Iterator[Shard]:
    """Epoch after epoch without end."""
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from sampler
        epoch += 1


def _synchronise(place: torch.device) -> None:
    """Wait for the GPU, so that the clock reads what was done and not what was queued."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


@torch.no_grad()
def _accuracy(model: nn.Module, digits: Digits, place: torch.device) -> float:
    guesses = model(digits.test_images.to(place)).argmax(dim=1).cpu()
    return float((guesses == digits.test_labels).double().mean())
