"""Asynchronous data parallelism with a parameter server: the counter-example to everything else here.

Rank 0 holds the weights and the optimizer; every rank, rank 0 included, is a worker. A worker sends the
gradient of its part of a step as soon as it has it, gets the newest weights back, and goes on. Nobody waits
for a slower worker. The price is *staleness*: while a gradient was computed, others have changed the weights
that it is the gradient of. (Dean et al. 2012, Large Scale Distributed Deep Networks, section 4.1; Li et al.
2014, Scaling Distributed Machine Learning with the Parameter Server.)

What still holds. Every sample is used exactly once, each push is its worker's part of the same mean over
tokens, and all workers meet for a checkpoint and at the end. On one rank it is plain training, bit by bit.
What no longer holds. The losses are not those of synchronous training, and no two runs on several ranks are
alike: who pushes when is up to the machine. For the same reason a resumed run is not the uninterrupted one.

What can be proved is a bound. If n workers push in turn, each gradient is n - 1 updates old, and SGD without
momentum on a quadratic of curvature c follows w[t+1] = w[t] - a w[t-n+1], where a = learning rate * c / n,
as a push is an n-th of a step. It converges if and only if a < 2 sin(pi / (4n - 2)) (Levin and May 1976, A
note on difference-delay equations). So the largest learning rate is 2 / c with 1 or 2 workers and falls to
1.57 / c with many; and momentum makes it worse, as asynchrony itself acts like momentum (Mitliagkas et al.
2016, Asynchrony begets momentum).
"""

from __future__ import annotations

import copy
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from distlab.train.config import OptimizerConfig, TrainConfig
from distlab.train.models import IGNORED
from distlab.train.optimizer import build_optimizer
from distlab.train.strategies.base import FLAT, Batch, Strategy, Sums, Update

SERVER = 0
"""The rank that holds the weights."""


@dataclass(frozen=True)
class Push:
    """What a worker sends with a gradient."""

    version: int
    """Of the weights that the gradient was computed with: how many updates they had seen."""
    step: int
    learning_rate: float
    loss_sum: float
    """Of the worker's samples of this step, which have so many tokens:"""
    tokens: int
    stop: bool
    """Was the worker asked to stop?"""


@dataclass(frozen=True)
class Pull:
    """What a worker gets back with the newest weights."""

    version: int
    loss: float
    """Mean over the tokens of the newest push of every worker, whichever step that was."""
    last_step: int
    """The step after which all workers stop; -1 while nobody was asked to."""


class Server:
    """The weights that count, and how pushes change them. Workers may push from several threads."""

    def __init__(self, model: nn.Module, config: OptimizerConfig) -> None:
        """The model is on the CPU and belongs to the server from now on."""
        self.model = model
        self.optimizer = build_optimizer(model, config)
        self.version = 0
        self.staleness: Counter[int] = Counter()
        """How many pushes were so many updates late."""
        self._parameters = trainable(model)
        self._newest: dict[int, Push] = {}
        self._last_step = -1
        self._lock = threading.Lock()

    def weights(self) -> Tensor:
        """A copy of all trainable weights, one after the other, shape (parameters,)."""
        return flatten(self._parameters)

    def push(self, worker: int, gradient: Tensor, push: Push) -> tuple[Tensor, Pull]:
        """Take one optimizer step with a worker's gradient, shape (parameters,); return the new weights."""
        with self._lock:
            self.staleness[self.version - push.version] += 1
            for parameter, part in zip(self._parameters, unflatten(gradient, self._parameters), strict=True):
                parameter.grad = part
            for group in self.optimizer.param_groups:
                group["lr"] = push.learning_rate
            self.optimizer.step()
            self.version += 1
            self._newest[worker] = push
            if push.stop and self._last_step < 0:
                # Nobody can be further than in the step after the newest that was pushed; one more step, and
                # everybody hears of it in time to stop together.
                self._last_step = max(other.step for other in self._newest.values()) + 2
            tokens = sum(other.tokens for other in self._newest.values())
            loss = sum(other.loss_sum for other in self._newest.values()) / tokens if tokens else math.nan
            return self.weights(), Pull(self.version, loss, self._last_step)


class ParameterServer(Strategy):
    """Workers that never wait for each other, around a `Server` in a few threads of rank 0.

    The server's weights stay on the CPU, and so does what travels, by gloo: large models had their parameter
    servers in the memory of machines without GPUs.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        # gloo works from several threads, and between processes without a GPU each.
        self.group = dist.new_group(backend="gloo") if self.world_size > 1 else None
        self.running = False
        self.step = -1
        self.asked_to_stop = False
        self.wait_s = 0.0
        self._threads: list[threading.Thread] = []
        self._failure: Exception | None = None

    def prepare(self, model: nn.Module) -> None:
        if self.rank == SERVER:
            self.server = Server(copy.deepcopy(model), self.config.optimizer)
        super().prepare(model)
        self.parameters = trainable(self.model)
        self.version = 0

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def gradients(self, batch: Batch) -> Tensor:
        if not self.running:
            self._start()
        part = super().gradients(batch)
        self.loss_sum = part.item() * batch.global_tokens
        self.tokens = sum(int((targets != IGNORED).sum()) for _, targets in batch.micro_batches)
        return part

    def update(self, learning_rate: float) -> Update:
        """Push this worker's gradient, and go on with the newest weights."""
        gradient = flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters])
        self.step += 1
        push = Push(
            self.version, self.step, learning_rate, self.loss_sum, self.tokens, stop=self.asked_to_stop
        )
        started = time.perf_counter()
        weights, self.pulled = self._exchange(gradient, push)
        self.wait_s = time.perf_counter() - started
        with torch.no_grad():
            for parameter, part in zip(self.parameters, unflatten(weights, self.parameters), strict=True):
                parameter.copy_(part)
        self.version = self.pulled.version
        self.optimizer.zero_grad()
        return Update(norm=None)

    def communication_s(self) -> float:
        """Seconds from the push until the newest weights were there; nothing in it waits for a worker."""
        return self.wait_s

    def sum_over_ranks(self, value: Tensor) -> None:
        """Put in the loss as the server knows it, and whether to stop; a true sum would make workers wait.

        value: this worker's part of the loss, and 1 if it was asked to stop. The server tells of the wish with
        the next pull, and names one step after which all stop: a checkpoint has one number of steps.
        """
        self.asked_to_stop = self.asked_to_stop or bool(value[1])
        last = self.pulled.last_step
        value[0] = self.pulled.loss
        value[1] = float(0 <= last <= self.step + 1)  # the loop reads it one step later

    def close(self) -> None:
        """Tell how stale the gradients were."""
        if self.rank == SERVER and self.server.version:
            print(describe(self.server.staleness), file=sys.stderr)

    def evaluate(self, inputs: Tensor, targets: Tensor) -> Sums:
        self._meet()
        return super().evaluate(inputs, targets)

    def weights_sum(self) -> float:
        self._meet()
        return super().weights_sum()

    def state(self) -> dict[str, Any]:
        """The server's weights and optimizer; the other ranks have nothing to add."""
        self._meet()
        if self.rank != SERVER:
            return {"model": {}, "optimizer": {}}
        model, optimizer = get_state_dict(self.server.model, self.server.optimizer, options=FLAT)
        return {"model": model, "optimizer": optimizer}

    def load_state(self, state: dict[str, Any]) -> None:
        if self.rank == SERVER:
            set_state_dict(
                self.server.model,
                self.server.optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
                options=FLAT,
            )
        self._share_weights()

    def _start(self) -> None:
        """Let the workers run free, until they meet."""
        self.running = True
        if self.rank == SERVER:
            self._threads = [
                threading.Thread(target=self._serve, args=(worker,), daemon=True)
                for worker in range(self.world_size)
                if worker != SERVER
            ]
            for thread in self._threads:
                thread.start()

    def _meet(self) -> None:
        """Wait until every worker is here; then all have the server's weights."""
        if not self.running:
            return
        self.running = False
        if self.rank == SERVER:
            for thread in self._threads:
                thread.join()
            self._raise_failure()
        else:
            dist.send_object_list([None], SERVER, self.group)
        self._share_weights()

    def _share_weights(self) -> None:
        """Everybody takes over the server's weights, frozen ones too."""
        servers = self.server.model if self.rank == SERVER else self.model
        version = torch.tensor(self.server.version if self.rank == SERVER else 0)
        for parameter, weights in zip(self.model.parameters(), servers.parameters(), strict=True):
            values = weights.detach().cpu().contiguous()
            if self.group is not None:
                dist.broadcast(values, SERVER, self.group)
            parameter.data.copy_(values)
        if self.group is not None:
            dist.broadcast(version, SERVER, self.group)
        self.version = int(version)

    def _exchange(self, gradient: Tensor, push: Push) -> tuple[Tensor, Pull]:
        """Push and pull; the worker in the server's own process needs no message."""
        if self.rank == SERVER:
            self._raise_failure()
            return self.server.push(self.rank, gradient, push)
        dist.send_object_list([push], SERVER, self.group)
        dist.send(gradient, SERVER, self.group)
        pull = _receive(SERVER, self.group)
        dist.recv(gradient, SERVER, self.group)  # the weights, which are as many
        return gradient, pull

    def _serve(self, worker: int) -> None:
        """Answer one worker until it comes to a meeting; a thread of the server's process."""
        gradient = torch.zeros_like(self.server.weights())
        try:
            while (push := _receive(worker, self.group)) is not None:
                dist.recv(gradient, worker, self.group)
                weights, pull = self.server.push(worker, gradient, push)
                dist.send_object_list([pull], worker, self.group)
                dist.send(weights, worker, self.group)
        except Exception as error:  # raised where the rank's own thread comes by next
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError("The parameter server lost a worker.") from self._failure


def _receive(rank: int, group: dist.ProcessGroup | None) -> Any:
    message: list[Any] = [None]
    dist.recv_object_list(message, rank, group)
    return message[0]


def describe(staleness: Counter[int]) -> str:
    """The histogram in words."""
    parts = ", ".join(f"{late}: {count}" for late, count in sorted(staleness.items()))
    mean = sum(late * count for late, count in staleness.items()) / staleness.total()
    return f"Staleness of {staleness.total()} gradients, in updates by others: {parts} (mean {mean:.2f})."


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained, each once."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """One vector on the CPU that holds a copy of all of them, one after the other."""
    return torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])


def unflatten(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of the vector in the shapes of `like`."""
    parts = torch.split(vector, [tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
