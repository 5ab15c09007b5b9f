"""What a call costs before it does any work, and how many small operations a second that leaves.

On a GPU: to enqueue a kernel (the host goes on at once), and the round trip until the host knows that it ran. The
empty kernel is torch's `_sleep` of 0 cycles, which goes past the dispatcher; an operation on one element pays for
the dispatcher, too. A CUDA graph launches many recorded kernels with one call. On a CPU: to dispatch an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from distlab.bench.clock import Clock
from distlab.bench.device import reason
from distlab.bench.measured import Item, Skipped, row

CALLS = 100
"""In a batch: well under the 1,024 kernels that a stream holds before the host has to wait."""
CHAIN = 100
"""Small operations one after the other; each needs the result of the one before."""
ELEMENTS = (2**10, 2**16)


def measure_latency(clock: Clock) -> Iterator[Item]:
    """Enqueueing and round trips, in microseconds for one call."""
    one = torch.ones(1, device=clock.device)

    def operation() -> object:
        return one.add_(1.0)

    if not clock.on_gpu:
        yield _latency(clock, "dispatch", "in-place add, 1 element", operation, CALLS, waited=False)
        yield _latency(
            clock, "dispatch", "add, 1 element, new result", lambda: one + 1.0, CALLS, waited=False
        )
        return

    def empty() -> object:
        return torch.cuda._sleep(0)  # type: ignore[no-untyped-call]

    for size, call in (("empty kernel", empty), ("in-place add, 1 element", operation)):
        yield _latency(clock, "enqueue", size, call, CALLS, waited=False)
        yield _latency(clock, "round trip", size, call, 1, waited=True)
    try:
        graph = captured(operation, clock.device)
    except RuntimeError as error:
        yield Skipped("latency", "CUDA graph of one add", f"not captured: {reason(error)}")
        return
    yield _latency(clock, "enqueue", "CUDA graph of one add", graph.replay, CALLS, waited=False)
    yield _latency(clock, "round trip", "CUDA graph of one add", graph.replay, 1, waited=True)


def _latency(
    clock: Clock, name: str, size: str, call: Callable[[], object], calls: int, *, waited: bool
) -> Item:
    return row("latency", name, size, clock.batches(call, calls, waited=waited), "us")


def measure_small_operations(clock: Clock) -> Iterator[Item]:
    """A chain of element-wise operations: one by one, and on a GPU as one CUDA graph."""
    for elements in ELEMENTS:
        chain = _chain(torch.rand(elements, device=clock.device))
        size = f"{elements:,} elements"
        samples_s = clock.batches(chain, 1, waited=True)
        yield row("small operations", "one by one", size, samples_s, "10^6 op/s", operations=CHAIN)
        if not clock.on_gpu:
            continue
        try:
            graph = captured(chain, clock.device)
        except RuntimeError as error:
            yield Skipped(
                "small operations", f"CUDA graph, {size}", f"the graph was not captured: {reason(error)}"
            )
            continue
        samples_s = clock.batches(graph.replay, 1, waited=True)
        yield row("small operations", "CUDA graph", size, samples_s, "10^6 op/s", operations=CHAIN)


def _chain(values: Tensor) -> Callable[[], object]:
    def chain() -> object:
        for _ in range(CHAIN // 2):
            values.mul_(0.5)
            values.add_(0.25)  # they tend to 0.5: no infinities, and no denormal numbers, which are slow
        return values

    return chain


def captured(call: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """The kernels of a call as a graph; it runs the call three times on a stream of its own before, as torch asks."""
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph
