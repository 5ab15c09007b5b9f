"""Arithmetic of narrow formats, emulated in fp32: stochastic rounding, FP8 with scales, sums with few bits.

    weights = round_stochastically(weights, generator)          # to a bf16 neighbour, right on average
    activations = scaled(activations, torch.float8_e4m3fn, block=128)
    c = product_with_short_sums(a, b, bits=14, promote_every=128)

Values stay in fp32 tensors and lie on the grid of the format, so that any CPU computes with them: it shows what a
format loses, never what it gains.
"""

from __future__ import annotations

import torch
from torch import Tensor

BF16_DROPS = 16
"""Bits of an fp32 number that bf16 does not have: the lower half."""


def round_stochastically(x: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 `x` on the grid of bf16: up or down at random, so that the mean is `x` (Gupta et al., 2015, section 3.1).

    A bf16 number is the upper half of an fp32 one. Adding a uniform random number to the lower half carries into the
    upper one with the probability that the lower half is of a unit there. Infinities and nan stay as they are.
    """
    noise = torch.randint(0, 1 << BF16_DROPS, x.shape, dtype=torch.int32, generator=generator)
    moved = ((x.view(torch.int32) + noise) & -(1 << BF16_DROPS)).view(torch.float32)
    return torch.where(x.isfinite(), moved, x)


def scaled(
    x: Tensor,
    dtype: torch.dtype,
    *,
    block: int | None = None,
    power_of_two: bool = False,
    amax: float | None = None,
) -> Tensor:
    """`x` as its products see it after a cast to `dtype` with a scale, and back.

    The scale brings the largest magnitude to the largest value of `dtype`. It is one for the tensor, or one for every
    `block` values in the order of memory (ValueError where they do not divide `x`). `amax`: take this for the largest
    magnitude of the tensor, as delayed scaling does; what exceeds it is clipped. `power_of_two`: round scales down to
    one, as the scales of MX formats are.
    """
    if block and x.numel() % block:
        raise ValueError(f"block is {block}, which does not divide the {x.numel()} values; take a divisor.")
    if block and amax is not None:
        raise ValueError("amax is for one scale of the whole tensor; leave block out, or amax.")
    top = torch.finfo(dtype).max
    rows = x.float().reshape(-1, block) if block else x.float().reshape(1, -1)
    largest = rows.abs().amax(1, keepdim=True) if amax is None else torch.tensor(amax)
    scale = top / largest.clamp_min(torch.finfo(torch.float32).tiny)
    if power_of_two:
        scale = scale.log2().floor().exp2()
    return ((rows * scale).clamp(-top, top).to(dtype).float() / scale).reshape(x.shape)


def product_with_short_sums(
    a: Tensor, b: Tensor, bits: int, *, promote_every: int | None = None, step: int = 32
) -> Tensor:
    """(M, K) by (K, N) with running sums of `bits` significant bits, cut off after every `step` products.

    `promote_every`: after so many products the running sum is added to one in fp32 and begins anew (DeepSeek-V3,
    2024, section 3.3.2). It is a multiple of `step`.
    """
    if promote_every and promote_every % step:
        raise ValueError(f"promote_every is {promote_every}; it is a multiple of step, {step}.")
    total = torch.zeros(a.shape[0], b.shape[1])
    running = torch.zeros_like(total)
    for k in range(0, a.shape[1], step):
        running = _cut(running + a[:, k : k + step] @ b[k : k + step], bits)
        if promote_every and (k + step) % promote_every == 0:
            total, running = total + running, torch.zeros_like(running)
    return total + running


def _cut(x: Tensor, bits: int) -> Tensor:
    """Towards zero, to `bits` significant bits."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.trunc(fraction * 2**bits) / 2**bits, exponent)
