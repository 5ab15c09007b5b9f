"""How a call is timed: untimed calls first, then as many as a time allows, each on a clock of its own."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from distlab.errors import SettingError
from distlab.train.launch import device

COLLECTIVE_CALLS_LEAST = 8
COLLECTIVE_CALLS_MOST = 1000
"""Timed calls where the policy chooses. Of one device: `distlab.bench.clock`, whose calls each cost a wipe more."""
CALLS_MOST = 1_000_000
"""Of those that somebody asks for: their times are kept in memory."""


@dataclass(frozen=True)
class Policy:
    """How often a call is run. SettingError for numbers that are none."""

    warmup: int = 5
    """Untimed calls."""
    iterations: int | None = None
    """Timed calls; None for as many as fit in `budget_s`, but COLLECTIVE_CALLS_LEAST to COLLECTIVE_CALLS_MOST."""
    budget_s: float = 0.3

    def __post_init__(self) -> None:
        for name, count, least in (("iterations", self.iterations, 1), ("warmup", self.warmup, 0)):
            if count is not None and not least <= count <= CALLS_MOST:
                raise SettingError(f"{name} is {count}; it must be {least} to {CALLS_MOST}.")
        if not 0 < self.budget_s < math.inf:
            raise SettingError(f"budget_s is {self.budget_s}; it must be more than 0 seconds.")

    def __str__(self) -> str:
        if self.iterations is not None:
            return f"{self.warmup} calls untimed, then {self.iterations} timed back to back"
        return (
            f"up to {max(1, self.warmup)} calls untimed, then those that fit in {self.budget_s:g} s, "
            f"{COLLECTIVE_CALLS_LEAST} to {COLLECTIVE_CALLS_MOST}, timed back to back"
        )


@dataclass(frozen=True)
class Summary:
    """What a list of times comes to. Seconds."""

    iterations: int
    min_s: float
    median_s: float
    mean_s: float
    p99_s: float
    """Nearest rank: the slowest where there are fewer than 100."""
    variation: float
    """Coefficient of variation: standard deviation over mean."""


def summary(samples_s: Sequence[float]) -> Summary:
    """At least one time."""
    ordered = sorted(samples_s)
    mean_s = statistics.fmean(ordered)
    return Summary(
        iterations=len(ordered),
        min_s=ordered[0],
        median_s=statistics.median(ordered),
        mean_s=mean_s,
        p99_s=ordered[math.ceil(0.99 * len(ordered)) - 1],
        variation=statistics.pstdev(ordered) / mean_s,
    )


def timed(run: Callable[[], object], iterations: int) -> list[float]:
    """Seconds of each of `iterations` calls back to back on this rank.

    On a GPU by events in its stream, so that the calls queue up as in training and nothing waits in between.
    Python's garbage collector rests meanwhile.
    """
    with no_garbage_collection():
        return _by_events(run, iterations) if device().type == "cuda" else _by_clock(run, iterations)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python's collector, which may come at any allocation, rests meanwhile."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _by_clock(run: Callable[[], object], iterations: int) -> list[float]:
    clock = time.perf_counter
    samples = [0.0] * iterations
    for i in range(iterations):
        start = clock()
        run()
        samples[i] = clock() - start
    return samples


def _by_events(run: Callable[[], object], iterations: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(iterations + 1)]  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    events[0].record()
    for event in events[1:]:
        run()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(events)]


def measured(run: Callable[[], object], policy: Policy) -> list[float]:
    """Warm up, decide how often, time: seconds of each call, on all ranks those of its slowest rank."""
    iterations = policy.iterations
    if iterations is not None:
        timed(run, policy.warmup)
    else:
        first_s = max(slowest(timed(run, 1)))
        warm = [first_s]
        if first_s < policy.budget_s:
            warm += slowest(timed(run, policy.warmup - 1)) if policy.warmup > 1 else []
        # The first call may pay for connections: the fastest says what one costs.
        iterations = min(COLLECTIVE_CALLS_MOST, max(COLLECTIVE_CALLS_LEAST, int(policy.budget_s / min(warm))))
    dist.barrier()
    return slowest(timed(run, iterations))


def slowest(samples_s: Sequence[float]) -> list[float]:
    """Per call the longest time that a rank took; the same list on every rank."""
    # float32: enough for a time, and every backend has it.
    times = torch.tensor(samples_s, dtype=torch.float32, device=device())
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return [float(sample) for sample in times.tolist()]
