"""What a result was measured on: read off what ran, never off a flag."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from distlab.machine import cores, cpu_model


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
    """Of the process group: `nccl`, `gloo`; `none` without one."""
    threads_per_rank: int
    torch: str
    python: str
    system: str
    date: str
    """UTC, ISO 8601, to the second."""
    command: str

    def __str__(self) -> str:
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
        command=_command(),
    )


def _command() -> str:
    """The program and its arguments, without the machine's folders."""
    program = Path(sys.argv[0]).name
    if program.startswith("ipykernel"):
        return "notebook"
    return program if len(sys.argv) == 1 else f"{program} {shlex.join(sys.argv[1:])}"
