"""torch's DistributedDataParallel, with a clock on what its communication costs.

What is measured. DDP sums gradients in buckets, each as soon as its gradients exist, while the backward
pass goes on. The part of this that a step pays for is the *exposed* wait: from the moment when the last
bucket's gradients are computed until all buckets are summed. A communication hook sees that moment.

- On CPU (gloo) the wait is wall-clock time. It holds the transfer that was not hidden, the summing, the copy
  back into `.grad`, and the time that a rank waits for a slower one. gloo's own threads share the cores with
  the backward pass; what that slows the pass down counts as compute.
- On GPU (NCCL) it is the time between two events on the compute stream, with the same contents; NCCL's
  kernels run on a stream of their own, and what they take from the compute kernels counts as compute.

The all-reduce itself can be longer than the wait: what overlaps with the backward pass is free.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.strategies.base import Batch, Strategy
from distlab.train.strategies.stopwatch import stopwatch


class DDP(Strategy):
    """One replica per rank; gradients summed by an all-reduce that overlaps with the backward pass."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        if not dist.is_initialized():
            raise SettingError(
                "strategy 'ddp' needs a process group; start it with distlab train, torchrun or launch, or choose "
                "strategy 'single'."
            )
        if config.communication.compression == "powersgd" and config.memory.precision == "fp16":
            raise SettingError(
                "communication.compression is 'powersgd', which carries what it left out of one step into the next "
                "one: with memory.precision 'fp16' an overflow would stay for good. Set one of them to another value."
            )

    def wrap(self, model: nn.Module) -> nn.Module:
        on_gpu = self.device.type == "cuda"
        self.stopwatch = stopwatch(self.device)
        self.replica = DistributedDataParallel(
            model.to(self.device),
            device_ids=[self.device] if on_gpu else None,
            bucket_cap_mb=self.config.communication.bucket_mb * 1e6 / 2**20,
        )
        compression = self.config.communication.compression
        hook: Any = _add_up
        if compression == "fp16":
            hook = default_hooks.fp16_compress_wrapper(_add_up)
        elif compression == "powersgd":
            rank = self.config.communication.powersgd_rank
            # What it has left out so far is not part of a checkpoint: a resumed run is not the same to the bit.
            self.low_rank = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=rank, start_powerSGD_iter=2
            )
            hook = _average_low_rank
            self.gradient_factor = self.data_size  # PowerSGD averages; the step follows the sum
        self.replica.register_comm_hook(self, hook)
        return self.replica

    def rehearse(self, batch: Batch) -> None:
        """One backward pass, after which DDP lays out its buckets anew, in the order gradients came in.

        Where a gradient lies in a bucket decides in which order three ranks or more add it up. A resumed run
        would begin with the old layout in the middle of a run, and end with other bits.
        """
        self.gradients(batch)
        self.optimizer.zero_grad()

    def synchronise(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.replica.no_sync()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        self.stopwatch.stop()

    def communication_s(self) -> float:
        return self.stopwatch.total_s()


# No `from __future__ import annotations` in this file: DDP compares these annotations with the types.
def _add_up(strategy: DDP, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Sum one bucket over the ranks, and note when it was ready.

    DDP by default divides by the number of ranks, too; a part of the mean over all tokens needs no division.
    """
    _start_again(strategy)
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    total: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return total


def _average_low_rank(strategy: DDP, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The mean, with each matrix sent as the product of two thin ones (Vogels et al., 2019, PowerSGD)."""
    _start_again(strategy)
    return powerSGD_hook.powerSGD_hook(strategy.low_rank, bucket)


def _start_again(strategy: DDP) -> None:
    """Buckets come one after the other: what counts is the time from the last one's coming on."""
    strategy.stopwatch.reset()
    strategy.stopwatch.start()
