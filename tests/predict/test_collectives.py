"""The collective models against closed formulas, published measurements and their own invariants."""

import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distlab.predict.collectives import (
    Link,
    Op,
    all_gather_s,
    bus_bandwidth_Bps,
    bus_bandwidth_factor,
    fit_alpha_beta,
    reduce_scatter_s,
    ring_all_reduce_s,
    ring_s,
    tree_all_reduce_s,
)
from distlab.predict.units import GB, MIB

OPS: tuple[Op, ...] = get_args(Op)
links = st.builds(
    Link,
    alpha_s=st.floats(1e-7, 1e-2),
    bandwidth_Bps=st.floats(1e6, 1e12),
)


@pytest.mark.parametrize(
    ("op", "world_size", "factor"),
    [
        ("all_reduce", 2, 1.0),
        ("all_reduce", 8, 1.75),
        ("all_gather", 8, 0.875),
        ("reduce_scatter", 4, 0.75),
        ("broadcast", 8, 1.0),
        ("reduce", 8, 1.0),
        ("all_to_all", 8, 0.875),
        ("send_recv", 8, 1.0),
    ],
)
def test_bus_factors_are_those_of_nccl_tests(op: Op, world_size: int, factor: float) -> None:
    assert bus_bandwidth_factor(op, world_size) == pytest.approx(factor)


def test_one_gigabyte_on_eight_ranks_by_hand() -> None:
    # 14 messages of 5 us, and 1.75 GB over 350 GB/s.
    link = Link(alpha_s=5e-6, bandwidth_Bps=350 * GB)
    assert ring_all_reduce_s(1 * GB, 8, link) == pytest.approx(70e-6 + 5e-3)


@pytest.mark.parametrize(
    ("op", "steps"), [("all_reduce", 6), ("reduce", 3), ("all_to_all", 3), ("send_recv", 1)]
)
def test_messages_in_a_row_by_hand(op: Op, steps: int) -> None:
    assert ring_s(op, 0, 4, Link(alpha_s=1e-3, bandwidth_Bps=GB)) == pytest.approx(steps * 1e-3)


def test_tree_by_hand() -> None:
    link = Link(alpha_s=5e-6, bandwidth_Bps=100 * GB)
    assert tree_all_reduce_s(1 * GB, 8, link) == pytest.approx(2 * 3 * 5e-6 + 20e-3)


@pytest.mark.parametrize("op", OPS)
def test_one_rank_communicates_nothing(op: Op) -> None:
    assert ring_s(op, 64 * MIB, 1, Link(1e-6, 1e9)) == 0


@given(link=links, world_size=st.integers(2, 4096), payload=st.floats(0, 1e12))
def test_all_reduce_is_reduce_scatter_then_all_gather(link: Link, world_size: int, payload: float) -> None:
    parts = reduce_scatter_s(payload, world_size, link) + all_gather_s(payload, world_size, link)
    assert ring_all_reduce_s(payload, world_size, link) == pytest.approx(parts)


@given(link=links, world_size=st.integers(2, 4096), payload=st.floats(1, 1e12))
def test_modelled_bus_bandwidth_never_exceeds_the_link(link: Link, world_size: int, payload: float) -> None:
    for op in OPS:
        time_s = ring_s(op, payload, world_size, link)
        assert bus_bandwidth_Bps(op, payload, time_s, world_size) <= link.bandwidth_Bps * (1 + 1e-9)


@given(link=links, world_size=st.integers(3, 4096))
def test_trees_win_on_empty_messages_and_rings_on_huge_ones(link: Link, world_size: int) -> None:
    huge = 1e6 * link.bandwidth_Bps * world_size * world_size
    assert tree_all_reduce_s(0, world_size, link) <= ring_all_reduce_s(0, world_size, link)
    assert tree_all_reduce_s(huge, world_size, link) >= ring_all_reduce_s(huge, world_size, link)


@given(link=links, world_size=st.integers(2, 64))
def test_fit_finds_the_link_that_made_the_samples(link: Link, world_size: int) -> None:
    # Payloads on both sides of alpha * B, where latency and bandwidth matter alike.
    sizes = [link.alpha_s * link.bandwidth_Bps * world_size * f for f in (0.1, 0.5, 1, 4, 20)]
    samples = [(size, ring_all_reduce_s(size, world_size, link)) for size in sizes]
    fitted = fit_alpha_beta(samples, world_size)
    assert fitted.alpha_s == pytest.approx(link.alpha_s, rel=1e-3)
    assert fitted.bandwidth_Bps == pytest.approx(link.bandwidth_Bps, rel=1e-3)


def test_fit_of_measured_h100_all_reduces() -> None:
    # microsoft/vidur, data/profiling/network/h100_dgx/all_reduce.csv: 8 GPUs, bytes and milliseconds.
    measured_ms = {4653056: 0.056, 13565952: 0.108, 39321600: 0.226, 67108864: 0.3345}
    link = fit_alpha_beta([(size, ms / 1e3) for size, ms in measured_ms.items()], 8)
    for size, ms in measured_ms.items():
        assert ring_all_reduce_s(size, 8, link) * 1e3 == pytest.approx(ms, rel=0.08)
    assert 300 * GB < link.bandwidth_Bps < 450 * GB  # 450 GB/s is NVLink 4's one-way peak


def test_fit_never_returns_a_negative_latency() -> None:
    assert fit_alpha_beta([(1e6, 0.5e-3), (2e6, 2e-3), (4e6, 5e-3)], 2).alpha_s == 0


@pytest.mark.parametrize(
    ("samples", "world_size", "message"),
    [
        ([(1e6, 1e-3), (1e6, 2e-3)], 2, "fewer than two different payloads"),
        ([(1e6, 1e-3), (2e6, 2e-3)], 1, "world_size is 1"),
        ([(1e6, 2e-3), (2e6, 1e-3)], 2, "does not grow"),
        ([(1e6, 0.0), (2e6, 1e-3)], 2, "more than 0"),
    ],
)
def test_fit_refuses_what_it_cannot_fit(
    samples: list[tuple[float, float]], world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fit_alpha_beta(samples, world_size)


@pytest.mark.parametrize(
    ("alpha_s", "bandwidth"), [(-1e-6, 1e9), (1e-6, 0), (math.nan, 1e9), (1e-6, math.nan)]
)
def test_a_link_refuses_impossible_numbers(alpha_s: float, bandwidth: float) -> None:
    with pytest.raises(ValueError, match="is"):
        Link(alpha_s, bandwidth)


def test_bad_arguments_name_the_value() -> None:
    with pytest.raises(ValueError, match="world_size is 0"):
        ring_s("broadcast", 1, 0, Link(0, 1))
    with pytest.raises(ValueError, match="payload_bytes is -1"):
        ring_s("broadcast", -1, 2, Link(0, 1))
    with pytest.raises(ValueError, match="known: all_reduce"):
        bus_bandwidth_factor("gossip", 2)  # type: ignore[arg-type]
