"""Training steps of GPTs of several sizes on one device: how long one takes and how much memory it needs at most.

    python -m distlab.record.steps FOLDER/steps.json --seconds 90

What `distlab predict step` and `distlab predict memory` are held against: the course's trainer, one rank, no loader
that could hold it up. Sizes come in the order of their cost; once `--seconds` are over no further one is begun, and
the file's notes name what was left out. Peaks are of the allocator's live tensors; a CPU has none to show.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any, Literal

import torch

from distlab.bench.device import choose_device, is_out_of_memory
from distlab.bench.results import Results, write_results
from distlab.bench.stamp import full_stamp
from distlab.record.runs import own_group
from distlab.train.config import DataConfig, MemoryConfig, ModelConfig, OptimizerConfig, TrainConfig
from distlab.train.loop import Trainer
from distlab.train.models import VOCABULARY

WARM_UP = 4
"""Steps before the clock: the optimizer's state is made in the first, and libraries choose their kernels."""
STEPS = 12


@dataclass(frozen=True)
class Size:
    """What is trained, named as `distlab.predict` names it."""

    hidden: int
    layers: int
    heads: int
    sequence: int
    micro_batch: int
    precision: Literal["fp32", "bf16"] = "bf16"
    recompute: Literal["none", "selective", "full"] = "none"


GPU_SIZES = (
    Size(768, 12, 12, 1024, 16),
    Size(768, 12, 12, 1024, 16, recompute="full"),
    Size(768, 12, 12, 1024, 8, precision="fp32"),
    Size(1024, 24, 16, 1024, 16),
    Size(1024, 24, 16, 4096, 4),
    Size(1024, 24, 16, 1024, 32, recompute="selective"),
    Size(2048, 8, 16, 2048, 8),
    Size(2048, 16, 16, 2048, 4),
    Size(2048, 16, 16, 2048, 8, recompute="full"),
    Size(4096, 4, 32, 2048, 4),
    Size(4096, 8, 32, 2048, 4),
)
CPU_SIZES = (Size(64, 2, 4, 64, 4), Size(64, 2, 4, 64, 4, precision="fp32", recompute="full"))
SHORT_SIZES = CPU_SIZES[:1]


def config_of(size: Size) -> TrainConfig:
    """The run of a size: AdamW, a data set that is drawn in memory, nothing saved."""
    batches = 4
    return TrainConfig(
        strategy="single",
        world_size=1,
        steps=WARM_UP + STEPS,
        model=ModelConfig(kind="gpt", width=size.hidden, layers=size.layers, heads=size.heads),
        data=DataConfig(
            source="synthetic",
            samples=batches * size.micro_batch,
            global_batch=size.micro_batch,
            sequence_length=size.sequence,
        ),
        optimizer=OptimizerConfig(name="adamw", learning_rate=3e-4),
        memory=MemoryConfig(precision=size.precision, activation_checkpointing=size.recompute),
    )


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """A row: the size, seconds of each step after the warm-up, and the most bytes that tensors held meanwhile."""
    on_gpu = device.type == "cuda"
    samples_s = []
    with own_group(device), Trainer(config_of(size)) as trainer:
        steps = trainer.steps()
        for _ in islice(steps, WARM_UP):
            pass
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        before = time.perf_counter()
        for _ in steps:  # each waits for the device at its end
            now = time.perf_counter()
            samples_s.append(float(f"{now - before:.6g}"))
            before = now
        peak = torch.cuda.max_memory_allocated(device) if on_gpu else None
        trainer.reports.finish()
    return asdict(size) | {"vocabulary": VOCABULARY, "peak_allocated_bytes": peak, "samples_s": samples_s}


def measure_all(
    sizes: Sequence[Size], device: torch.device, seconds: float
) -> Iterator[tuple[Size, dict[str, Any] | str]]:
    """Each size with its row, or with the sentence that says why it has none."""
    end = time.monotonic() + seconds
    for size in sizes:
        if time.monotonic() >= end:
            yield size, f"not begun: the {seconds:g} s were over"
            continue
        try:
            yield size, measure(size, device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            yield size, "out of memory"
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--short", action="store_true")
    asked: Any = parser.parse_args(arguments)
    device = choose_device(asked.device)
    sizes = SHORT_SIZES if asked.short else GPU_SIZES if device.type == "cuda" else CPU_SIZES
    rows: list[dict[str, Any]] = []
    notes = [
        "AdamW, weights and optimizer state in fp32, autocast for bf16; attention by torch's own kernels."
    ]
    identity, stamp = [field.name for field in fields(Size)], asdict(full_stamp(device))
    for size, row in measure_all(sizes, device, asked.seconds):
        print(f"{size}: {row if isinstance(row, str) else min(row['samples_s'])}", flush=True)
        if isinstance(row, str):
            notes.append(f"{size}: {row}.")
        else:
            rows.append(row)
        # After each size, so that a recording that is stopped keeps the sizes before.
        write_results(asked.out, Results("steps", identity, rows, stamp, notes))


if __name__ == "__main__":
    main()
