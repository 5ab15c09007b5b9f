"""How a call on one device is timed: hot, with cold caches, each call on a clock of its own.

On a GPU by CUDA events in the stream: wipe, event, call, event, wipe, ... are queued without waiting, so that the
device never idles and the time to launch hides behind the wiping of the cache. On a CPU by the clock of the system.

Heat: processors change their clock with load, power and temperature. A device is busy for `heat_s` before the first
measurement, and each call runs untimed before it is timed.
Wipe: between two calls a buffer larger than the last cache is written, as in training each operation finds the
caches full of what ran before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from distlab.bench.timing import no_garbage_collection

DEVICE_CALLS_LEAST = 5
"""Timed calls, however long they take..."""
DEVICE_CALLS_MOST = 200
"""... and however short they are."""
WARM = 3

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_CPU_CACHE_BYTES = 32 * 2**20
"""Where the system does not tell."""
_GPU_WIPE_BYTES = 256 * 2**20
"""At the least: twice the largest L2 of a data-centre GPU so far (126 MB of a B200)."""


class Clock:
    """Times calls on a device."""

    def __init__(self, device: torch.device, budget_s: float = 0.25) -> None:
        """budget_s: how long the timed calls of one measurement may take together, wiping included."""
        self.device = device
        self.budget_s = budget_s
        self.on_gpu = device.type == "cuda"
        self._cache = torch.zeros(_wipe_bytes(device) // 8, dtype=torch.int64, device=device)

    def heat(self, seconds: float) -> None:
        """Keep the device busy with products."""
        n = 4096 if self.on_gpu else 512
        kind = torch.float16 if self.on_gpu else torch.float32
        a, b = (torch.randn(n, n, device=self.device).to(kind) for _ in range(2))
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(10 if self.on_gpu else 1):
                torch.mm(a, b)
            self.wait()

    def wait(self) -> None:
        """Until the device has done what was asked of it."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def wipe(self) -> None:
        """Fill the caches with something else."""
        self._cache.add_(1)

    def seconds(self, call: Callable[[], object]) -> float:
        """One call, waited for."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def samples(self, call: Callable[[], object]) -> list[float]:
        """Seconds of each call, DEVICE_CALLS_LEAST to DEVICE_CALLS_MOST of them: as many as fit in the budget.

        The first call, which may load libraries and choose algorithms, is not among them; nor are two more, unless
        the first took as long as the whole budget.
        """
        first_s = self.seconds(call)
        warm_s = first_s if first_s > self.budget_s else min(self.seconds(call) for _ in range(WARM - 1))
        with no_garbage_collection():
            return self._by_events(call, warm_s) if self.on_gpu else self._by_clock(call)

    def _by_clock(self, call: Callable[[], object]) -> list[float]:
        clock = time.perf_counter
        samples: list[float] = []
        end = clock() + self.budget_s
        while len(samples) < DEVICE_CALLS_MOST and (len(samples) < DEVICE_CALLS_LEAST or clock() < end):
            self.wipe()
            start = clock()
            call()
            samples.append(clock() - start)
        return samples

    def _by_events(self, call: Callable[[], object], warm_s: float) -> list[float]:
        wipe_s = min(self.seconds(self.wipe) for _ in range(2))
        count = min(DEVICE_CALLS_MOST, max(DEVICE_CALLS_LEAST, int(self.budget_s / (warm_s + wipe_s))))
        pairs = [(_event(), _event()) for _ in range(count)]
        for start, end in pairs:
            self.wipe()
            start.record()
            call()
            end.record()
        self.wait()
        # An event counts in steps of about half a microsecond, and what is too short to see is none.
        return [max(start.elapsed_time(end) / 1e3, 1e-7) for start, end in pairs]

    def batches(self, call: Callable[[], object], calls: int, *, waited: bool) -> list[float]:
        """Seconds for one call on the host's clock, from `calls` back to back: overheads that caches do not matter to.

        waited: the clock stops when the device is done (a round trip), not once all calls are queued.
        """
        for _ in range(WARM):
            self._batch(call, calls, waited=True)
        samples: list[float] = []
        end = time.perf_counter() + self.budget_s
        with no_garbage_collection():
            while len(samples) < DEVICE_CALLS_MOST and (
                len(samples) < DEVICE_CALLS_LEAST or time.perf_counter() < end
            ):
                samples.append(self._batch(call, calls, waited=waited) / calls)
        return samples

    def _batch(self, call: Callable[[], object], calls: int, *, waited: bool) -> float:
        self.wait()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if waited:
            self.wait()
        took = time.perf_counter() - start
        self.wait()
        return took


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _wipe_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        cache = int(getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0))
        return max(_GPU_WIPE_BYTES, 2 * cache)
    return min(3 * cpu_cache_bytes() // 2, 2**29)


def cpu_cache_bytes(folder: Path = _CACHES) -> int:
    """The last cache of the first CPU."""
    sizes = [_CPU_CACHE_BYTES] if not folder.is_dir() else []
    for file in folder.glob("index*/size"):
        text = file.read_text().strip()
        number, unit = text[:-1], text[-1:]
        if number.isdigit() and unit in "KM":
            sizes.append(int(number) * (2**10 if unit == "K" else 2**20))
    return max(sizes, default=_CPU_CACHE_BYTES)
