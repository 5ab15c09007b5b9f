"""One time line for ranks whose hosts have clocks of their own.

Ranks of one host share its clock. Between hosts the clocks are set by the collectives that no rank can leave before
every rank has entered it (all-reduce, all-gather, reduce-scatter, all-to-all, barrier): such a collective ends on all
ranks at about the same time, and on none before the last one entered. Its ends give an estimate of the difference
between two clocks, and its entries bounds that hold however long it takes (as in Cristian, 1989, Probabilistic clock
synchronization: a message cannot arrive before it was sent). All of them together leave an interval; half its width is
the uncertainty.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from distlab.observe.profile.analysis import Clock
from distlab.observe.profile.breakdown import NS
from distlab.observe.profile.operators import is_collective
from distlab.observe.profile.traces import Span, Trace

_ALL_WAIT = re.compile(r"all_?reduce|all_?gather|reduce_?scatter|all_?to_?all|barrier", re.IGNORECASE)


@dataclass(frozen=True)
class Timeline:
    """How times of each rank's host become seconds on the common line."""

    origin: int
    """ns by the first rank's clock: the first profiled step of any rank begins there."""
    clocks: tuple[Clock, ...]

    def origin_of(self, rank: int) -> int:
        """The line's beginning by the rank's own clock, ns."""
        return self.origin + self.offset_of(rank)

    def offset_of(self, rank: int) -> int:
        """What to subtract from the rank's clock, ns."""
        return next((round(c.offset_s / NS) for c in self.clocks if c.rank == rank), 0)


def align(traces: Sequence[Trace]) -> Timeline:
    """The common line of these ranks' traces; the clock of the first one's host is the reference."""
    if not traces:
        return Timeline(0, ())
    reference = traces[0].host
    hosts: dict[str, list[Trace]] = defaultdict(list)
    for trace in traces:
        hosts[trace.host].append(trace)
    offsets: dict[str, tuple[int, int | None, str]] = {
        reference: (0, 0, "the reference" if len(hosts) > 1 else "one host, one clock")
    }
    for host, there in hosts.items():
        if host != reference:
            offsets[host] = _offset(hosts[reference], there)
    clocks = tuple(
        Clock(
            rank=trace.rank,
            host=trace.host,
            offset_s=offsets[trace.host][0] * NS,
            uncertainty_s=None if (doubt := offsets[trace.host][1]) is None else doubt * NS,
            how=offsets[trace.host][2],
        )
        for trace in traces
    )
    starts = [trace.steps[0][1] - offsets[trace.host][0] for trace in traces if trace.steps]
    return Timeline(min(starts, default=0), clocks)


def _offset(reference: list[Trace], there: list[Trace]) -> tuple[int, int | None, str]:
    """The other host's clock less the reference's, how far that may be wrong, and what it rests on."""
    least, most, ends = -(2**62), 2**62, []
    for a in reference:
        for b in there:
            for one, other in matched(a, b):
                if not _ALL_WAIT.search(one.name):
                    continue
                ends.append(other.end - one.end)
                most = min(most, other.end - one.start)
                least = max(least, other.start - one.end)
    if not ends:
        return (
            0,
            None,
            "no collective that both hosts took part in; the hosts' own clocks are taken as they are",
        )
    estimate = round(median(ends))
    if least > most:  # the clocks ran apart, or what was matched did not belong together
        spread = max(ends) - min(ends)
        return (
            estimate,
            spread,
            f"ends of {len(ends)} collectives, which contradict each other: the clocks drift",
        )
    estimate = min(max(estimate, least), most)
    doubt = max(most - estimate, estimate - least)
    return estimate, doubt, f"ends of {len(ends)} collectives, bounded by their starts"


def matched(
    a: Trace, b: Trace, wanted: Callable[[Trace, Span], bool] = lambda _, span: is_collective(span)
) -> Iterator[tuple[Span, Span]]:
    """Collectives that two ranks took part in together: by their order within each step that both have.

    A step in which they did not do the same, by name, size and group, is left out.
    """
    ours, theirs = _by_step(a, wanted), _by_step(b, wanted)
    for step in ours.keys() & theirs.keys():
        if [_what(span) for span in ours[step]] == [_what(span) for span in theirs[step]]:
            yield from zip(ours[step], theirs[step], strict=True)


def is_entry(trace: Trace, span: Span) -> bool:
    """Does a rank enter a collective with it?

    On a CPU that is the call. (gloo's threads may begin in the next step what was called at the end of one.) On a GPU
    the host calls long before: there it is the kernel, which waits for the others.
    """
    if trace.on_gpu:
        return is_collective(span)
    return span.kind == "call" and span.name.startswith("c10d::") and span.thread == trace.main_thread


def _what(span: Span) -> tuple[str, str, int, str]:
    return span.name, span.shapes, span.elements, span.group


def _by_step(trace: Trace, wanted: Callable[[Trace, Span], bool]) -> dict[int, list[Span]]:
    found: dict[int, list[Span]] = {number: [] for number, _, _ in trace.steps}
    steps = iter(trace.steps)
    current = next(steps, None)
    for span in trace.spans:
        while current is not None and span.start >= current[2]:
            current = next(steps, None)
        if current is None:
            break
        if span.start >= current[1] and wanted(trace, span):
            found[current[0]].append(span)
    return found
