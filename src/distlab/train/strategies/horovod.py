"""Horovod: data parallelism by an optimizer that sums the gradients of all ranks before it steps.

    horovodrun -np 2 python -m distlab.train --strategy horovod

A hook on every parameter hands its gradient to a thread in the background as soon as it exists. Every few
milliseconds the ranks' threads agree which gradients all ranks have by now, pack them into a buffer of at most
`communication.bucket_mb`, and all-reduce it, while the backward pass goes on (Sergeev and Del Balso, 2018,
Horovod: fast and easy distributed deep learning in TensorFlow). DDP fixes its buckets beforehand, from the
order of the parameters; Horovod needs no such order, and pays for that with the agreement in every round.

Horovod has its own ranks, connections and collectives. `horovodrun` starts them (see `join_horovod` in
train/launchers.py). On ranks that were started by something else, and have a process group of torch's, the
strategy connects Horovod itself. The process group carries checkpoints and reports, Horovod the gradients.

Adasum (`communication.reduction`) replaces the mean. Two gradients that point the same way are averaged, two
at a right angle are added, and all between follows one formula (Maleki et al., 2020, Scaling Distributed
Training with Adaptive Summation):

    adasum(a, b) = (1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b

so that more ranks need no other learning rate. What travels are not gradients but what each rank's optimizer
made of its own; it is another mathematics than one process's. Horovod has it over MPI alone:

    mpirun -np 2 python -m distlab.train --strategy horovod --communication.reduction adasum

Measured as communication is the time in `synchronize`: from the end of the backward pass until all sums are
there.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function

from distlab.bench.stamp import Stamp
from distlab.errors import SettingError
from distlab.observe.profile.traces import WAIT
from distlab.train.config import TrainConfig
from distlab.train.optimizer import set_learning_rate
from distlab.train.strategies.base import Batch, Strategy, Update

ATTEMPTS = 4
"""How often Horovod may try to connect its ranks: on a busy machine a connection can be refused."""

log = logging.getLogger(__name__)


class Horovod(Strategy):
    """One replica per rank; gradients summed by Horovod while the backward pass goes on."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.hvd = import_horovod()
        if device.type == "cuda" and not self.hvd.nccl_built():
            raise SettingError(
                "strategy is 'horovod', which was built for CPUs, and the ranks compute on GPUs; build it with "
                "`scripts/build_horovod nccl`, or choose another strategy, such as 'ddp'."
            )
        self.adasum = config.communication.reduction == "adasum" and self.world_size > 1
        if self.adasum:
            _check_adasum(config, self.world_size, self.hvd)
            # Not the ranks' parts of one mean: each rank's own mean, where all have as many tokens.
            self.gradient_factor = self.world_size
        if not self.hvd.is_initialized():
            set_buffer(config)
            connect(self.hvd)

    def wrap(self, model: nn.Module) -> nn.Module:
        model.to(self.device)
        # All ranks have the same weights already, from the seed. This is how one makes sure.
        self.hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        # The customary next line is hvd.broadcast_optimizer_state. On a new optimizer it takes a step without
        # gradients, to create the state: weights decay, and Adam counts that step. Nothing has to be sent: a
        # new optimizer remembers nothing, and every rank reads the state of an old one from its checkpoint.
        return model

    def build_optimizer(self) -> Optimizer:
        optimizer = super().build_optimizer()
        half = self.config.communication.compression == "fp16"
        # `exchange.step()` would be `exchange.synchronize()` and then a step of torch's optimizer. Clipping
        # comes between the two, so `update` takes them one by one.
        self.exchange = self.hvd.DistributedOptimizer(
            optimizer,
            named_parameters=self.model.named_parameters(),
            compression=self.hvd.Compression.fp16 if half else self.hvd.Compression.none,
            backward_passes_per_step=self.config.data.micro_batches,
            # Not an average: the loss is divided by the tokens of all ranks already.
            op=self.hvd.Adasum if self.adasum else self.hvd.Sum,
        )
        optimizer.zero_grad()  # with the gradients of 0 that Horovod makes, torch would not read its state
        return optimizer

    def gradients(self, batch: Batch) -> Tensor:
        if self.adasum:  # each weight takes its step as soon as its gradient exists; then its change travels
            set_learning_rate(self.optimizer, batch.learning_rate)
            # The one that steps is `exchange`; `optimizer` is the one that checkpoints are loaded into.
            self.exchange.param_groups, self.exchange.state = (
                self.optimizer.param_groups,
                self.optimizer.state,
            )
        return super().gradients(batch)

    def update(self, learning_rate: float) -> Update:
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the end of the backward pass
        started = time.perf_counter()
        with record_function(WAIT):
            (self.exchange.step if self.adasum else self.exchange.synchronize)()
        self.wait_s = time.perf_counter() - started
        if self.adasum:
            self.optimizer.zero_grad()
            return Update(norm=None)
        return super().update(learning_rate)

    def stamp(self) -> Stamp:
        """torch's group only introduces the ranks to each other; gradients go by Horovod's own way."""
        on_cpu = "mpi" if self.hvd.mpi_enabled() else "gloo"
        way = "nccl" if self.device.type == "cuda" else on_cpu
        return replace(super().stamp(), backend=f"horovod {version('horovod')} {way}")

    def state(self) -> dict[str, Any]:
        state = super().state()
        if self.adasum:  # each rank's optimizer has seen its own gradients alone
            state["optimizer"] = {f"rank_{self.rank}": state["optimizer"]}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        if self.adasum:
            state = state | {"optimizer": state["optimizer"][f"rank_{self.rank}"]}
        super().load_state(state)

    def communication_s(self) -> float:
        return self.wait_s

    def close(self) -> None:
        self.hvd.shutdown()  # else the rank that ends first breaks the others' connections


def _check_adasum(config: TrainConfig, world_size: int, hvd: Any) -> None:
    """SettingError for what does not go with Adasum."""
    asked = "communication.reduction is 'adasum',"
    if world_size & (world_size - 1):
        raise SettingError(
            f"{asked} which puts ranks together in pairs, and there are {world_size}; start 2, 4, 8 or another power "
            "of 2, or set it to 'mean'."
        )
    clip_norm, precision = config.optimizer.clip_norm, config.memory.precision
    if clip_norm is not None or precision == "fp16":
        name, value, other = (
            ("memory.precision", precision, "bf16")
            if clip_norm is None
            else ("optimizer.clip_norm", clip_norm, None)
        )
        raise SettingError(
            f"{asked} where a weight takes its step before the other gradients exist, and {name} is {value!r}, which "
            f"needs all of them; set it to {other!r}, or reduction to 'mean'."
        )
    if not hvd.mpi_built():
        raise SettingError(
            f"{asked} which Horovod has over MPI alone, and this one is built for gloo; install Debian's "
            "libopenmpi-dev and openmpi-bin and then the other build, with `pip install --no-deps "
            "--force-reinstall \"$(scripts/build_horovod mpi)\"` (about 5 minutes), or set it to 'mean'."
        )
    if not (hvd.is_initialized() and hvd.mpi_enabled()):
        raise SettingError(
            f"{asked} which Horovod has over MPI alone, and these ranks were started without it; start them with "
            f"`mpirun -np {world_size} python -m distlab.train ...`, or set it to 'mean'."
        )


def import_horovod() -> Any:
    """`horovod.torch`; SettingError where there is none."""
    try:
        import horovod.torch as hvd  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        raise SettingError(
            "strategy is 'horovod', which is not installed; build and install it with "
            '`pip install --no-deps "$(scripts/build_horovod gloo)"` (about 5 minutes), or choose another strategy, '
            "such as 'ddp'."
        ) from None
    return hvd


def set_buffer(config: TrainConfig) -> None:
    """Tell Horovod, before it starts, how large its buffer is."""
    os.environ["HOROVOD_FUSION_THRESHOLD"] = str(int(config.communication.bucket_mb * 1e6))


def connect(hvd: Any) -> None:
    """Start Horovod on the ranks of the process group; on this process alone where there is none.

    `hvd` is `horovod.torch`. RuntimeError where the ranks do not find each other in `ATTEMPTS` attempts.
    """
    if not dist.is_initialized():
        hvd.init()
        return
    for attempt in range(1, ATTEMPTS + 1):
        server = _meet()
        connected = True
        try:
            hvd.init()
        except ValueError:  # what went wrong is on standard error: a thread of Horovod's says it
            connected = False
        everywhere = [connected] * dist.get_world_size()
        dist.all_gather_object(everywhere, connected)
        if server is not None:
            server.stop()
        if all(everywhere):
            return
        hvd.shutdown()
        log.warning("Horovod could not connect its ranks, attempt %d of %d.", attempt, ATTEMPTS)
    raise RuntimeError(
        f"Horovod could not connect its ranks in {ATTEMPTS} attempts; what it said of each stands above. Start again, "
        "on a machine with less to do if a connection was refused."
    )


def _meet() -> Any:
    """Set the variables by which `hvd.init` finds the other ranks; rank 0 serves their addresses (HTTP)."""
    from horovod.runner.common.util.hosts import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        get_host_assignments,
        parse_hosts,
    )
    from horovod.runner.gloo_run import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        create_slot_env_vars,
    )
    from horovod.runner.http.http_server import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
        RendezvousServer,
    )

    rank, world_size = dist.get_rank(), dist.get_world_size()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    machines = ",".join(f"machine{i}:{here}" for i in range(world_size // here))
    places = get_host_assignments(parse_hosts(machines), world_size)
    server, address = None, [os.environ.get("MASTER_ADDR", "127.0.0.1"), 0]
    if rank == 0:
        server = RendezvousServer()
        address[1] = server.start()
        server.init(places)
    dist.broadcast_object_list(address, src=0)
    os.environ |= create_slot_env_vars(places[rank])
    os.environ |= {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": str(address[0]),
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(address[1]),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
    }
    if "GLOO_SOCKET_IFNAME" in os.environ:
        os.environ["HOROVOD_GLOO_IFACE"] = os.environ["GLOO_SOCKET_IFNAME"]
    return server
