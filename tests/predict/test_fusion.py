"""When gradients leave a rank, against schedules written out by hand."""

from __future__ import annotations

import pytest

from distlab.errors import SettingError
from distlab.predict.fusion import Message, in_buckets, in_cycles

READY = [1.0, 2.0, 3.0, 4.0]
SIZES = [10.0, 10.0, 10.0, 10.0]


def one_second_each(payload_bytes: float) -> float:
    return 1.0


def test_a_bucket_goes_when_its_last_gradient_exists() -> None:
    assert in_buckets(READY, SIZES, 20, one_second_each) == [Message(2, 20, 2, 3), Message(2, 20, 4, 5)]


def test_a_bucket_waits_for_the_one_before() -> None:
    assert [m.start_s for m in in_buckets(READY, SIZES, 10, lambda size: 5.0)] == [1, 6, 11, 16]


def test_the_last_bucket_may_be_small() -> None:
    assert [m.tensors for m in in_buckets(READY, SIZES, 30, one_second_each)] == [3, 1]


def test_a_cycle_sends_what_exists() -> None:
    # Woken at 0, 2.5, 5: the third and fourth gradient wait for the second cycle.
    found = in_cycles(READY, SIZES, 1000, one_second_each, cycle_s=2.5)
    assert found == [Message(2, 20, 2.5, 3.5), Message(2, 20, 5, 6)]


def test_agreeing_comes_before_sending() -> None:
    found = in_cycles(READY, SIZES, 1000, one_second_each, cycle_s=2.5, agree_s=0.5)
    assert [m.start_s for m in found] == [3.0, 5.5]


def test_without_fusion_every_gradient_goes_alone() -> None:
    found = in_cycles([0.0] * 4, SIZES, 0, one_second_each, cycle_s=1)
    assert [(m.tensors, m.start_s) for m in found] == [(1, 0), (1, 1), (1, 2), (1, 3)]


def test_a_long_message_delays_the_next_cycle() -> None:
    found = in_cycles(READY, SIZES, 1000, lambda size: 2.5, cycle_s=1)
    assert [(m.tensors, m.start_s) for m in found] == [(1, 1.0), (2, 3.5), (1, 6.0)]


@pytest.mark.parametrize("sizes", [[], [1.0]])
def test_one_size_for_each_gradient(sizes: list[float]) -> None:
    with pytest.raises(SettingError, match="2 times but"):
        in_buckets([0.0, 1.0], sizes, 1, one_second_each)


def test_times_go_up_and_cycles_take_time() -> None:
    with pytest.raises(SettingError, match="goes down"):
        in_buckets([1.0, 0.0], [1.0, 1.0], 1, one_second_each)
    with pytest.raises(SettingError, match="cycle_s is 0"):
        in_cycles(READY, SIZES, 1, one_second_each, cycle_s=0)
