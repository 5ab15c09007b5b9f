"""Set arithmetic on intervals, against Python's own sets of whole numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.observe.profile.intervals import Times, clip, intersect, length, subtract, union

MOMENTS = st.integers(0, 40)
ANY = st.lists(st.tuples(MOMENTS, MOMENTS), max_size=12)


def moments(times: Times) -> set[int]:
    return {moment for start, end in times for moment in range(start, end)}


def assert_normal(times: Times) -> None:
    assert all(start < end for start, end in times)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(times))


@given(ANY)
def test_union(intervals: Times) -> None:
    assert_normal(union(intervals))
    assert moments(union(intervals)) == moments(intervals)
    assert length(union(intervals)) == len(moments(intervals))


@pytest.mark.parametrize(("ours", "theirs"), [(intersect, set.__and__), (subtract, set.__sub__)])
@given(a=ANY, b=ANY)
def test_of_two(
    ours: Callable[[Times, Times], Times],
    theirs: Callable[[set[int], set[int]], set[int]],
    a: Times,
    b: Times,
) -> None:
    result = ours(union(a), union(b))
    assert_normal(result)
    assert moments(result) == theirs(moments(a), moments(b))


@given(ANY, MOMENTS, MOMENTS)
def test_clip(a: Times, start: int, end: int) -> None:
    assert moments(clip(union(a), start, end)) == moments(a) & set(range(start, end))
