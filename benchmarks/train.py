"""What `distlab.train` costs beside a bare torch loop, Accelerate and Lightning Fabric doing the same.

"The same": two ranks, the same model and data, every step the loss averaged over the ranks and written as a
line of JSON. Of the bare loop there are two: one does so, one keeps its own losses in a list. On CPUs, where two
ranks of any of them have equal devices.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from benchmarks.interleaved import ratio_of, take_turns
from benchmarks.results import Result

TURN_STEPS = 8
WARM_UP_STEPS = 5
WANTED_HALF_WIDTH = 0.01
STEPS = 1_000_000
"""More than any benchmark takes."""


def ddp_overhead() -> list[Result]:
    """Steady step time of strategy ddp over its peers."""
    return _overhead("ddp", ("bare torch", "bare torch, logging", "accelerate", "fabric"))


def fsdp_overhead() -> list[Result]:
    """Steady step time of strategy fsdp over a bare fully_shard loop.

    Accelerate and Fabric have FSDP on accelerators only.
    """
    return _overhead("fsdp", ("bare torch", "bare torch, logging"))


def _overhead(strategy: str, peers: tuple[str, ...]) -> list[Result]:
    from distlab.train.launch import launch

    with tempfile.TemporaryDirectory() as folder:
        times = launch(
            _measure, 2, strategy, peers, folder, backend="gloo", threads_per_rank=1, timeout_s=120
        )[0]
    ours = times[0]
    rows = []
    for peer, theirs in zip(peers, times[1:], strict=True):
        ratio = ratio_of(ours, theirs)
        name = f"train.{strategy}.overhead"
        print(f"{name} beside {peer}: {ratio.median:.4f} (95%: {ratio.low:.4f} to {ratio.high:.4f})")
        rows.append(Result(name, statistics.median(ours) * 1e3, "ms/step", peer, ratio.median))
    return rows


def _measure(strategy: str, peers: tuple[str, ...], folder: str) -> list[list[float]]:
    """On every rank: seconds per step of each turn, first distlab's, then the peers'."""
    import torch
    import torch.distributed as dist

    from distlab.train.config import DataConfig, ModelConfig, TrainConfig
    from distlab.train.loop import Trainer

    config = TrainConfig(
        name="overhead",
        folder=folder,
        strategy=strategy,  # type: ignore[arg-type]
        steps=STEPS,
        model=ModelConfig("mlp", width=1024),
        data=DataConfig(global_batch=512),
    )
    with Trainer(config) as trainer:
        steps = [_numbered(trainer.step)]
        for peer in peers:
            builds: dict[str, Callable[[Any, TextIO], Callable[[int], None]]] = {
                "bare torch": _bare,
                "bare torch, logging": partial(_bare, logging=True),
                "accelerate": _accelerate,
                "fabric": _fabric,
            }
            log_path = Path(folder, f"{peer}-{dist.get_rank()}.jsonl")
            log = trainer.context.enter_context(log_path.open("w"))
            steps.append(_numbered(builds[peer](trainer, log)))
        for step in steps:
            for _ in range(WARM_UP_STEPS):
                step()

        def turn(step: Callable[[], None]) -> float:
            dist.barrier()
            started = time.perf_counter()
            for _ in range(TURN_STEPS):
                step()
            return (time.perf_counter() - started) / TURN_STEPS

        def close_enough(times: list[list[float]]) -> bool:
            widths = [ratio_of(times[0], peer).half_width for peer in times[1:]]
            widest = torch.tensor(max(widths))
            dist.all_reduce(widest, dist.ReduceOp.MAX)
            return bool(widest <= WANTED_HALF_WIDTH)

        return take_turns([partial(turn, step) for step in steps], close_enough)


def _numbered(step: Callable[[int], None]) -> Callable[[], None]:
    """Calls `step` with 0, 1, 2, ..."""
    count = iter(range(STEPS))
    return lambda: step(next(count))


def _own_model(trainer: Any) -> Any:
    from distlab.train.models import build_model

    return build_model(trainer.config.model, trainer.config.seed)


def _sgd(trainer: Any, model: Any) -> Any:
    import torch

    config = trainer.config.optimizer
    return torch.optim.SGD(model.parameters(), config.learning_rate, config.momentum, foreach=True)


def _sampled(trainer: Any, step: int) -> tuple[Any, Any]:
    """This rank's samples of a step, by the same plan: what is compared is training."""
    [ids] = trainer.plan.share(trainer.plan.global_batch(step), 2, trainer.strategy.rank)
    images, labels = trainer.training.batch(ids)
    return images, labels


def _bare(trainer: Any, log: TextIO, logging: bool = False) -> Callable[[int], None]:
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.nn.functional import cross_entropy
    from torch.nn.parallel import DistributedDataParallel

    model = _own_model(trainer)
    if trainer.config.strategy == "ddp":
        model = DistributedDataParallel(model)
    else:
        for block in model.blocks.values():
            fully_shard(block)
        fully_shard(model)
    optimizer = _sgd(trainer, model)
    losses = []

    def step(number: int) -> None:
        images, labels = _sampled(trainer, number)
        loss = cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
        if logging:
            dist.all_reduce(losses[-1], dist.ReduceOp.SUM)
            _write(log, number, losses[-1].item() / 2)

    return step


def _accelerate(trainer: Any, log: TextIO) -> Callable[[int], None]:
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from torch.nn.functional import cross_entropy

    accelerator = Accelerator(cpu=True)
    if accelerator.num_processes != 2:
        raise RuntimeError(f"Accelerate sees {accelerator.num_processes} processes, not 2.")
    model = _own_model(trainer)
    model, optimizer = accelerator.prepare(model, _sgd(trainer, model))

    def step(number: int) -> None:
        images, labels = _sampled(trainer, number)
        loss = cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        _write(log, number, accelerator.reduce(loss.detach(), "mean").item())

    return step


def _fabric(trainer: Any, log: TextIO) -> Callable[[int], None]:
    import torch
    from lightning_fabric import Fabric
    from torch.nn.functional import cross_entropy

    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    if fabric.world_size != 2:
        raise RuntimeError(f"Fabric sees {fabric.world_size} processes, not 2.")
    model = _own_model(trainer)
    model, optimizer = fabric.setup(model, _sgd(trainer, model))

    def step(number: int) -> None:
        images, labels = _sampled(trainer, number)
        loss = cross_entropy(model(images), labels)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        mean = fabric.all_reduce(loss.detach())
        assert isinstance(mean, torch.Tensor)
        _write(log, number, mean.item())

    return step


def _write(log: TextIO, step: int, loss: float) -> None:
    log.write(json.dumps({"step": step, "loss": loss}) + "\n")
    log.flush()
