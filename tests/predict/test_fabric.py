"""Fabrics: counts of published topologies, loads by hand, hash collisions against their closed form."""

from __future__ import annotations

import random
import statistics

import pytest

from distlab.bench.pairs import rounds
from distlab.errors import SettingError
from distlab.predict.network.leaf_spine import (
    LeafSpine,
    Link,
    flow_times,
    loads,
    pair_flows,
    pair_matrix,
    ring_flows,
    slowdown,
)
from distlab.predict.network.wiring import dragonfly, fat_tree

RACK = LeafSpine(nodes=32, cards=8, nodes_per_leaf=4)
RAILS = LeafSpine(nodes=32, cards=8, nodes_per_leaf=32, rails=True)


def test_the_two_wirings_use_the_same_switches() -> None:
    assert (RACK.ports_down, RACK.spines, RACK.leaves) == (32, 32, 8)
    assert (RAILS.ports_down, RAILS.spines, RAILS.leaves) == (32, 32, 8)
    assert RACK.leaf((5, 3)) == 1
    assert RAILS.leaf((5, 3)) == 3


def test_a_ring_never_leaves_its_rails() -> None:
    order = list(range(32))
    random.Random(1).shuffle(order)
    assert slowdown(RAILS, ring_flows(RAILS, order)) == 1.0


def test_collisions_are_those_of_balls_in_bins() -> None:
    """Between two leaves, each way: k flows on u uplinks all differ with probability u!/(u-k)!/u^k."""
    fabric = LeafSpine(nodes=2, cards=4, nodes_per_leaf=1, oversubscription=0.5)
    assert fabric.spines == 8
    alone = 8 * 7 * 6 * 5 / 8**4
    trials = [slowdown(fabric, ring_flows(fabric), rng=random.Random(seed)) for seed in range(3000)]
    # Flows a->b go up from one leaf and down to the other over the same spines; b->a are independent of them.
    assert statistics.mean(t == 1.0 for t in trials) == pytest.approx(alone**2, abs=0.03)


def test_spreading_is_even_and_more_queue_pairs_come_close() -> None:
    assert slowdown(RACK, ring_flows(RACK), routing="spread") == pytest.approx(1.0)
    means = [
        statistics.mean(
            slowdown(RACK, ring_flows(RACK), queue_pairs=q, rng=random.Random(s)) for s in range(20)
        )
        for q in (1, 4, 16)
    ]
    assert means[0] > means[1] > means[2] >= 1.0


def test_oversubscription_shows_where_all_flows_cross() -> None:
    thin = LeafSpine(nodes=8, cards=8, nodes_per_leaf=4, oversubscription=2)
    crossing = pair_flows(thin, [(a, a + 4) for a in range(4)])
    assert slowdown(thin, crossing, routing="spread") == pytest.approx(2.0)
    assert slowdown(thin, ring_flows(thin), routing="spread") == pytest.approx(1.0), "8 flows on 16 cables"


def test_a_slow_card_slows_its_flows_alone_and_the_ring_as_a_whole() -> None:
    slow: dict[Link, float] = {("out", 9, 2): 0.5, ("in", 9, 2): 0.5}
    flows = ring_flows(RAILS)
    times = flow_times(loads(RAILS, flows), slow)
    assert {flow for flow, time in zip(flows, times, strict=True) if time > 1} == {
        ((8, 2), (9, 2)),
        ((9, 2), (10, 2)),
    }
    assert slowdown(RAILS, flows, shares=slow) == 2.0
    matrix = pair_matrix(RAILS, rounds(32), shares=slow)
    assert all(matrix[9][b] == 0.5 for b in range(32) if b != 9)
    assert matrix[3][4] == 1.0


@pytest.mark.parametrize(
    ("cards", "tiers", "switches", "cables"),
    [(64, 1, 1, 0), (2048, 2, 96, 2048), (1024, 2, 48, 1024), (65536, 3, 5120, 131072)],
)
def test_fat_trees_hold_what_the_paper_says(cards: int, tiers: int, switches: int, cables: int) -> None:
    found = fat_tree(cards, 64)
    assert (found.switches, found.cables, found.hops) == (switches, cables, 2 * tiers - 1)
    assert fat_tree(48**3 // 4, 48).most_cards == 27648, "the paper's own example"


def test_a_dragonfly_takes_fewer_switches_and_long_cables_than_a_third_tier() -> None:
    fly, tree = dragonfly(16384), fat_tree(16384)
    assert fly.switches < tree.switches
    assert fly.long_cables < tree.long_cables
    # Kim et al.: p = h = 16, a = 32 makes N = a p (a h + 1).
    assert dragonfly(1000, 64).most_cards == 32 * 16 * (32 * 16 + 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: LeafSpine(0, 8, 4),
        lambda: LeafSpine(4, 1, 1, oversubscription=2),
        lambda: RACK.leaf((32, 0)),
        lambda: loads(RACK, [], routing="random"),  # type: ignore[arg-type]
        lambda: loads(RACK, [], queue_pairs=0),
        lambda: fat_tree(0),
        lambda: dragonfly(10**7),
    ],
)
def test_nonsense_is_refused(call: object) -> None:
    with pytest.raises(SettingError):
        call()  # type: ignore[operator]
