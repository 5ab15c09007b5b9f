"""Units. A bare number in this package is in bytes, seconds, bytes per second or FLOP per second.

Links are sold in Gb/s (10^9 bits) and memories in GB (10^9 bytes) or GiB (2^30 bytes); mixing them up
costs a factor of 8 or 7%. Convert at the edge, with these names.
"""

from __future__ import annotations

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB = 2**10, 2**20, 2**30
BITS_PER_BYTE = 8


def bytes_per_s(gigabits_per_s: float) -> float:
    """A rate in Gb/s (10^9 bits per second) as bytes per second: 400 Gb/s is 50e9 B/s."""
    return gigabits_per_s * 1e9 / BITS_PER_BYTE


def gigabits_per_s(bytes_per_second: float) -> float:
    """A rate in bytes per second as Gb/s (10^9 bits per second): 50e9 B/s is 400 Gb/s."""
    return bytes_per_second * BITS_PER_BYTE / 1e9
