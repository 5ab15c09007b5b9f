"""Reasons for a low clock as the bits that NVML gives and DCGM exports."""

from __future__ import annotations

from collections.abc import Iterable

from distlab.observe.sample import ThrottleReason

THROTTLE_BITS: dict[ThrottleReason, int] = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
}
"""NVML's nvmlClocksEventReason* constants (nvml.h)."""


def throttle_mask(reasons: Iterable[ThrottleReason]) -> int:
    """The reasons as NVML's and DCGM's bit mask."""
    return sum(THROTTLE_BITS[reason] for reason in set(reasons))


def throttle_reasons(mask: int) -> tuple[ThrottleReason, ...]:
    """The reasons of a bit mask; bits that later drivers may add are left out."""
    return tuple(reason for reason, bit in THROTTLE_BITS.items() if mask & bit)
