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
from torch import nn
from torch.optim import Optimizer

from distlab.bench.stamp import Stamp
from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.strategies.base import Strategy, Update

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
        if not self.hvd.is_initialized():
            set_buffer(config)
            _connect(self.hvd)

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
            op=self.hvd.Sum,  # not an average: the loss is divided by the tokens of all ranks already
        )
        return optimizer

    def update(self, learning_rate: float) -> Update:
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()  # the end of the backward pass
        started = time.perf_counter()
        self.exchange.synchronize()
        self.wait_s = time.perf_counter() - started
        return super().update(learning_rate)

    def stamp(self) -> Stamp:
        """torch's group only introduces the ranks to each other; gradients go by Horovod's own way."""
        on_cpu = "mpi" if self.hvd.mpi_enabled() else "gloo"
        way = "nccl" if self.device.type == "cuda" else on_cpu
        return replace(super().stamp(), backend=f"horovod {version('horovod')} {way}")

    def communication_s(self) -> float:
        return self.wait_s

    def close(self) -> None:
        self.hvd.shutdown()  # else the rank that ends first breaks the others' connections


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


def _connect(hvd: Any) -> None:
    """Start Horovod on the ranks of the process group; on this process alone where there is none."""
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
    raise RuntimeError(f"Horovod could not connect its ranks in {ATTEMPTS} attempts.")


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
