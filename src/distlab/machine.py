"""The machine as this process may use it: processor, memory, GPUs. Imports no framework."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMAND_TIMEOUT_S = 20
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as the driver reports it."""

    index: int
    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class Hardware:
    """The machine as this process may use it."""

    cpu: str
    cores: int
    """Cores this process may run on."""
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    """GPUs visible to this process (CUDA_VISIBLE_DEVICES applied)."""


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory_bytes() -> int:
    """What the machine has to give, at most what JupyterHub lets a server of its users have."""
    limit = os.environ.get("MEM_LIMIT")  # the Hub sets it
    free = psutil.virtual_memory().available
    return min(free, int(limit)) if limit else free


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def hardware() -> Hardware:
    """The machine's CPU, memory and visible GPUs."""
    return Hardware(
        cpu=cpu_model(),
        cores=cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=gpus(),
    )


def gpus() -> tuple[Gpu, ...]:
    """The GPUs that `nvidia-smi` lists, less those that CUDA_VISIBLE_DEVICES hides; none without a driver."""
    out = command_output(
        "nvidia-smi",
        "--query-gpu=index,uuid,name,memory.total,driver_version",
        "--format=csv,noheader,nounits",
    )
    found = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    for line in out.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 5 or not fields[3].isdigit():
            continue
        index, uuid, name, memory_mib, driver = fields
        if visible is None or any(
            v.strip() and (v.strip() == index or uuid.startswith(v.strip())) for v in visible.split(",")
        ):
            found.append(Gpu(int(index), name, int(memory_mib) * 2**20, driver))
    return tuple(found)


def torch_cuda() -> str:
    """The CUDA version that the installed torch was built for, or an empty string (also without torch)."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return match[1] if match else ""


def command_output(*command: str) -> str:
    """What a command prints, or an empty string where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
