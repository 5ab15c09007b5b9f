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

What can be proved is a bound on the learning rate: see `server.py`.
"""

from __future__ import annotations

import copy
import sys
import threading
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distlab.train.config import TrainConfig
from distlab.train.models import IGNORED
from distlab.train.strategies.base import Batch, Strategy, Sums, Update, read_state, write_state
from distlab.train.strategies.server import Pull, Push, Server, describe, flatten, trainable, unflatten

SERVER = 0
"""The rank that holds the weights."""


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
        return read_state(self.server.model, [self.server.optimizer])

    def load_state(self, state: dict[str, Any]) -> None:
        if self.rank == SERVER:
            write_state(self.server.model, [self.server.optimizer], state)
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
