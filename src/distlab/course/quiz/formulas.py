"""Formulas that question banks use and `distlab.predict` has no need of. Pure functions of numbers, in SI units."""

from __future__ import annotations

import math

from distlab.predict.collectives import Link, bus_bandwidth_factor
from distlab.predict.scaling import bucket_timeline

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


def zero3_gpus(batch_tokens: float, flops: float, card_Bps: float, node_gpus: int = 8) -> float:  # noqa: N803
    """GPUs up to which ZeRO-3 gathers hide, a batch being one micro-batch: g D B / F (chapter 1 of MOD-202).

    A node of g GPUs takes in 2 bytes of each parameter over its g cards while it does 2 FLOP for each and every token
    of its share of the batch. flops, card_Bps: of one GPU and of its card.
    """
    return node_gpus * batch_tokens * card_Bps / flops


def late_buckets_s(backward_s: float, buckets: int, all_reduce_s: float) -> float:
    """Seconds from the end of the backward pass to that of DDP's last all-reduce; `all_reduce_s` for each bucket."""
    return bucket_timeline(backward_s, [1.0] * buckets, [all_reduce_s] * buckets)[-1].end_s - backward_s


def low_rank_factor(rows: int, columns: int, rank: int) -> float:
    """How many times fewer numbers two factors of a matrix have (PowerSGD: Vogels et al., NeurIPS 2019)."""
    return rows * columns / (rank * (rows + columns))


def pat_all_gather_s(payload_bytes: float, ranks: int, link: Link) -> float:
    """ceil(log2 n) alpha + (n-1)/n S/B: NCCL's PAT, one GPU to a node (Jeaugey, 2025)."""
    moved_bytes = bus_bandwidth_factor("all_gather", ranks) * payload_bytes
    return math.ceil(math.log2(ranks)) * link.alpha_s + moved_bytes / link.bandwidth_Bps


def none_share_probability(flows: int, cables: int) -> float:
    """Probability that no two of `flows`, each on a cable drawn at random, are on the same one (the birthdays)."""
    return math.prod((cables - taken) / cables for taken in range(flows))


def running_sum(addend: float, times: int, fraction_bits: int) -> float:
    """`addend` added up so often, each sum rounded to nearest (ties to even) to so many bits of fraction.

    One number after the other, as a program does; range is not limited.
    """
    total = 0.0
    for _ in range(times):
        fraction, exponent = math.frexp(total + addend)  # 0.5 <= fraction < 1
        total = math.ldexp(round(math.ldexp(fraction, fraction_bits + 1)), exponent - fraction_bits - 1)
    return total


def lost_from_step(weight: float, peak_rate: float, steps: int, fraction_bits: int = 7) -> float:
    """Step from which no update moves a weight that is stored in so many bits of fraction and rounded to nearest.

    Adam's updates are about the learning rate, which falls from `peak_rate` to 0 over `steps`, linearly. Half a unit
    in the last place of a number is more than 2^-(f+2) of it.
    """
    return steps * (1 - math.ldexp(weight, -(fraction_bits + 2)) / peak_rate)


def largest_save_s(mtbf_s: float, lost_share: float, standstill_s: float) -> float:
    """Seconds that a save may stop training, so that no more than `lost_share` of the time is lost, to first order.

    A failure's allowance, share x M, pays for sqrt(2 C M) at Young's interval and for the standstill: background
    write, detection and restart. Solved for C (chapter 6 of MOD-202).
    """
    return (lost_share * mtbf_s - standstill_s) ** 2 / (2 * mtbf_s)
