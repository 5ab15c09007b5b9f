"""What runs on the device while its telemetry is recorded: training that is good, small-batched or starved, and heat.

    python -m distlab.record.runs good FOLDER --seconds 20

It trains for so many seconds on the GPU (a CPU with --device cpu, with a smaller model) and leaves `FOLDER/<case>`, a
run's folder. It changes no setting of the device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distlab.bench.clock import Clock
from distlab.bench.device import choose_device
from distlab.train.config import (
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from distlab.train.data import Dataset
from distlab.train.loop import Trainer

CASES = ("good", "small_batch", "starved", "hot")
BATCH = {"good": 64, "starved": 64, "small_batch": 1}
CPU_BATCH = {"good": 16, "starved": 16, "small_batch": 1}
LOADER_S = 0.25
"""What the slow loader takes for a batch: several steps of a good run."""
CPU_LOADER_S = 0.05


def config_of(case: str, folder: str | None, on_gpu: bool) -> TrainConfig:
    """The run of a case: one rank, more steps than it will take."""
    if on_gpu:
        model = ModelConfig(kind="gpt", width=1024, layers=12, heads=16)
        memory, length, batch = MemoryConfig(precision="bf16"), 512, BATCH[case]
    else:
        model = ModelConfig(kind="gpt", width=64, layers=2, heads=4)
        memory, length, batch = MemoryConfig(), 64, CPU_BATCH[case]
    return TrainConfig(
        name=case,
        folder=folder,
        strategy="single",
        world_size=1,
        steps=1_000_000,
        model=model,
        data=DataConfig(source="synthetic", samples=4096, global_batch=batch, sequence_length=length),
        optimizer=OptimizerConfig(name="adamw", learning_rate=3e-4, clip_norm=1.0),
        memory=memory,
    )


class SlowLoader:
    """A data set behind a slow disk or network: each batch takes `delay_s` longer."""

    def __init__(self, inner: Dataset, delay_s: float) -> None:
        self.inner, self.delay_s = inner, delay_s

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def tokens_per_sample(self) -> int | None:
        return self.inner.tokens_per_sample

    def tokens(self, index: int) -> int:
        return self.inner.tokens(index)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        time.sleep(self.delay_s)
        return self.inner.batch(indices)


@contextlib.contextmanager
def own_group(device: torch.device) -> Iterator[None]:
    """On a GPU a process group of this process alone, which is how a rank knows its GPU."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("nccl", store=store, rank=0, world_size=1, device_id=device)
    try:
        yield
    finally:
        dist.destroy_process_group()


def train_for(case: str, folder: str | None, device: torch.device, seconds: float, steps: int) -> int:
    """Train for that long, and for that many steps at the least; returns how many there were.

    folder: where the run's folder goes; None for nowhere.
    """
    on_gpu = device.type == "cuda"
    taken = 0
    with own_group(device), Trainer(config_of(case, folder, on_gpu)) as trainer:
        if case == "starved":
            trainer.training = SlowLoader(trainer.training, LOADER_S if on_gpu else CPU_LOADER_S)
        end = time.monotonic() + seconds
        for step in trainer.steps():
            taken = step + 1
            if time.monotonic() >= end and taken >= steps:
                break
        trainer.reports.finish()
    return taken


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("folder")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    asked: Any = parser.parse_args(arguments)
    device = choose_device(asked.device)
    if asked.case == "hot":
        Clock(device).heat(asked.seconds)
        print(f"hot: products for {asked.seconds:g} s")
        return
    taken = train_for(asked.case, asked.folder, device, asked.seconds, asked.steps)
    print(f"{asked.case}: {taken} steps")


if __name__ == "__main__":
    main()
