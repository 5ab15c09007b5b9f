"""The training loop: the same few lines for every strategy.

`train(config)` runs on every rank of a process group, as `distlab.train.launch` or `torchrun` start them, or
alone in any process. With `checkpoint.every_steps` it saves, resumes exactly, and ends in order on Ctrl-C.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch

from distlab.faults.inject import Injector
from distlab.observe.profile.capture import profiled
from distlab.train.config import TrainConfig
from distlab.train.data import Dataset, fingerprint, load_data
from distlab.train.interrupt import Interrupt
from distlab.train.launch import device
from distlab.train.lock import only_run
from distlab.train.logs import RunLog
from distlab.train.models import build_model, gradient_bytes, parameter_count
from distlab.train.optimizer import learning_rate
from distlab.train.reports import Reports
from distlab.train.result import StepRecord, TrainResult
from distlab.train.sampler import BatchPlan
from distlab.train.saving import Saving, seed_random_state
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Batch, Strategy


def train(config: TrainConfig) -> TrainResult:
    """Train on this rank, together with the others of the process group.

    SettingError for a configuration that cannot run here; no log and no checkpoint has been touched then.
    """
    with Trainer(config) as trainer:
        for _ in trainer.steps():
            pass
        return trainer.result()


class Trainer:
    """One rank's part of a run: everything is ready once it is made, and `step` takes one optimizer step."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.place = device()
        self.strategy = build_strategy(config, self.place)
        self.training, self.held_out = load_data(config)
        model = build_model(config.model, config.seed)
        self.parameters, self.payload_bytes = parameter_count(model), gradient_bytes(model)
        self.strategy.prepare(model)
        self.plan = BatchPlan(self.training, config.data, config.seed)
        self.strategy.rehearse(self._batch(0)[0])
        with ExitStack() as context:
            context.enter_context(only_run(config))
            self.saving = Saving(config, self.strategy, fingerprint(self.training))
            self.first = self.saving.resume()
            if self.first == 0:
                seed_random_state(config.seed, 0, self.strategy.data_rank)
            self.faults = Injector(config, self.strategy.rank, self.first)
            self.context = context.pop_all()
        self.stopped = False

    def __enter__(self) -> Trainer:
        with self.context as context:
            self.interrupt = context.enter_context(Interrupt(self.saving.enabled))
            log = context.enter_context(RunLog(self.config, self.strategy, self.first))
            self.reports = Reports(self.strategy, log)
            self.profiler = context.enter_context(profiled(self.place))
            self.saving.leave_later()
            self.context = context.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        if error[0] is None:
            self.strategy.close()

    def steps(self) -> Iterator[int]:
        """Take the steps that are left, up to the last or to Ctrl-C; yields the number of each that is done."""
        for step in range(self.first, self.config.steps):
            self.step(step)
            yield step
            if self.stopped:
                return

    def step(self, step: int) -> None:
        """Take optimizer step `step`, report it, and save where a checkpoint is due."""
        strategy, plan = self.strategy, self.plan
        started = time.perf_counter()
        with self.profiler.data():
            batch, ids = self._batch(step)
        data_s = time.perf_counter() - started
        self.faults.within()

        part = strategy.gradients(batch)
        update = strategy.update(batch.learning_rate)
        _synchronise(self.place)
        step_s = time.perf_counter() - started
        wait_s = strategy.communication_s()

        record = StepRecord(
            step=step,
            epoch=plan.epoch(step),
            loss=float("nan"),  # known once the ranks' parts are summed
            learning_rate=batch.learning_rate,
            samples=sum(map(len, ids)),
            tokens=sum(plan.tokens(i) for micro_batch in ids for i in micro_batch),
            step_s=step_s,
            data_s=data_s,
            compute_s=step_s - data_s - wait_s,
            communication_s=wait_s,
            gradient_norm=update.norm,
            applied=update.applied,
        )
        self.stopped = self.reports.add(record, part, self.interrupt.asked, ids)
        if self.saving.due(step + 1) or self.stopped:
            self.saving.save(step + 1, self.reports.flush())
        self.faults.after(step + 1)
        self.profiler.step()

    def result(self) -> TrainResult:
        """Wait for what is still being saved, and evaluate the model."""
        steps = self.reports.finish()
        self.saving.finish()
        loss, accuracy = _evaluate(self.strategy, self.held_out)
        return TrainResult(
            config=self.config,
            rank=self.strategy.rank,
            world_size=self.strategy.world_size,
            parameters=self.parameters,
            payload_bytes=self.payload_bytes if self.strategy.world_size > 1 else 0,
            steps=steps,
            accuracy=accuracy,
            held_out_loss=loss,
            weights_sum=self.strategy.weights_sum(),
            stamp=self.strategy.stamp(),
            resumed_from=self.first or None,
            interrupted=self.stopped,
        )

    def _batch(self, step: int) -> tuple[Batch, list[list[int]]]:
        """This rank's micro-batches of a step on its device, and the ids of their samples."""
        global_batch = self.plan.global_batch(step)
        ids = self.plan.share(global_batch, self.strategy.data_size, self.strategy.data_rank)
        micro_batches = []
        for part in ids:
            inputs, targets = self.training.batch(part)
            micro_batches.append(
                (inputs.to(self.place, non_blocking=True), targets.to(self.place, non_blocking=True))
            )
        global_tokens = sum(map(self.plan.tokens, global_batch))
        rate = learning_rate(self.config.optimizer, step, self.config.steps)
        return Batch(micro_batches, global_tokens, rate), ids


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
