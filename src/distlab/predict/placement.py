"""Where a placement group's bundles go: all of them or none, on nodes that others use, too.

    place([1, 1, 1, 1], free=[3, 1, 4], strategy="PACK")        # node of each bundle, or None: it waits

Ray reserves in two phases: it plans on the GCS's view, asks every node to hold its bundles, and commits only when all
said yes. The plan is modelled here, for one resource. The four strategies: ray 2.60, util/placement_group.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from distlab.errors import SettingError

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]


def place(bundles: Sequence[int], free: Sequence[int], strategy: Strategy) -> list[int] | None:
    """Node of each bundle, largest bundles first; None where the group has to wait.

    PACK: on the node with most of the group that has room, else on the one with most room. SPREAD: on the node with
    least of the group, of these on the one with most room. STRICT_PACK: all on one node, the fullest that holds them.
    STRICT_SPREAD: no two on one.
    """
    if any(size < 1 for size in bundles):
        raise SettingError(f"The bundles are {list(bundles)}; each is a whole number of places, 1 or more.")
    left = list(free)
    if strategy == "STRICT_PACK":
        holds = [node for node, room in enumerate(left) if room >= sum(bundles)]
        return [min(holds, key=lambda node: left[node])] * len(bundles) if holds else None
    found = [-1] * len(bundles)
    for i in sorted(range(len(bundles)), key=lambda i: -bundles[i]):
        fits = [node for node, room in enumerate(left) if room >= bundles[i]]
        if strategy == "STRICT_SPREAD":
            fits = [node for node in fits if node not in found]
        if not fits:
            return None
        sign = 1 if strategy == "PACK" else -1
        found[i] = max(fits, key=lambda node: (sign * found.count(node), left[node]))
        left[found[i]] -= bundles[i]
    return found
