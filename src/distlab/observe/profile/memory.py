"""What tensors held over the profiled time, from the memory events of a trace.

Recorded with `distlab profile run --memory`. On a CPU torch counts what is allocated and released since the profile
began: a release of what was there before shows as less than nothing. On a GPU the allocator says what it holds.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from distlab.files import write_whole
from distlab.observe.profile.analysis import MemoryLine
from distlab.observe.profile.breakdown import NS
from distlab.observe.profile.traces import MemoryEvent, Trace

POINTS = 400
"""Of a line in `analysis.json`."""
FILE_POINTS = 20_000
"""Of a line in `rank_N.memory.json`."""


def memory_lines(trace: Trace, origin: int = 0, points: int = POINTS) -> tuple[MemoryLine, ...]:
    """A line for each device with memory events.

    origin: what times count from, in ns by the clock of the rank's host.
    """
    devices: dict[str, list[MemoryEvent]] = defaultdict(list)
    for event in trace.memory:
        devices[event.device].append(event)
    lines = []
    for device, events in sorted(devices.items()):
        peak = max(events, key=lambda event: event.allocated_bytes)
        step = next((number for number, start, end in trace.steps if start <= peak.at < end), None)
        lines.append(
            MemoryLine(
                device=device,
                peak_bytes=peak.allocated_bytes,
                peak_at_s=(peak.at - origin) * NS,
                peak_step=step,
                points=tuple(((e.at - origin) * NS, e.allocated_bytes) for e in _thin(events, points)),
                counted_from_start=device == "cpu",
            )
        )
    return tuple(lines)


def write_memory(folder: Path, trace: Trace, origin: int) -> bool:
    """Write `rank_N.memory.json`, the lines of a rank with more points; False where there are none."""
    lines = memory_lines(trace, origin, FILE_POINTS)
    if lines:
        content = {"rank": trace.rank, "lines": [asdict(line) for line in lines]}
        write_whole(folder / f"rank_{trace.rank}.memory.json", json.dumps(content).encode())
    return bool(lines)


def _thin(events: list[MemoryEvent], points: int) -> list[MemoryEvent]:
    """At most so many events: of each stretch the highest and the last, so that no peak is lost."""
    if len(events) <= points:
        return events
    size = -(-len(events) // (points // 2))
    thin: list[MemoryEvent] = []
    for first in range(0, len(events), size):
        stretch = events[first : first + size]
        peak = max(stretch, key=lambda event: event.allocated_bytes)
        thin += [peak] if peak is stretch[-1] else [peak, stretch[-1]]
    return thin
