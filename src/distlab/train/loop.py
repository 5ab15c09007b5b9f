"""The training loop: the same few lines for every strategy.

`train(config)` runs on every rank of a process group, as `distlab.train.launch` or `torchrun` start them, or
alone in any process. With `checkpoint.every_steps` it saves, resumes exactly, and ends in order on Ctrl-C.
"""

from __future__ import annotations

import time

import torch

from distlab.bench.stamp import stamp
from distlab.faults.inject import Injector
from distlab.train.config import TrainConfig
from distlab.train.data import Dataset, load_data
from distlab.train.interrupt import Interrupt
from distlab.train.launch import device
from distlab.train.logs import RunLog
from distlab.train.models import build_model, gradient_bytes, parameter_count
from distlab.train.optimizer import learning_rate
from distlab.train.reports import Reports
from distlab.train.result import StepRecord, TrainResult
from distlab.train.sampler import BatchPlan
from distlab.train.saving import Saving
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Batch, Strategy


def train(config: TrainConfig) -> TrainResult:
    """Train on this rank, together with the others of the process group.

    SettingError for a configuration that cannot run here; nothing has been written then.
    """
    place = device()
    strategy = build_strategy(config, place)
    training, held_out = load_data(config)
    model = build_model(config.model, config.seed)
    parameters, payload_bytes = parameter_count(model), gradient_bytes(model)
    strategy.prepare(model)
    plan = BatchPlan(training, config.data, config.seed)
    saving = Saving(config, strategy)
    first = saving.resume()
    faults = Injector(config, strategy.rank, first)
    with Interrupt(saving.enabled) as interrupt, RunLog(config, strategy, first) as log:
        reports = Reports(strategy, log)
        for step in range(first, config.steps):
            started = time.perf_counter()
            ids = plan.share(plan.global_batch(step), strategy.data_size, strategy.data_rank)
            batch = _batch(training, plan, step, ids, place)
            data_s = time.perf_counter() - started
            part = strategy.gradients(batch)
            rate = learning_rate(config.optimizer, step, config.steps)
            update = strategy.update(rate)
            _synchronise(place)
            step_s = time.perf_counter() - started
            wait_s = strategy.communication_s()

            stop = reports.add(
                StepRecord(
                    step=step,
                    epoch=plan.epoch(step),
                    loss=float("nan"),  # known once the ranks' parts are summed
                    learning_rate=rate,
                    samples=sum(map(len, ids)),
                    tokens=sum(training.tokens(i) for part in ids for i in part),
                    step_s=step_s,
                    data_s=data_s,
                    compute_s=step_s - data_s - wait_s,
                    communication_s=wait_s,
                    gradient_norm=update.norm,
                    applied=update.applied,
                ),
                part,
                interrupt.asked,
                ids,
            )
            if saving.due(step + 1) or stop:
                saving.save(step + 1, reports.flush())
            faults.after(step + 1)
            if stop:
                break
        steps = reports.finish()
        saving.finish()
    loss, accuracy = _evaluate(strategy, held_out)
    return TrainResult(
        config=config,
        rank=strategy.rank,
        world_size=strategy.world_size,
        parameters=parameters,
        payload_bytes=payload_bytes if strategy.world_size > 1 else 0,
        steps=steps,
        accuracy=accuracy,
        held_out_loss=loss,
        weights_sum=strategy.weights_sum(),
        stamp=stamp(place),
        resumed_from=first or None,
        interrupted=reports.stopped,
    )


def _batch(dataset: Dataset, plan: BatchPlan, step: int, ids: list[list[int]], place: torch.device) -> Batch:
    """This rank's micro-batches on its device."""
    micro_batches = []
    for part in ids:
        inputs, targets = dataset.batch(part)
        micro_batches.append((inputs.to(place, non_blocking=True), targets.to(place, non_blocking=True)))
    return Batch(micro_batches, sum(dataset.tokens(i) for i in plan.global_batch(step)))


def _synchronise(place: torch.device) -> None:
    """Wait for the GPU, so that the clock reads what was done and not what was queued."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)


EVALUATED = 256
"""Held-out samples in one forward pass."""


@torch.no_grad()
def _evaluate(strategy: Strategy, held_out: Dataset) -> tuple[float, float]:
    """Mean loss and share of right guesses over the held-out targets; every rank takes all of them."""
    right = tokens = 0
    loss = 0.0
    for start in range(0, len(held_out), EVALUATED):
        inputs, targets = held_out.batch(range(start, min(start + EVALUATED, len(held_out))))
        sums = strategy.evaluate(inputs.to(strategy.device), targets.to(strategy.device))
        loss, right, tokens = loss + sums.loss, right + sums.right, tokens + sums.tokens
    return loss / tokens, right / tokens
