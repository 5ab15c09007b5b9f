"""When gradients leave a rank: in buckets laid out beforehand (DDP), or in cycles of a background thread (Horovod).

Both put many small gradients into one message. DDP closes a bucket when it holds its share of bytes, and sends it
when the last of its gradients exists. Horovod looks at what exists, once in a cycle, and sends that.

Sources: Li et al., PyTorch Distributed (VLDB 2020), section 3.2; Sergeev and Del Balso, Horovod (2018), section 5; and
`BackgroundThreadLoop` in horovod/common/operations.cc (0.28.1).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from distlab.errors import SettingError


@dataclass(frozen=True)
class Message:
    """Gradients that travel together, in one all-reduce."""

    tensors: int
    payload_bytes: float
    start_s: float
    """After the backward pass began, as is the next."""
    end_s: float


def in_buckets(
    ready_s: Sequence[float],
    sizes_bytes: Sequence[float],
    bucket_bytes: float,
    all_reduce_s: Callable[[float], float],
) -> list[Message]:
    """The messages of DDP: buckets in the order in which gradients are made, each closed by `bucket_bytes` or more.

    ready_s: when each gradient exists on the slowest rank, ascending. all_reduce_s: seconds for a payload in bytes.
    """
    _check(ready_s, sizes_bytes)
    messages: list[Message] = []
    tensors, payload, free_s = 0, 0.0, 0.0
    for i, (ready, size) in enumerate(zip(ready_s, sizes_bytes, strict=True)):
        tensors, payload = tensors + 1, payload + size
        if payload >= bucket_bytes or i == len(ready_s) - 1:
            start_s = max(free_s, ready)
            free_s = start_s + all_reduce_s(payload)
            messages.append(Message(tensors, payload, start_s, free_s))
            tensors, payload = 0, 0.0
    return messages


def in_cycles(
    ready_s: Sequence[float],
    sizes_bytes: Sequence[float],
    fusion_bytes: float,
    all_reduce_s: Callable[[float], float],
    *,
    cycle_s: float,
    agree_s: float = 0.0,
) -> list[Message]:
    """The messages of Horovod, whose thread wakes every `cycle_s`, or as soon as its last message is through.

    It then agrees with the other ranks' threads on what all of them have (`agree_s`), and sends that in messages of
    at most `fusion_bytes` (one that is larger goes alone; 0 sends every gradient alone).
    """
    _check(ready_s, sizes_bytes)
    if not cycle_s > 0:
        raise SettingError(f"cycle_s is {cycle_s}; it must be more than 0 seconds.")
    messages: list[Message] = []
    sent, wake_s = 0, 0.0
    while sent < len(ready_s):
        if ready_s[sent] > wake_s:  # nothing yet: the cycles that find nothing
            wake_s += cycle_s * -(-(ready_s[sent] - wake_s) // cycle_s)
        now_s = wake_s + agree_s
        ready = sent
        while ready < len(ready_s) and ready_s[ready] <= wake_s:
            ready += 1
        while sent < ready:
            first, payload = sent, sizes_bytes[sent]
            sent += 1
            while sent < ready and payload + sizes_bytes[sent] <= fusion_bytes:
                payload += sizes_bytes[sent]
                sent += 1
            end_s = now_s + all_reduce_s(payload)
            messages.append(Message(sent - first, payload, now_s, end_s))
            now_s = end_s
        wake_s = max(wake_s + cycle_s, now_s)
    return messages


def _check(ready_s: Sequence[float], sizes_bytes: Sequence[float]) -> None:
    if not ready_s or len(ready_s) != len(sizes_bytes):
        raise SettingError(
            f"{len(ready_s)} times but {len(sizes_bytes)} sizes; give one of each for every gradient."
        )
    if any(later < earlier for earlier, later in itertools.pairwise(ready_s)):
        raise SettingError("ready_s goes down; give the times in the order in which gradients are made.")
