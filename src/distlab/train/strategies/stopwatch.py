"""How long a rank waits for others, on CPU and on GPU.

On CPU (gloo) a communication call blocks, and the wait is wall-clock time. On GPU (NCCL) calls return at
once: what waits is the stream of compute kernels. So there the time lies between two events on that stream.
Either way it is the *exposed* wait: what is transferred behind the back of a computation costs nothing here.
It holds the time until a slower rank arrives, too.
"""

from __future__ import annotations

import time
from typing import Any

import torch


class Stopwatch:
    """Sum of the wall-clock times between `start` and `stop` since `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._times: list[tuple[Any, Any]] = []
        self._started: Any = None

    def start(self) -> None:
        """Begin to count; nothing if it counts already."""
        if self._started is None:
            self._started = self._now()

    def stop(self) -> None:
        """Count no more; nothing if it does not count."""
        if self._started is not None:
            self._times.append((self._started, self._now()))
            self._started = None

    def total_s(self) -> float:
        """Seconds counted."""
        return sum(self._seconds(started, stopped) for started, stopped in self._times)

    def _now(self) -> Any:
        return time.perf_counter()

    def _seconds(self, started: Any, stopped: Any) -> float:
        return float(stopped - started)


class GpuStopwatch(Stopwatch):
    """The same on the current stream of a GPU; read it after the device has been synchronised."""

    def _now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, started: Any, stopped: Any) -> float:
        return float(started.elapsed_time(stopped)) / 1e3


def stopwatch(device: torch.device) -> Stopwatch:
    """One for the kind of device."""
    return GpuStopwatch() if device.type == "cuda" else Stopwatch()
