"""Faults made on purpose: by configuration (`Injector`, called by the training loop) and by call.

    faults: [{kind: kill, step: 7, rank: 1}]     # in the YAML file of `distlab train --config ...`

Every fault is the real thing: a real SIGKILL, an allocation that really fails, a write that really finds no
space. Nothing reaches beyond the rank, its run's folder and the memory that a limit grants it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import NoReturn

import fsspec  # type: ignore[import-untyped]
import psutil
import torch

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.faults.network import Cables
from distlab.faults.storage import damage, fill_disk, newest_checkpoint, stall, truncate
from distlab.train.checkpoint.folder import Folder
from distlab.train.config import TrainConfig
from distlab.train.launch import device
from distlab.train.logs import is_resumed

ON_CHECKPOINTS = ("damage_checkpoint", "truncate_checkpoint")
ON_THE_DISK = ("fill_disk", "stall_storage")
"""In folders of this machine alone."""
HEADROOM_BYTES = 256 * 2**20
"""Memory that a rank may still take before its allocation fails."""


class InjectedError(RuntimeError):
    """What the fault `raise` raises."""


class Injector:
    """The faults of one rank; the training loop calls `within` in every optimizer step and `after` behind it."""

    def __init__(self, config: TrainConfig, rank: int, first: int) -> None:
        """first: optimizer steps that lie behind a resumed run.

        SettingError for a fault that could never strike.
        """
        self.folder = config.run_folder
        self.delay_s = 0.0
        _check(config)
        self.faults = {i: fault for i, fault in enumerate(config.faults) if fault.rank == rank}
        resumed = first or is_resumed(config)
        beyond = [fault.rank for fault in config.faults if fault.rank >= config.world_size]
        if beyond and not resumed:  # a run that goes on may have lost ranks
            raise SettingError(
                f"A fault is set for rank {beyond[0]}; there are {config.world_size} ranks, counted from 0."
            )
        for i in list(self.faults):
            if not resumed:
                self._forget(i)  # another run of this name left its marks
            elif self._has_struck(i):
                del self.faults[i]

    def within(self) -> None:
        """Hold a slowed rank back. Called while the step is timed: a slow device computes longer."""
        if self.delay_s:
            time.sleep(self.delay_s)

    def after(self, steps: int) -> None:
        """Strike if a fault is due after `steps` optimizer steps."""
        for i, fault in self.faults.items():
            if fault.step == steps:
                self._remember(i, fault)
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        print(f"Fault: {fault.kind} after step {fault.step} on rank {fault.rank}.", flush=True)
        match fault.kind:
            case "kill":
                kill()
            case "raise":
                raise InjectedError(f"Rank {fault.rank} fails after step {fault.step}, as configured.")
            case "hang":
                hang()
            case "slow":
                self.delay_s = fault.seconds
            case "out_of_memory":
                exhaust_memory()
            case "fill_disk":
                assert self.folder is not None
                print(fill_disk(Path(self.folder)), flush=True)
            case "stall_storage":
                assert self.folder is not None
                stall(Path(self.folder), fault.seconds)
            case "damage_checkpoint" | "truncate_checkpoint":
                assert self.folder is not None
                path = newest_checkpoint(self.folder)
                damaged = damage(path) if fault.kind == "damage_checkpoint" else truncate(path)
                print(f"It hit {damaged}.", flush=True)
            case "slow_network":
                _cables().slow(fault.rank, fault.rate_Mbits)
            case "drop_network":
                cables = _cables()
                cables.cut(fault.rank)
                mending = threading.Timer(fault.seconds, cables.mend, [fault.rank])
                mending.daemon = True
                mending.start()

    # That a fault has struck must outlive the process that it strikes: a file in the run's folder says so.

    def _mark(self, i: int) -> str:
        return f"{self.folder}/faults/{i}.json"

    def _remember(self, i: int, fault: Fault) -> None:
        if self.folder is not None:
            struck = {"kind": fault.kind, "step": fault.step, "rank": fault.rank, "time_s": time.time()}
            # Whole or not at all: drills read it as soon as it is there.
            Folder(self.folder).write(f"faults/{i}.json", json.dumps(struck).encode())

    def _has_struck(self, i: int) -> bool:
        if self.folder is None:
            return False
        files, path = fsspec.core.url_to_fs(self._mark(i))
        return bool(files.exists(path))

    def _forget(self, i: int) -> None:
        if self.folder is not None and self._has_struck(i):
            Folder(self.folder).remove([f"faults/{i}.json"])


def _cables() -> Cables:
    """SettingError where this rank is in no network that could be slowed or cut."""
    cables = Cables.here()
    if cables is None:
        raise SettingError(
            "A fault is set for the network, and the ranks are in none of their own; start them, as root, with "
            "`python -m distlab.faults.network 2 python -m distlab.train ...`."
        )
    return cables


def kill() -> NoReturn:
    """End this process as `kill -9` does: no handler runs, no buffer is written, no peer is told."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nothing outlives SIGKILL")


def hang() -> NoReturn:
    """Wait for ever without using the processor, like a rank that waits for a lock or a lost message."""
    while True:
        threading.Event().wait()


def exhaust_memory() -> NoReturn:
    """Take memory until an allocation fails, under a limit that keeps the machine out of danger.

    The limit (256 MiB above what is in use, of the GPU where the rank has one, else of address space) is
    lifted again. Raises what a real shortage raises: torch.OutOfMemoryError on a GPU, MemoryError on a CPU.
    """
    place = device()
    blocks: list[object] = []
    if place.type == "cuda":
        total = torch.cuda.get_device_properties(place).total_memory
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved(place) + HEADROOM_BYTES) / total, place
        )
        try:
            while True:
                blocks.append(torch.empty(2**24, dtype=torch.uint8, device=place))
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, place)
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + HEADROOM_BYTES, before[1]))
    try:
        while True:
            blocks.append(bytearray(2**24))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _check(config: TrainConfig) -> None:
    for fault in config.faults:
        if fault.kind in ("slow_network", "drop_network"):
            _cables()
        if fault.step > config.steps:
            raise SettingError(
                f"A fault is set for step {fault.step}; the run ends after {config.steps} steps. "
                "Set an earlier step."
            )
        on_disk = fault.kind in ON_THE_DISK or fault.kind in ON_CHECKPOINTS
        if on_disk and config.run_folder is None:
            raise SettingError(
                f"A fault is {fault.kind!r} but folder is not set; set folder, such as 'runs'."
            )
        if fault.kind in ON_THE_DISK and "://" in str(config.run_folder):
            raise SettingError(
                f"A fault is {fault.kind!r} and folder is {config.folder!r}; expected a local path."
            )
        every = config.checkpoint.every_steps
        # One that is saved in the background is there for certain once the next save begins.
        first = every * 2 if config.checkpoint.asynchronous else every
        if fault.kind in ON_CHECKPOINTS and not 0 < first <= fault.step:
            raise SettingError(
                f"A fault is {fault.kind!r} at step {fault.step}, when no checkpoint need be there yet; set "
                "checkpoint.every_steps to that or less (to half of it where checkpoint.asynchronous is set)."
            )
