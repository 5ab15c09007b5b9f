"""Whether `distlab bench collectives` tells the truth: its medians beside a bare loop, and what its clock costs.

Two ranks on CPUs over gloo, all-reduce in place.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.interleaved import Ratio, ratio_of, take_turns
from benchmarks.results import Result

PAYLOADS_BYTES = (2 * 2**20, 8 * 2**20)
CALLS = 10
"""Of a turn."""
WANTED_HALF_WIDTH = 0.005
MOST_TURNS = 250
NULL_CALLS = 20_000
NULL_TURNS = 40


def agreement() -> list[Result]:
    """distlab's median over that of a bare loop around the same call on the same tensor.

    In each turn both make as many calls, and take of each call the time of its slowest rank; the ratio is that of
    their medians.
    """
    from distlab.train.launch import launch

    rows = []
    for size_bytes in PAYLOADS_BYTES:
        ours, bare = launch(_measure, 2, size_bytes, backend="gloo", threads_per_rank=1, timeout_s=120)[0]
        ratio = ratio_of(ours, bare)
        peer = f"bare loop, {size_bytes // 2**20} MiB"
        _say("bench.collective_agreement", f"beside {peer}", ratio, len(ours))
        rows.append(
            Result("bench.collective_agreement", 1e3 * statistics.median(ours), "ms", peer, ratio.median)
        )
    return rows


def _measure(size_bytes: int) -> list[list[float]]:
    """On every rank: the median of each turn, distlab's and the bare loop's."""
    import torch
    import torch.distributed as dist

    from distlab.bench.operations import prepare
    from distlab.bench.timing import slowest, timed

    call = prepare("all_reduce", "in_place", size_bytes // 4, "float32", "sum", 0)
    tensor = call.target  # memory in another place may be slower or faster for that reason alone

    def ours() -> float:
        dist.barrier()
        return statistics.median(slowest(timed(call.run, CALLS)))

    def bare() -> float:
        dist.barrier()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        longest = torch.tensor(times)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        return float(longest.quantile(0.5))

    call.clear()
    for way in (ours, bare):
        way()

    def close_enough(times: list[list[float]]) -> bool:
        return ratio_of(times[0], times[1]).half_width <= WANTED_HALF_WIDTH  # the same on all ranks

    return take_turns([ours, bare], close_enough, least=20, most=MOST_TURNS)


def call_overhead() -> list[Result]:
    """What distlab's loop adds to each call: clock, list and all, also what falls outside the time it reports.

    Both loops run a function that does next to nothing, by turns, on two ranks at once. What is reported is the
    difference of their times per call on the slower rank.
    """
    from distlab.train.launch import launch

    by_rank = launch(_measure_overhead, 2, backend="gloo", threads_per_rank=1, timeout_s=120)
    added = [ratio_of(us, [1.0] * len(us)) for us in by_rank]  # over one microsecond
    most = max(added, key=lambda ratio: ratio.median)
    _say("bench.call_overhead_us", "in us", most, NULL_TURNS)
    return [Result("bench.call_overhead_us", most.median, "us")]


def _measure_overhead() -> list[float]:
    """On one rank: microseconds that distlab's loop takes per call more than a bare one, in each turn."""
    import torch.distributed as dist

    from distlab.bench.timing import timed

    def null() -> None:
        return None

    def bare() -> None:
        for _ in range(NULL_CALLS):
            null()

    def per_call_us(loop: Callable[[], object]) -> float:
        dist.barrier()
        start = time.perf_counter()
        loop()
        return 1e6 * (time.perf_counter() - start) / NULL_CALLS

    ways = [lambda: per_call_us(lambda: timed(null, NULL_CALLS)), lambda: per_call_us(bare)]
    with_clock, without = take_turns(ways, lambda times: False, most=NULL_TURNS)
    return [a - b for a, b in zip(with_clock, without, strict=True)]


def _say(name: str, what: str, ratio: Ratio, turns: int) -> None:
    print(f"{name} {what}: {ratio.median:.4f} (95%: {ratio.low:.4f} to {ratio.high:.4f}, {turns} turns)")
