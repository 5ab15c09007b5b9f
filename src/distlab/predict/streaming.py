"""Blocks between a fast reader and a slow consumer: how full a store gets, with and without backpressure.

    filling(make_per_s=40, take_per_s=25, block_bytes=128 * MIB, store_bytes=8 * GIB, seconds=120)
    filling(..., budget_bytes=4 * GIB)          # the reader pauses where its budget is used up

One producer, one consumer, constant rates, one queue: what a streaming executor does to a pipeline of two stages.
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError
from distlab.predict.failures import positive


@dataclass(frozen=True)
class Filling:
    """Once a second, from 0 on."""

    in_store: list[float]
    """Bytes in the store."""
    on_disk: list[float]
    """Bytes spilled, because the store was full."""
    taken: list[float]
    """Blocks consumed until then."""


def filling(
    make_per_s: float,
    take_per_s: float,
    block_bytes: float,
    store_bytes: float,
    seconds: int,
    budget_bytes: float | None = None,
) -> Filling:
    """Blocks made and taken, second by second; beyond `store_bytes` they go to disk.

    budget_bytes: the producer starts no block that would exceed it; None: it never pauses.
    """
    size = positive("block_bytes", block_bytes)
    if seconds < 1:
        raise SettingError(f"seconds is {seconds}; it must be 1 or more.")
    queued, taken = 0.0, 0.0
    found = Filling([0.0], [0.0], [0.0])
    for _ in range(seconds):
        made = positive("make_per_s", make_per_s)
        if budget_bytes is not None:
            made = min(made, max(0.0, budget_bytes / size - queued) + take_per_s)
        queued += made
        now = min(positive("take_per_s", take_per_s), queued)
        queued -= now
        taken += now
        held = queued * size
        found.in_store.append(min(held, positive("store_bytes", store_bytes)))
        found.on_disk.append(max(0.0, held - store_bytes))
        found.taken.append(taken)
    return found
