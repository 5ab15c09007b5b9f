"""What a launcher leaves to be done before its processes are the ranks of a process group.

torchrun, `deepspeed` and `accelerate launch --multi_gpu` set RANK, WORLD_SIZE and an address, and torch does the
rest. Horovod and MPI tell ranks to their own libraries only.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from distlab.errors import SettingError
from distlab.machine import LOOPBACK
from distlab.train.config import TrainConfig

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

RANK_NAMES = ("RANK", "HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")
"""A process that has one of these in its environment was started as a rank: by torch, Horovod, Open MPI."""


def is_rank() -> bool:
    """Was this process started as one of many by a launcher?"""
    return any(name in os.environ for name in RANK_NAMES)


def refuse_lone_process() -> None:
    """SettingError in a process that `accelerate launch` starts alone, for whatever `--num_processes` says.

    It does so with `--cpu`, and without GPUs where it is not told `--multi_gpu` (accelerate 1.15).
    """
    if "ACCELERATE_MIXED_PRECISION" in os.environ and not is_rank():
        raise SettingError(
            "RANK is not set: accelerate launch started this process alone, whatever its --num_processes is; give "
            "it --multi_gpu, which works without a GPU, too, or use `distlab train` or torchrun."
        )


def join_horovod(config: TrainConfig) -> Store:
    """On a rank that `horovodrun` (or `mpirun`) started: what torch needs to make a process group.

        store = join_horovod(config)    # now RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE are set
        dist.init_process_group("gloo", store=store, rank=int(os.environ["RANK"]), world_size=...)

    Horovod finds the ranks; through it, rank 0 tells where it serves the store. SettingError without Horovod.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    from distlab.train.strategies.horovod import import_horovod, set_buffer

    hvd = import_horovod()
    set_buffer(config)
    hvd.init()
    os.environ |= {
        "RANK": str(hvd.rank()),
        "WORLD_SIZE": str(hvd.size()),
        "LOCAL_RANK": str(hvd.local_rank()),
        "LOCAL_WORLD_SIZE": str(hvd.local_size()),
    }
    if "HOROVOD_GLOO_IFACE" in os.environ:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", os.environ["HOROVOD_GLOO_IFACE"])
    if hvd.rank() == 0:
        one_machine = hvd.local_size() == hvd.size()
        address = LOOPBACK if one_machine else socket.gethostbyname(socket.gethostname())
        store = TCPStore(address, 0, hvd.size(), is_master=True, wait_for_workers=False)
        hvd.broadcast_object((address, store.port), root_rank=0, name="store")
        return store
    address, port = hvd.broadcast_object(None, root_rank=0, name="store")
    return TCPStore(address, port, hvd.size(), is_master=False)
