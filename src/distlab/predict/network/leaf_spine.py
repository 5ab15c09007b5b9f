"""Which cables the flows of a collective share: leaves and spines, rails, hashed or spread routing.

    fabric = LeafSpine(nodes=32, cards=8, nodes_per_leaf=4)              # all cards of a node on one leaf
    rails = LeafSpine(nodes=32, cards=8, nodes_per_leaf=32, rails=True)  # card r of every node on leaf r
    slowdown(fabric, ring_flows(fabric), rng=random.Random(0))

Every card sends as fast as it can; a time here is in units of what one card needs for its own bytes, so that 1 is an
idle fabric and 2 a cable that two cards share. A collective ends with its slowest flow: its slowdown is the largest
load of any cable that it uses, divided by that cable's share of its rate.

Left out: queues, congestion control, and the end of short flows, which gives the others more room. Where flows carry
the same bytes and start together, as in a ring, the busiest cable has the last word all the same.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from distlab.errors import SettingError

Card = tuple[int, int]
"""(node, card), both from 0."""
Flow = tuple[Card, Card]
"""From a card to another."""
Link = tuple[Literal["out", "in", "up", "down"], int, int]
"""`out` of a card and `in` to it: node, card. `up` from a leaf, `down` to it: leaf, spine."""
Routing = Literal["hash", "spread"]
"""`hash`: a flow keeps to the spine that a hash chose (ECMP). `spread`: evenly over all (adaptive routing)."""


@dataclass(frozen=True)
class LeafSpine:
    """Two tiers of switches; every leaf has one cable to each spine."""

    nodes: int
    cards: int
    """Network cards of a node."""
    nodes_per_leaf: int
    rails: bool = False
    """Card r of the nodes of a group hangs on their leaf r; otherwise all cards of a node hang on one leaf."""
    oversubscription: float = 1.0
    """Cables from cards to a leaf, per cable from there to a spine."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cards", "nodes_per_leaf"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise SettingError(
                    f"{name} is {getattr(self, name)}; it must be a whole number of 1 or more."
                )
        if not self.oversubscription > 0 or self.spines < 1:
            raise SettingError(
                f"oversubscription is {self.oversubscription}; it must be above 0 and leave each leaf "
                f"at least one of its {self.ports_down} cables to a spine."
            )

    @property
    def ports_down(self) -> int:
        """Of a leaf, to cards."""
        return self.nodes_per_leaf * (1 if self.rails else self.cards)

    @property
    def spines(self) -> int:
        """As many as a leaf has cables up."""
        return int(self.ports_down / self.oversubscription)

    @property
    def leaves(self) -> int:
        groups = -(-self.nodes // self.nodes_per_leaf)
        return groups * (self.cards if self.rails else 1)

    def leaf(self, card: Card) -> int:
        """On which a card hangs."""
        node, index = card
        if not (0 <= node < self.nodes and 0 <= index < self.cards):
            raise SettingError(f"card {card} is not one of {self.nodes} nodes with {self.cards} cards each.")
        group = node // self.nodes_per_leaf
        return group * self.cards + index if self.rails else group


def ring_flows(fabric: LeafSpine, order: Sequence[int] | None = None) -> list[Flow]:
    """Of a ring all-reduce over whole nodes: each node's card r sends to card r of the node after it.

    order: the nodes as the ring visits them; by default as they are numbered, which is by leaf.
    """
    nodes = list(range(fabric.nodes)) if order is None else list(order)
    after = nodes[1:] + nodes[:1]
    return [((a, r), (b, r)) for a, b in zip(nodes, after, strict=True) for r in range(fabric.cards)]


def pair_flows(
    fabric: LeafSpine, pairs: Iterable[tuple[int, int]], cards: Sequence[int] | None = None
) -> list[Flow]:
    """Pairs of nodes that exchange both ways, over these of their cards, or all."""
    both = [(x, y) for a, b in pairs for x, y in ((a, b), (b, a))]
    return [((a, r), (b, r)) for a, b in both for r in (range(fabric.cards) if cards is None else cards)]


def loads(
    fabric: LeafSpine,
    flows: Sequence[Flow],
    routing: Routing = "hash",
    queue_pairs: int = 1,
    rng: random.Random | None = None,
) -> list[dict[Link, float]]:
    """For each flow its cables, and what part of the flow each carries.

    queue_pairs: of each flow, hashed apart, with equal parts of its bytes. rng: in place of the switches' hash.
    """
    if routing not in get_args(Routing):
        raise SettingError(f"routing is {routing!r}; it must be one of {', '.join(get_args(Routing))}.")
    if queue_pairs < 1:
        raise SettingError(f"queue_pairs is {queue_pairs}; it must be 1 or more.")
    rng = rng or random.Random(0)
    found = []
    for source, target in flows:
        parts: dict[Link, float] = defaultdict(float)
        parts["out", *source] = parts["in", *target] = 1.0
        first, last = fabric.leaf(source), fabric.leaf(target)
        if first != last:
            spines = range(fabric.spines)
            chosen = spines if routing == "spread" else [rng.choice(spines) for _ in range(queue_pairs)]
            for spine in chosen:
                parts["up", first, spine] += 1 / len(chosen)
                parts["down", last, spine] += 1 / len(chosen)
        found.append(dict(parts))
    return found


def flow_times(
    parts: Sequence[Mapping[Link, float]], shares: Mapping[Link, float] | None = None
) -> list[float]:
    """How long each flow takes, all at once, per that of a flow that is alone: the load of its busiest cable.

    parts: of `loads`. shares: of its rate that a cable still has; 1 where nothing is said.
    """
    shares = shares or {}
    total: dict[Link, float] = defaultdict(float)
    for flow in parts:
        for link, part in flow.items():
            total[link] += part
    return [max(total[link] / shares.get(link, 1.0) for link in flow) for flow in parts]


def slowdown(
    fabric: LeafSpine,
    flows: Sequence[Flow],
    routing: Routing = "hash",
    queue_pairs: int = 1,
    shares: Mapping[Link, float] | None = None,
    rng: random.Random | None = None,
) -> float:
    """Of a collective whose flows start together: the time of its slowest flow, per that on an idle fabric."""
    return max(flow_times(loads(fabric, flows, routing, queue_pairs, rng), shares))


def pair_matrix(
    fabric: LeafSpine,
    rounds: Iterable[Iterable[tuple[int, int]]],
    routing: Routing = "hash",
    queue_pairs: int = 1,
    shares: Mapping[Link, float] | None = None,
    rng: random.Random | None = None,
    cards: Sequence[int] | None = None,
) -> list[list[float]]:
    """Rate of every pair of nodes, as a share of that of an idle fabric, where all pairs of a round exchange at once.

    rounds: such as `distlab.bench.pairs.rounds`. 1.0 on the diagonal and for pairs of no round.
    """
    matrix = [[1.0] * fabric.nodes for _ in range(fabric.nodes)]
    for pairs in rounds:
        flows = pair_flows(fabric, pairs, cards)
        for ((a, _), (b, _)), time in zip(
            flows, flow_times(loads(fabric, flows, routing, queue_pairs, rng), shares), strict=True
        ):
            matrix[a][b] = matrix[b][a] = min(matrix[a][b], 1 / time)
    return matrix
