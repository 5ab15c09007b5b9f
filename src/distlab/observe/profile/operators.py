"""Which operators and kernels a rank's profiled steps went into, and which collectives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Literal

from distlab.observe.profile.analysis import Collective, Operator
from distlab.observe.profile.breakdown import NS, in_steps
from distlab.observe.profile.intervals import clip
from distlab.observe.profile.traces import Span, Trace

TOP = 20
DEVICES: tuple[Literal["cpu"], Literal["gpu"]] = ("cpu", "gpu")


def top_operators(trace: Trace, top: int = TOP) -> tuple[Operator, ...]:
    """The operators that took most time in the profiled steps, without what they called; most first.

    On a GPU the kernels come first, and the host's operators after them.
    """
    spans = [span for span in _profiled(trace) if span.kind not in ("data", "other") or "/" in span.thread]
    found: list[Operator] = []
    for device in reversed(DEVICES):
        there = [span for span in spans if ("/" in span.thread) == (device == "gpu")]
        times: Counter[str] = Counter()
        counts: Counter[str] = Counter()
        shapes: dict[str, Counter[str]] = defaultdict(Counter)
        for span, own in self_times(there):
            times[span.name] += own
            counts[span.name] += 1
            shapes[span.name][span.shapes] += own
        total = sum(times.values())
        found += [
            Operator(
                name=name,
                device=device,
                count=counts[name],
                self_s=own * NS,
                share=own / total if total else 0.0,
                shapes=max(shapes[name], key=lambda shape: shapes[name][shape]),
            )
            for name, own in times.most_common(top)
        ]
    return tuple(found)


def self_times(spans: Iterable[Span]) -> Iterator[tuple[Span, int]]:
    """Each span and the ns that it spent outside the spans that began and ended within it on its thread."""
    threads: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        threads[span.thread].append(span)
    for thread in threads.values():
        thread.sort(key=lambda span: (span.start, -span.end))
        stack: list[tuple[Span, int]] = []
        for span in thread:
            while stack and stack[-1][0].end <= span.start:
                yield stack.pop()
            if stack:
                parent, own = stack[-1]
                # A child that outlives its parent does not: clocks of one thread may be out by some ns.
                stack[-1] = (parent, max(0, own - (min(span.end, parent.end) - span.start)))
            stack.append((span, span.end - span.start))
        yield from reversed(stack)


def collectives(trace: Trace) -> tuple[Collective, ...]:
    """Each kind of transfer in the profiled steps; the longest in all first."""
    kinds: dict[str, list[Span]] = defaultdict(list)
    for span in _profiled(trace):
        if is_collective(span):
            kinds[span.name.split("(")[0]].append(span)
    found = [
        Collective(
            name=name,
            count=len(spans),
            elements=sum(span.elements for span in spans),
            total_s=sum(span.end - span.start for span in spans) * NS,
            median_s=median(span.end - span.start for span in spans) * NS,
        )
        for name, spans in kinds.items()
    ]
    return tuple(sorted(found, key=lambda collective: -collective.total_s))


def is_collective(span: Span) -> bool:
    """Is it one whole transfer: a kernel on a GPU, or gloo's annotation?

    (gloo's own threads also run operators, which are parts of one.)
    """
    return span.kind == "transfer" and ("/" in span.thread or ("::" not in span.name and ":" in span.name))


def _profiled(trace: Trace) -> Iterator[Span]:
    steps = in_steps(trace)
    return (span for span in trace.spans if clip(steps, span.start, max(span.end, span.start + 1)))
