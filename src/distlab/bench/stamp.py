"""What a result was measured on: read off what ran, never off a flag."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from distlab.bench.topology import cpu_topology, gpu_topology, interface
from distlab.machine import cores, cpu_model, gpus


@dataclass(frozen=True)
class Stamp:
    """The environment of one measurement."""

    tier: str
    """`gpu` or `cpu`: the device that the measured tensors were on."""
    hardware: str
    """The GPU's name, or the processor's."""
    cores: int
    """CPU cores that this process may use."""
    memory_GiB: float  # noqa: N815 - units keep their case
    world_size: int
    backend: str
    """What carried data between the ranks: torch's `nccl` or `gloo`, `none` without a process group, or such as
    `horovod 0.28.1 gloo`."""
    threads_per_rank: int
    torch: str
    python: str
    system: str
    date: str
    """UTC, ISO 8601, to the second."""
    command: str
    driver: str = ""
    """NVIDIA's, where the tier is `gpu`. This field and those below: of `full_stamp` alone."""
    cuda: str = ""
    """That torch was built for."""
    nccl: str = ""
    topology: tuple[str, ...] = ()
    """What lies between the ranks: GPUs and their links, or sockets and NUMA nodes."""
    network: str = ""
    """What carried the data between ranks where it was not a link of the topology."""

    def __str__(self) -> str:
        versions = (("driver", self.driver), ("CUDA", self.cuda), ("NCCL", self.nccl))
        more = [", ".join(f"{name} {version}" for name, version in versions if version), *self.topology]
        more += [f"network: {self.network}"] if self.network else []
        return " · ".join([self._short(), *filter(None, more)])

    def _short(self) -> str:
        return (
            f"tier {self.tier} · {self.hardware}, {self.cores} cores, {self.memory_GiB:.0f} GiB · "
            f"{self.world_size} x {self.backend}, {self.threads_per_rank} threads each · "
            f"torch {self.torch}, Python {self.python}, {self.system} · {self.date} · {self.command}"
        )


def stamp(device: torch.device | None = None) -> Stamp:
    """Describe this process; `device` is where the measured tensors were (CPU when not given)."""
    on_gpu = device is not None and device.type == "cuda"
    in_group = dist.is_initialized()
    return Stamp(
        tier="gpu" if on_gpu else "cpu",
        hardware=torch.cuda.get_device_name(device) if on_gpu else cpu_model(),
        cores=cores(),
        memory_GiB=round(psutil.virtual_memory().total / 2**30, 1),
        world_size=dist.get_world_size() if in_group else 1,
        backend=dist.get_backend() if in_group else "none",
        threads_per_rank=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        system=platform.platform(terse=True),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command(),
    )


def full_stamp(device: torch.device | None = None, network: str | None = None) -> Stamp:
    """`stamp` with driver, topology and network, which it takes some tenths of a second to ask for on a GPU node.

    network: what carried the data between ranks; by default the interface that gloo was told to use.
    """
    short = stamp(device)
    if short.tier == "gpu":
        nccl = ".".join(map(str, torch.cuda.nccl.version())) if dist.is_nccl_available() else ""  # type: ignore[no-untyped-call]
        return replace(
            short,
            driver=next((gpu.driver for gpu in gpus()), ""),
            cuda=torch.version.cuda or "",
            nccl=nccl,
            topology=gpu_topology(),
            network=network or "",
        )
    if network is None and short.backend == "gloo":
        network = interface(os.environ.get("GLOO_SOCKET_IFNAME", ""))
    return replace(short, topology=cpu_topology(), network=network or "")


def command() -> str:
    """This process's program and its arguments, without the machine's folders."""
    program = Path(sys.argv[0]).name
    if program.startswith("ipykernel"):
        return "notebook"
    return program if len(sys.argv) == 1 else f"{program} {shlex.join(sys.argv[1:])}"
