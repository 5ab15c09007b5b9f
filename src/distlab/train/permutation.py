"""A random order of any number of samples, of which a part can be had without the rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHUFFLED = 2**22
"""Up to so many numbers are shuffled in memory (32 MB)."""
ROUNDS = 6


class Permutation:
    """The numbers 0 to `count` - 1 in random order.

    More than SHUFFLED of them are never written down: a cipher turns the place in the order into the number there.
    It is a Feistel network (Luby and Rackoff, 1988, How to Construct Pseudorandom Permutations from Pseudorandom
    Functions) on the least even number of bits that holds `count`. A result beyond `count` is enciphered again until
    it is below (Black and Rogaway, 2002, Ciphers with Arbitrary Finite Domains), about four times at most on average.
    """

    def __init__(self, count: int, random: np.random.Generator, shuffled: int = SHUFFLED) -> None:
        self.count = count
        self._order = random.permutation(count) if count <= shuffled else None
        self._keys = random.integers(2**64, size=ROUNDS, dtype=np.uint64) if self._order is None else None
        self._half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))

    def part(self, start: int, stop: int) -> NDArray[np.int64]:
        """The numbers at the places from `start` to before `stop`, or to the last."""
        if self._order is not None:
            return self._order[start:stop]
        numbers = self._encipher(np.arange(start, min(stop, self.count), dtype=np.uint64))
        while (beyond := numbers >= self.count).any():
            numbers[beyond] = self._encipher(numbers[beyond])
        return numbers.astype(np.int64)

    def _encipher(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        assert self._keys is not None
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & mask)
        return (left << self._half) | right


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of the number: the finaliser of SplitMix64 (see data.py)."""
    u64 = np.uint64
    z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
    return z ^ (z >> u64(31))
