"""What each step came to, summed over the ranks without making any of them wait.

The ranks' parts of a loss are summed in the background and read one step later. The same sum tells every rank
at the same step whether some rank was asked to stop, so that all of them stop together.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from distlab.train.logs import RunLog
from distlab.train.result import StepRecord
from distlab.train.strategies.base import Strategy


class Reports:
    """The records of a run, in order; the newest one waits for its loss."""

    def __init__(self, strategy: Strategy, log: RunLog) -> None:
        self.strategy = strategy
        self.log = log
        self.records: list[StepRecord] = []
        self.stopped = False
        self._pending: tuple[StepRecord, list[list[int]], Tensor, dist.Work | None] | None = None

    def add(self, record: StepRecord, part: Tensor, stop: bool, ids: list[list[int]]) -> bool:
        """Begin to sum the step's loss; finish the step before. True once any rank was asked to stop.

        part: this rank's part of the loss (scalar). ids: its samples, by micro-batch.
        """
        before = self._pending
        sums = torch.stack([part, torch.full_like(part, float(stop))])
        self._pending = (record, ids, sums, self.strategy.sum_over_ranks(sums))
        self._complete(before)
        return self.stopped

    def flush(self) -> StepRecord:
        """Wait for the newest step's loss and return its record."""
        pending, self._pending = self._pending, None
        self._complete(pending)
        return self.records[-1]

    def finish(self) -> list[StepRecord]:
        """All records."""
        pending, self._pending = self._pending, None
        self._complete(pending)
        return self.records

    def _complete(self, pending: tuple[StepRecord, list[list[int]], Tensor, dist.Work | None] | None) -> None:
        if pending is None:
            return
        record, ids, sums, work = pending
        if work is not None:
            work.wait()
        loss, stop = sums.tolist()
        self.stopped = self.stopped or stop > 0
        self.records.append(replace(record, loss=loss))
        self.log.step(self.records[-1], ids)
