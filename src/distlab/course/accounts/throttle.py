"""How fast passwords may be guessed.

Failures are counted in two ways: per account and source (tight), and per source over all accounts (loose: a
whole class may sit behind one address). Beyond a few free ones each further failure doubles the wait before
the next attempt is looked at. Because no count is kept per account alone, nobody can lock a person out from
elsewhere.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LOOPBACK_PROXY = "127.0.0.1"
"""The one peer whose X-Forwarded-For is believed: the proxy, and the gate in front of the sandboxes."""


@dataclass(frozen=True)
class Limit:
    """`free` failures cost nothing; then the wait doubles from 1 s up to `cap_s`. One failure fades per
    `fade_s`."""

    free: int
    cap_s: float
    fade_s: float


PER_ACCOUNT = Limit(free=4, cap_s=900, fade_s=900)
"""Four slips, then at most about a hundred guesses a day."""
PER_SOURCE = Limit(free=60, cap_s=60, fade_s=20)
"""A class's worth of slips, then about three a minute over all accounts."""


class Throttle:
    """Counts of failures, in memory, at most `entries` of them: the oldest are forgotten first.

    An attempt is counted as failed before its password is looked at, and given back if it was right:
    otherwise a hundred attempts sent at once would all pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, entries: int = 20_000) -> None:
        self._clock = clock
        self._entries = entries
        self._counts: OrderedDict[tuple[str, ...], _Count] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counts)

    def attempt(self, account: str | None, source: str) -> float:
        """Count an attempt and return 0, or return the seconds to wait, counting nothing.

        `account` None stands for what concerns no account (a sign-up, a one-time link).
        """
        keys = self._keys(account, source)
        wait_s = max(self._wait_s(key, limit) for key, limit in keys)
        if wait_s == 0:
            now = self._clock()
            for key, limit in keys:
                self._set(key, _Count(self._faded(key, limit) + 1, now, wait_since=now))
        return wait_s

    def succeeded(self, account: str | None, source: str) -> None:
        """Give the attempt back; a right password also forgets the failures for this account from this
        source."""
        for key, limit in self._keys(account, source):
            if key[0] == "account":
                self._counts.pop(key, None)
            else:
                self._set(key, _Count(self._faded(key, limit) - 1, self._clock(), wait_since=-math.inf))

    def _keys(self, account: str | None, source: str) -> list[tuple[tuple[str, ...], Limit]]:
        keys: list[tuple[tuple[str, ...], Limit]] = [(("source", source), PER_SOURCE)]
        if account is not None:
            keys.append((("account", account, source), PER_ACCOUNT))
        return keys

    def _faded(self, key: tuple[str, ...], limit: Limit) -> float:
        """The failures that still count now."""
        count = self._counts.get(key)
        return 0.0 if count is None else max(0.0, count.failures - (self._clock() - count.at) / limit.fade_s)

    def _set(self, key: tuple[str, ...], count: _Count) -> None:
        self._counts.pop(key, None)
        if count.failures > 0:
            self._counts[key] = count
        if len(self._counts) > self._entries:
            self._counts.popitem(last=False)

    def _wait_s(self, key: tuple[str, ...], limit: Limit) -> float:
        over = math.ceil(self._faded(key, limit)) - limit.free
        if over < 1:
            return 0.0
        delay_s = min(limit.cap_s, 2.0 ** min(over - 1, 30))
        return max(0.0, self._counts[key].wait_since + delay_s - self._clock())


@dataclass(frozen=True)
class _Count:
    failures: float
    at: float
    wait_since: float


def source_of(peer: str, forwarded_for: list[str]) -> str:
    """The address that a request came from.

    Args:
        peer: address at the other end of the connection.
        forwarded_for: the values of its X-Forwarded-For headers. configurable-http-proxy appends the address
            that it saw, so that only the last entry is true; the ones before it, and X-Real-Ip, are the
            client's words.

    An IPv6 source stands for its /64, of which one customer has all addresses.
    """
    claimed = ",".join(forwarded_for).rsplit(",", 1)[-1].strip()
    address = claimed if peer == LOOPBACK_PROXY and claimed else peer
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
