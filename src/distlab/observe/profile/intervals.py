"""Sets of time as sorted, disjoint half-open intervals of whole nanoseconds: sums of their lengths are exact."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

Interval = tuple[int, int]
"""(start, end): every moment with start <= moment < end."""

Times = list[Interval]
"""Sorted, disjoint, none empty, none touching the next."""


def union(intervals: Iterable[Interval]) -> Times:
    """The moments that lie in any of the intervals, which may come in any order and overlap."""
    result: Times = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if result and start <= result[-1][1]:
            if end > result[-1][1]:
                result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


def intersect(a: Times, b: Times) -> Times:
    """The moments that lie in both."""
    result: Times = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            result.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return result


def subtract(a: Times, b: Times) -> Times:
    """The moments of `a` that are not in `b`."""
    result: Times = []
    j = 0
    for start, end in a:
        while j < len(b) and b[j][1] <= start:
            j += 1
        k = j
        while k < len(b) and b[k][0] < end:
            if b[k][0] > start:
                result.append((start, b[k][0]))
            start = b[k][1]
            k += 1
        if start < end:
            result.append((start, end))
    return result


def clip(times: Times, start: int, end: int) -> Times:
    """The moments between `start` and `end`."""
    first = bisect_left(times, (start, start))
    if first and times[first - 1][1] > start:
        first -= 1
    result: Times = []
    for begin, finish in times[first:]:
        if begin >= end:
            break
        result.append((max(begin, start), min(finish, end)))
    return result


def length(times: Sequence[Interval]) -> int:
    """Nanoseconds in all."""
    return sum(end - start for start, end in times)
