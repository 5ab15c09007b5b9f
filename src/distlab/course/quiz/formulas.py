"""Formulas that question banks use and `distlab.predict` has no need of. Pure functions of numbers, in SI units."""

from __future__ import annotations

import math

WARP = 32
REGISTERS = 65_536
"""32-bit registers of a multiprocessor, compute capability 5.0 to 10.0 (CUDA C++ Programming Guide)."""
REGISTER_UNIT = 256
"""Registers are given to a warp in multiples of this (the CUDA occupancy calculator's table)."""
BLOCKS = 32
"""Blocks that a multiprocessor holds at most, compute capability 8.0 and 9.0."""


def ridge_flop_per_byte(flops: float, memory_Bps: float) -> float:  # noqa: N803 - the unit is part of the name
    """FLOP per byte from which on arithmetic is the limit, not memory (Williams et al., Roofline, 2009)."""
    return flops / memory_Bps


def stream_s(elements: float, element_bytes: int, arrays: int, memory_Bps: float) -> float:  # noqa: N803
    """Seconds of an element-wise kernel that reads or writes `arrays` arrays once each, bound by memory."""
    return elements * element_bytes * arrays / memory_Bps


def resident_warps(registers_per_thread: int, threads_per_block: int, most_warps: int = 64) -> int:
    """Warps that a multiprocessor holds at once, by its registers, its limit of warps, and whole blocks."""
    of_a_warp = math.ceil(registers_per_thread * WARP / REGISTER_UNIT) * REGISTER_UNIT
    of_a_block = math.ceil(threads_per_block / WARP)
    warps = min(most_warps, REGISTERS // of_a_warp)
    return min(BLOCKS, warps // of_a_block) * of_a_block


def mfu(parameters: float, tokens_per_s: float, gpus: int, peak_flops: float) -> float:
    """Model FLOP utilisation: 6 FLOP per parameter and token, over what the GPUs could do."""
    return 6 * parameters * tokens_per_s / (gpus * peak_flops)


def mean_over_tokens(mean_a: float, tokens_a: int, mean_b: float, tokens_b: int) -> float:
    """The mean loss over all tokens of two ranks, from the means of each."""
    return (mean_a * tokens_a + mean_b * tokens_b) / (tokens_a + tokens_b)


def decayed_after_steps(planned_steps: int, processes: int) -> float:
    """Optimizer steps after which a schedule of `planned_steps` has ended that is stepped once per process."""
    return planned_steps / processes
