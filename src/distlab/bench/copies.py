"""Bandwidth of copies: over the bus between host and GPU, and in a device's own memory.

Counting: a copy over the bus counts its payload once, as one direction of the bus carries it; a copy inside one
memory counts it twice, as it is read and written; reading and writing alone count once. On a CPU the caches may
also read what is about to be overwritten, which nobody counts. Pinned host memory is page-locked: the GPU fetches it
by itself; pageable memory goes through a pinned buffer of the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from distlab.bench.clock import Clock
from distlab.bench.device import DoesNotFit, fitting
from distlab.bench.measured import Item, Skipped, bytes_text, row
from distlab.bench.peaks import chip, peak_memory_Bps, peak_pcie_Bps
from distlab.errors import SettingError
from distlab.machine import command_output

GPU_PAYLOADS = (2**16, 2**20, 2**24, 2**28, 2**30)
CPU_PAYLOADS = (2**16, 2**20, 2**24, 2**27)
PAYLOAD_MOST = 2**40
STRETCH = 2**22
"""Elements that are drawn: 16 MiB."""

IN_MEMORY = ("copy", "read", "write")
OVER_THE_BUS = tuple(f"{way}, {kind}" for way in ("H2D", "D2H") for kind in ("pinned", "pageable"))


def names(device: torch.device) -> tuple[str, ...]:
    """The directions of a device: H2D, D2H and D2D on a GPU; inside the host's memory on a CPU."""
    if device.type == "cuda":
        return (*OVER_THE_BUS, *(f"D2D, {kind}" for kind in IN_MEMORY))
    return tuple(f"host to host, {kind}" for kind in IN_MEMORY)


def check_payloads(payloads: Sequence[int]) -> None:
    """SettingError where one is none."""
    for payload in payloads:
        if not 4 <= payload <= PAYLOAD_MOST:
            raise SettingError(f"A payload is {payload} bytes; it must be 4 or more, and 1 TiB at most.")


def measure_copies(clock: Clock, payloads: Sequence[int]) -> Iterator[Item]:
    """Each direction at each payload (in bytes, rounded up to whole float32)."""
    peaks = _peaks(clock.device)
    sizes = dict.fromkeys(-(-payload // 4) * 4 for payload in payloads)
    for name in names(clock.device):
        for size in sizes:
            yield _measured(clock, name, size, peaks.get(name.split(",")[0]))


def _measured(clock: Clock, name: str, payload: int, peak: float | None) -> Item:
    what = f"{name} of {bytes_text(payload)}"
    try:
        with fitting(2.1 * payload, clock.device):
            call, counted = _call(name, payload, clock.device)
            samples_s = clock.samples(call)
    except DoesNotFit as problem:
        return Skipped("copy", what, str(problem))
    return row("copy", name, bytes_text(payload), samples_s, "GB/s", bytes=float(counted), peak=peak)


def _call(name: str, payload: int, device: torch.device) -> tuple[Callable[[], object], int]:
    """What to time, and the bytes that it counts."""
    way, kind = name.split(", ")
    elements = payload // 4

    def on_host() -> Tensor:
        return torch.empty(elements, pin_memory=kind == "pinned")

    def on_device() -> Tensor:
        return torch.empty(elements, device=device)

    if way == "H2D":
        return _copy(_filled(on_host()), on_device()), payload
    if way == "D2H":
        return _copy(_filled(on_device()), on_host()), payload
    source = _filled(on_device())
    if kind == "read":
        return source.sum, payload
    if kind == "write":
        return (lambda: source.fill_(0.5)), payload
    return _copy(source, torch.empty_like(source)), 2 * payload


def _filled(values: Tensor) -> Tensor:
    """Random values, a stretch of them over and over: a GiB of new ones takes seconds to draw."""
    stretch = torch.rand(min(len(values), STRETCH), device=values.device)
    for part in torch.split(values, len(stretch)):
        part.copy_(stretch[: len(part)])
    return values


def _copy(source: Tensor, target: Tensor) -> Callable[[], object]:
    return lambda: target.copy_(source, non_blocking=True)


def _peaks(device: torch.device) -> dict[str, float | None]:
    """By way; for GPUs whose datasheet the registry knows."""
    if device.type != "cuda":
        return {}
    name = torch.cuda.get_device_name(device)
    bus = _slot_Bps() if chip(name) else None
    return {"H2D": bus, "D2H": bus, "D2D": peak_memory_Bps(name)}


def _slot_Bps() -> float | None:  # noqa: N802 - units keep their case
    """Of the machine's slots, where all are alike."""
    text = command_output(
        "nvidia-smi", "--query-gpu=pcie.link.gen.max,pcie.link.width.max", "--format=csv,noheader"
    )
    slots = {tuple(line.replace(" ", "").split(",")) for line in text.splitlines()}
    if len(slots) != 1:
        return None
    generation, lanes = (*slots.pop(), "")[:2]
    return (
        peak_pcie_Bps(int(generation), int(lanes)) if generation.isdecimal() and lanes.isdecimal() else None
    )
