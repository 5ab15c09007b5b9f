"""Units: names for plain numbers, and values that carry their unit.

A bare number in this package is in bytes, seconds, bytes per second or FLOP per second. Links are sold in Gb/s
(10^9 bits) and memories in GB (10^9 bytes) or GiB (2^30 bytes); mixing them up costs a factor of 8 or 7%. Convert at
the edge, with these names, or keep the unit with the value:

    network = Bandwidth.gigabits_per_s(400)
    nvlink = Bandwidth.gigabytes_per_s(450)
    network < nvlink                              # True: 50 GB/s against 450
    Size.gigabytes(10).seconds_at(network)        # 0.2
    network + 450                                 # TypeError, and mypy refuses it too

A value with a unit is made only by naming the unit, adds up and compares only with its own kind, and gives a plain
number only where the unit is named again (`network.bytes_per_s`).
"""

from __future__ import annotations

import math
from typing import Self, overload

from distlab.errors import SettingError

KB, MB, GB, TB = 10**3, 10**6, 10**9, 10**12
KIB, MIB, GIB = 2**10, 2**20, 2**30
BITS_PER_BYTE = 8
DAY_S = 86_400


def bytes_per_s(gigabits_per_s: float) -> float:
    """A rate in Gb/s (10^9 bits per second) as bytes per second: 400 Gb/s is 50e9 B/s."""
    return gigabits_per_s * 1e9 / BITS_PER_BYTE


def gigabits_per_s(bytes_per_second: float) -> float:
    """A rate in bytes per second as Gb/s (10^9 bits per second): 50e9 B/s is 400 Gb/s."""
    return bytes_per_second * BITS_PER_BYTE / 1e9


class Quantity:
    """A number of 0 or more with a unit; `infinite` is a limit, not a number is none. Immutable."""

    __slots__ = ("_value",)
    _value: float
    """In the unit of the subclass's own plain name."""

    def __init__(self) -> None:
        raise TypeError(
            f"{type(self).__name__} is made by naming a unit, such as {type(self).__name__}.{self._example()}."
        )

    @classmethod
    def _example(cls) -> str:
        raise NotImplementedError

    @classmethod
    def _of(cls, value: float, scale: float) -> Self:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
            raise SettingError(f"{cls.__name__} is {value!r}; it is a number of 0 or more.")
        made = object.__new__(cls)
        object.__setattr__(made, "_value", float(value) * scale)
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed; make another one.")

    def __reduce__(self) -> tuple[object, tuple[float, float]]:
        return type(self)._of, (self._value, 1.0)

    def __add__(self, other: Self) -> Self:
        return self._of(self._value + other._value, 1.0) if type(other) is type(self) else NotImplemented

    def __sub__(self, other: Self) -> Self:
        """SettingError below 0."""
        return self._of(self._value - other._value, 1.0) if type(other) is type(self) else NotImplemented

    def __mul__(self, factor: float) -> Self:
        return self._of(self._value * factor, 1.0) if isinstance(factor, int | float) else NotImplemented

    __rmul__ = __mul__

    @overload
    def __truediv__(self, other: Self) -> float: ...
    @overload
    def __truediv__(self, other: float) -> Self: ...
    def __truediv__(self, other: Self | float) -> Self | float:
        """A share, as a plain number, of its own kind; a part of it by a number."""
        if isinstance(other, int | float):
            return self._of(self._value / other, 1.0)
        return self._value / other._value if type(other) is type(self) else NotImplemented

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._value == other._value

    def __hash__(self) -> int:
        return hash((type(self), self._value))

    def __lt__(self, other: Self) -> bool:
        return self._value < other._value if type(other) is type(self) else NotImplemented

    def __le__(self, other: Self) -> bool:
        return self._value <= other._value if type(other) is type(self) else NotImplemented

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class Bandwidth(Quantity):
    """Bytes per second, one way."""

    __slots__ = ()

    @classmethod
    def _example(cls) -> str:
        return "gigabits_per_s(400) or .gigabytes_per_s(50)"

    @classmethod
    def gigabits_per_s(cls, value: float) -> Self:
        """From Gb/s, 10^9 bits per second: how networks are sold."""
        return cls._of(value, 1e9 / BITS_PER_BYTE)

    @classmethod
    def gigabytes_per_s(cls, value: float) -> Self:
        """From GB/s, 10^9 bytes per second: how memories, NVLink and PCIe are sold."""
        return cls._of(value, 1e9)

    @classmethod
    def of_bytes_per_s(cls, value: float) -> Self:
        return cls._of(value, 1.0)

    @property
    def bytes_per_s(self) -> float:
        return self._value

    @property
    def in_gigabits_per_s(self) -> float:
        return gigabits_per_s(self._value)

    @property
    def in_gigabytes_per_s(self) -> float:
        return self._value / 1e9

    def __str__(self) -> str:
        return f"{self.in_gigabytes_per_s:.4g} GB/s ({self.in_gigabits_per_s:.5g} Gb/s)"


class Size(Quantity):
    """Bytes."""

    __slots__ = ()

    @classmethod
    def _example(cls) -> str:
        return "gigabytes(80) or .gibibytes(32)"

    @classmethod
    def gigabytes(cls, value: float) -> Self:
        """From GB, 10^9 bytes."""
        return cls._of(value, GB)

    @classmethod
    def gibibytes(cls, value: float) -> Self:
        """From GiB, 2^30 bytes."""
        return cls._of(value, GIB)

    @classmethod
    def of_bytes(cls, value: float) -> Self:
        return cls._of(value, 1.0)

    @property
    def bytes(self) -> float:
        return self._value

    @property
    def in_gigabytes(self) -> float:
        return self._value / GB

    @property
    def in_gibibytes(self) -> float:
        return self._value / GIB

    def seconds_at(self, bandwidth: Bandwidth) -> float:
        """How long so many bytes take. SettingError where none ever arrives."""
        if bandwidth.bytes_per_s == 0:
            raise SettingError("Bandwidth is 0; it must be above that for anything to arrive.")
        return self._value / bandwidth.bytes_per_s

    def __str__(self) -> str:
        return f"{self.in_gigabytes:.4g} GB ({self.in_gibibytes:.4g} GiB)"


class ComputeRate(Quantity):
    """FLOP per second; of int8, operations per second."""

    __slots__ = ()

    @classmethod
    def _example(cls) -> str:
        return "tera(989)"

    @classmethod
    def tera(cls, value: float) -> Self:
        """From TFLOP/s, 10^12 FLOP per second."""
        return cls._of(value, 1e12)

    @property
    def flop_per_s(self) -> float:
        return self._value

    @property
    def in_tera(self) -> float:
        return self._value / 1e12

    def __str__(self) -> str:
        return f"{self.in_tera:.5g} TFLOP/s"
