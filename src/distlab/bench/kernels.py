"""Kernels of several arithmetic intensities, for the roofline: from an element-wise sum to a large product.

Intensity is operations over the bytes that a call must move at the least: each input read once, each result written
once. Times are with cold caches, as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distlab.bench.clock import Clock
from distlab.bench.device import DoesNotFit, fitting
from distlab.bench.measured import Item, Skipped, row
from distlab.bench.products import unit_of

COLUMNS = 16
"""Of the skinny product: what a small batch makes of a linear layer."""


@dataclass(frozen=True)
class Sizes:
    """How large the kernels are on a device: far beyond its caches, but for the small product."""

    vector: int
    matrix: int
    small: int
    large: int


GPU_KERNELS = Sizes(vector=2**27, matrix=16384, small=512, large=8192)
CPU_KERNELS = Sizes(vector=2**24, matrix=4096, small=64, large=1024)


@dataclass(frozen=True)
class Kernel:
    """What to run, and what it amounts to."""

    name: str
    size: str
    flop: float
    bytes: float
    prepare: Callable[[], Callable[[], object]]


def kernels(sizes: Sizes, kind: torch.dtype, device: torch.device) -> Sequence[Kernel]:
    """From the lowest intensity up; nothing is allocated yet."""
    width = kind.itemsize

    def random(*sides: int) -> Tensor:
        return torch.randn(*sides, device=device).to(kind)

    def sum_of_two() -> Callable[[], object]:
        a, b = random(sizes.vector), random(sizes.vector)
        out = torch.empty_like(a)
        return lambda: torch.add(a, b, out=out)

    def product(m: int, k: int, n: int) -> Callable[[], Callable[[], object]]:
        def prepare() -> Callable[[], object]:
            a, b = random(m, k), random(k, n)
            out = torch.empty(m, n, dtype=kind, device=device)
            return lambda: torch.mm(a, b, out=out)

        return prepare

    def gemv() -> Callable[[], object]:
        a, b = random(sizes.matrix, sizes.matrix), random(sizes.matrix)
        out = torch.empty_like(b)
        return lambda: torch.mv(a, b, out=out)

    def reduction() -> Callable[[], object]:
        return random(sizes.vector).sum

    def gemm(name: str, m: int, k: int, n: int) -> Kernel:
        moved = float(width * (m * k + k * n + m * n))
        return Kernel(name, f"{m} x {k} x {n}", 2.0 * m * k * n, moved, product(m, k, n))

    n, square = sizes.vector, sizes.matrix
    return (
        Kernel("element-wise sum", f"{n:,}", float(n), 3.0 * width * n, sum_of_two),
        Kernel("reduction", f"{n:,}", float(n), float(width * n), reduction),
        Kernel(
            "GEMV", f"{square} x {square}", 2.0 * square**2, float(width * (square**2 + 2 * square)), gemv
        ),
        gemm("skinny GEMM", square, square, COLUMNS),
        gemm("small GEMM", *3 * (sizes.small,)),
        gemm("large GEMM", *3 * (sizes.large,)),
    )


def measure_kernels(clock: Clock, sizes: Sizes | None = None) -> Iterator[Item]:
    """In bf16 on a GPU, in fp32 on a CPU: what training computes in there."""
    kind, dtype = (torch.bfloat16, "bf16") if clock.on_gpu else (torch.float32, "fp32")
    for kernel in kernels(sizes or (GPU_KERNELS if clock.on_gpu else CPU_KERNELS), kind, clock.device):
        what = f"{kernel.name} of {kernel.size}"
        try:
            with fitting(4 * kernel.bytes, clock.device), torch.inference_mode():
                samples_s = clock.samples(kernel.prepare())
        except DoesNotFit as problem:
            yield Skipped("kernel", what, str(problem))
            continue
        yield row(
            "kernel",
            f"{kernel.name} {dtype}",
            kernel.size,
            samples_s,
            unit_of(dtype, clock),
            flop=kernel.flop,
            bytes=kernel.bytes,
        )
