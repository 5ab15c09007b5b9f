"""How many switches and cables a network of so many cards takes: fat trees and dragonflies of switches of one size.

fat_tree(1024)      # Wiring(topology="fat tree, 2 tiers", cards=1024, switches=48, cables=1024, ...)
dragonfly(1024)
"""

from __future__ import annotations

from dataclasses import dataclass

from distlab.errors import SettingError


@dataclass(frozen=True)
class Wiring:
    """Of a network at full bandwidth; cables from cards to their first switch are not counted."""

    topology: str
    cards: int
    """Network cards that are connected."""
    most_cards: int
    """That this form holds with switches of this size."""
    switches: int
    cables: int
    """Between switches."""
    long_cables: int
    """Of them, those that span the hall: to a fat tree's uppermost layer, between groups of a dragonfly."""
    hops: int
    """Switches on the longest direct path."""


def fat_tree(cards: int, radix: int = 64) -> Wiring:
    """Non-blocking: half of a switch's ports go down and half up; the last tier has all ports down.

    Two tiers hold radix^2 / 2 cards, three radix^3 / 4. Switches and cables in proportion to the cards.
    Source: Al-Fares, Loukissas, Vahdat, A scalable, commodity data center network architecture (SIGCOMM 2008).
    """
    _check(cards, radix)
    tiers = 1
    while cards > _holds(tiers, radix):
        tiers += 1
    lower = -(-2 * cards // radix)
    switches = (tiers - 1) * lower + -(-cards // radix)
    cables = (tiers - 1) * cards
    long_cables = cards if tiers > 1 else 0
    name = f"fat tree, {tiers} tier{'s' * (tiers > 1)}"
    return Wiring(name, cards, _holds(tiers, radix), switches, cables, long_cables, 2 * tiers - 1)


def dragonfly(cards: int, radix: int = 64) -> Wiring:
    """Balanced: p cards, 2p - 1 switches of its group and p other groups on each switch; radix 4p - 1 or more.

    Groups of 2p switches, each joined to every other one; at most 2 p^2 + 1 groups. Source: Kim, Dally, Scott, Abts,
    Technology-driven, highly-scalable dragonfly topology (ISCA 2008).
    """
    _check(cards, radix)
    p = (radix + 1) // 4
    if p < 1:
        raise SettingError(f"radix is {radix}; a dragonfly needs switches of 3 ports or more.")
    group, most_groups = 2 * p, 2 * p * p + 1
    groups = -(-cards // (group * p))
    most = most_groups * group * p
    if groups > most_groups:
        raise SettingError(f"cards is {cards}; a dragonfly of switches of {radix} ports holds {most}.")
    local = groups * group * (group - 1) // 2
    between = groups * group * p // 2 if groups > 1 else 0
    return Wiring("dragonfly", cards, most, groups * group, local + between, between, 4 if groups > 1 else 2)


def _holds(tiers: int, radix: int) -> int:
    return int(2 * (radix // 2) ** tiers)


def _check(cards: int, radix: int) -> None:
    if type(cards) is not int or cards < 1 or type(radix) is not int or radix < 2 or radix % 2:
        raise SettingError(f"cards is {cards} and radix {radix}; give 1 card or more and an even radix.")
