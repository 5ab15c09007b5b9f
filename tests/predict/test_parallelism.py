"""The ratios against the collective models that they summarise, and a circulating error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.predict.collectives import Link, ring_all_reduce_s
from distlab.predict.parallelism import (
    pipeline_parallel_ratio,
    tensor_parallel_ratio,
    tokens_to_hide_gradients,
    training_days,
)

flops = st.floats(1e12, 1e15)
bandwidths = st.floats(1e9, 1e12)


@given(flops=flops, bandwidth=bandwidths)
def test_gradients_hide_at_that_many_tokens(flops: float, bandwidth: float) -> None:
    parameters, ranks = 1e9, 10**6
    tokens = tokens_to_hide_gradients(flops, bandwidth)
    backward_s = 4 * parameters * tokens / flops
    wire_s = ring_all_reduce_s(2 * parameters, ranks, Link(0, bandwidth))
    assert wire_s == pytest.approx(backward_s, rel=1e-5)


@given(flops=flops, bandwidth=bandwidths, ways=st.sampled_from([2, 4, 8]), tokens=st.integers(1, 10**6))
def test_tensor_ratio_is_two_all_reduces_over_a_block(
    flops: float, bandwidth: float, ways: int, tokens: int
) -> None:
    hidden = 4096
    wire_s = 2 * ring_all_reduce_s(2 * tokens * hidden, ways, Link(0, bandwidth))
    block_s = 24 * tokens * hidden**2 / ways / flops
    assert tensor_parallel_ratio(ways, hidden, flops, bandwidth) == pytest.approx(wire_s / block_s)


def test_pipeline_ratio_by_hand() -> None:
    # 8 stages of 10 blocks, h = 8192, 1 token: 16 KiB over 50 GB/s against 10 x 24 x 8192^2 FLOP.
    by_hand = (2 * 8192 / 50e9) / (10 * 24 * 8192**2 / 400e12)
    assert pipeline_parallel_ratio(8, 80, 8192, 400e12, 50e9) == pytest.approx(by_hand)


def test_300_billion_tokens_at_1000_a_second_take_3472_days_not_868() -> None:
    # 1,000 tokens/s of one billion parameters are 6e12 FLOP/s.
    assert training_days(1e9, 300e9, 1, 6e12) == pytest.approx(3472, abs=0.5)
