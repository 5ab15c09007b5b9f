"""Step times of `distlab.train` on several processes: the file own_step_scaling.csv (see own_cases.py).

Weak scaling keeps the samples of a process, strong scaling those of a step. Strategy `single` on several processes is
as many trainings that never talk to each other: what sharing the machine costs alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WARM_UP = 3
STEPS_LEAST = 5
STEPS_MOST = 100


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    short: bool = False

    @property
    def launches(self) -> int:
        return 1 if self.short else 3

    @property
    def call_s(self) -> float:
        """Seconds for the calls of a collective at one size."""
        return 0.01 if self.short else 0.1

    @property
    def case_s(self) -> float:
        """Seconds for the steps of a case, but STEPS_LEAST steps."""
        return 0.05 if self.short else 0.6


@dataclass(frozen=True)
class Model:
    """What is trained; the samples of a step on one process when nothing is divided."""

    kind: str
    width: int
    layers: int
    heads: int
    sequence: int
    samples: int


MODELS = (Model("gpt", 128, 4, 4, 64, 8), Model("cnn", 192, 2, 1, 1, 64))
"""A CNN has no sequence, heads or choice of layers."""
STRATEGIES = ("ddp", "fsdp", "single")
"""In the order of measuring: trainings that never talk come last, without a process group."""


def cases(ranks: int) -> list[dict[str, Any]]:
    """Columns of the file, but the times. On 1 process also the parts of the strong scaling's processes."""
    found = []
    for model in MODELS:
        for strategy in STRATEGIES:
            parts = (1,) if strategy == "single" else (1, 2, 4) if ranks == 1 else (1, ranks)
            samples = [model.samples // n for n in parts]
            for each in samples:
                found.append(
                    {
                        "model": model.kind, "width": model.width, "layers": model.layers,
                        "heads": model.heads, "sequence": model.sequence, "strategy": strategy,
                        "ranks": ranks, "samples_per_rank": each,
                    }
                )  # fmt: skip
    return found


def launched(ranks: int, plan: Plan) -> Iterator[tuple[dict[str, Any], float]]:
    """Each case on so many fresh processes: the median of its steps' seconds, on the slowest of them."""
    from distlab.train.launch import launch

    chosen = cases(ranks)
    by_rank = launch(_measure, ranks, chosen, plan.case_s, backend="gloo", threads_per_rank=1, timeout_s=120)
    for case, *medians in zip(chosen, *by_rank, strict=True):
        yield case, max(medians)


def _measure(chosen: list[dict[str, Any]], case_s: float) -> list[float]:
    import torch.distributed as dist

    together = [case for case in chosen if case["strategy"] != "single"]
    medians = {id(case): _median(case, case_s) for case in together}
    dist.barrier()
    dist.destroy_process_group()
    medians |= {id(case): _median(case, case_s) for case in chosen if case["strategy"] == "single"}
    return [medians[id(case)] for case in chosen]


def _median(case: dict[str, Any], case_s: float) -> float:
    """On one rank: from the end of a step to the end of the next, reports and all."""
    from distlab.train.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig
    from distlab.train.loop import Trainer

    config = TrainConfig(
        strategy=case["strategy"],
        steps=10 * STEPS_MOST,
        model=ModelConfig(case["model"], case["width"], case["layers"], case["heads"]),
        data=DataConfig(
            "synthetic",
            global_batch=case["samples_per_rank"] * (1 if case["strategy"] == "single" else case["ranks"]),
            sequence_length=max(2, case["sequence"]),
            samples=4 * 64,
        ),
        optimizer=OptimizerConfig("adamw", "fused"),
    )
    with Trainer(config) as trainer:
        for number in range(WARM_UP):
            trainer.step(number)
        times: list[float] = []
        more = True
        while more:
            before = time.perf_counter()
            for _ in range(STEPS_LEAST):
                trainer.step(WARM_UP + len(times))
                now = time.perf_counter()
                times.append(now - before)
                before = now
            more = _agreed(sum(times) < case_s and len(times) < STEPS_MOST)
        return statistics.median(times)


def _agreed(more: bool) -> bool:
    """What rank 0 says, where there is a group."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        return more
    answer = torch.tensor(more)
    dist.broadcast(answer, 0)
    return bool(answer)
