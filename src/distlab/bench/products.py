"""Matrix products by data type and size: what a device reaches, not what its datasheet says.

A product of M x K and K x N takes 2 M N K operations and moves, at the least, its operands and its result once.
Operands are random: multiplying zeros or constants flips fewer bits, draws less power, and runs at a higher clock.
Each product is compared with one in float64 at some of its elements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distlab.bench.clock import Clock
from distlab.bench.device import DoesNotFit, fitting, reason
from distlab.bench.measured import Item, Skipped, Unit, row
from distlab.bench.peaks import peak_flops
from distlab.errors import SettingError

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
Data = Literal["random", "zeros", "constant"]

DTYPES: tuple[Dtype, ...] = ("fp32", "tf32", "bf16", "fp16", "int8", "fp8")
GPU_SIZES = ("1024", "2048", "4096", "8192", "16384", "2048x13312x2048")
"""The last one is the shape that did best on an H100 in the search of `stas00/ml-engineering`."""
CPU_SIZES = ("128", "256", "512", "1024", "2048")
TOO_LONG = 4
"""A call that would take this many times the budget is not made: half precision is emulated on many CPUs."""
GROWTH = 1.5
"""That call's time is guessed from the size before, with so much more than the operations would have it."""
SIDE_MOST = 2**20
CHECKED = 16
"""So many rows and columns of a result are compared."""

_TYPES: dict[Dtype, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "tf32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "int8": (torch.int8, torch.int32),
    "fp8": (torch.float8_e4m3fn, torch.bfloat16),
}
"""Of the operands and of the result."""

_ALLOWED_ERROR: dict[Dtype, float] = {
    "fp32": 1e-4,
    "tf32": 5e-3,
    "bf16": 2e-2,
    "fp16": 5e-3,
    "int8": 0.0,
    "fp8": 5e-2,
}
"""Relative. Rounding of the result and of the sums: far above it the product is wrong."""

_CAPABILITY: dict[Dtype, tuple[int, int]] = {"tf32": (8, 0), "bf16": (8, 0), "int8": (7, 5), "fp8": (8, 9)}
"""The first NVIDIA compute capability whose tensor cores know the type (CUDA C++ programming guide)."""


@dataclass(frozen=True)
class Shape:
    """M x K times K x N."""

    m: int
    k: int
    n: int

    def __str__(self) -> str:
        return f"{self.m} x {self.k} x {self.n}"

    @property
    def flop(self) -> float:
        return 2.0 * self.m * self.n * self.k

    def bytes(self, dtype: Dtype) -> float:
        """Operands read once, result written once."""
        operand, result = (kind.itemsize for kind in _TYPES[dtype])
        return float(operand * (self.m * self.k + self.k * self.n) + result * self.m * self.n)


def parse_shape(text: str) -> Shape:
    """`4096` or `MxKxN`. SettingError for anything else; int8 and fp8 also need multiples of 16."""
    sides = [int(side) for side in re.findall(r"[0-9]{1,7}", text)]
    if not re.fullmatch(r"[0-9]{1,7}(x[0-9]{1,7}x[0-9]{1,7})?", text) or not all(
        1 <= s <= SIDE_MOST for s in sides
    ):
        raise SettingError(
            f"A size is {text!r}; expected a number such as 4096, or MxKxN such as 2048x13312x2048."
        )
    return Shape(*(sides * 3 if len(sides) == 1 else sides))


def unsupported(dtype: Dtype, device: torch.device) -> str | None:
    """Why the device has no such products; None where it has."""
    if device.type != "cuda":
        return {
            "tf32": "a type of GPUs' tensor cores, not of this CPU",
            "fp8": "a type of GPUs' tensor cores, not of this CPU",
        }.get(dtype)
    needed = _CAPABILITY.get(dtype, (0, 0))
    found = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and found < needed:
        return f"its tensor cores need compute capability {needed[0]}.{needed[1]}, this GPU has {found[0]}.{found[1]}"
    return None


def measure_products(
    clock: Clock, dtypes: Sequence[Dtype], shapes: Sequence[Shape], data: Data = "random"
) -> Iterator[Item]:
    """Each type at each shape, by type; what does not fit, is not known or takes too long is a Skipped."""
    for dtype in dtypes:
        if why := unsupported(dtype, clock.device):
            yield Skipped("product", dtype, why)
            continue
        before: tuple[float, float] | None = None
        for shape in shapes:
            what = f"{dtype} {shape}"
            if before and (guess := before[1] * max(1.0, shape.flop / before[0])) * GROWTH > (
                TOO_LONG * clock.budget_s
            ):
                yield Skipped("product", what, f"one product would take about {guess * GROWTH:.1f} s")
                continue
            item = _measured(clock, dtype, shape, data, what)
            if not isinstance(item, Skipped):
                before = (shape.flop, item.median_s)
            yield item


def _measured(clock: Clock, dtype: Dtype, shape: Shape, data: Data, what: str) -> Item:
    device = clock.device
    try:
        # While they are made, operands are in float32 as well.
        needed_bytes = 1.2 * shape.bytes(dtype) + 4 * shape.k * max(shape.m, shape.n)
        with fitting(needed_bytes, device), _fp32_products_as(dtype, device), torch.inference_mode():
            a, b = operands(dtype, shape, data, device)
            call = product(dtype, a, b)
            error = relative_error(a, b, call())
            samples_s = clock.samples(call)
    except DoesNotFit as problem:
        return Skipped("product", what, str(problem))
    except RuntimeError as problem:
        if "CUDA error" in str(
            problem
        ):  # the device is lost to this process: whoever asks next hears the same
            raise
        return Skipped("product", what, f"not to be had here: {reason(problem)}")
    if error > _ALLOWED_ERROR[dtype]:
        return Skipped("product", what, f"its result is wrong: relative error {error:.1g}")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return row(
        "product",
        dtype,
        str(shape),
        samples_s,
        unit_of(dtype, clock),
        flop=shape.flop,
        bytes=shape.bytes(dtype),
        peak=peak_flops(name, dtype),
        data=data,
        relative_error=error,
    )


def unit_of(dtype: str, clock: Clock) -> Unit:
    """Of operations per second, at a size at which figures of such a device are read with ease."""
    if dtype == "int8":
        return "TOP/s" if clock.on_gpu else "GOP/s"
    return "TFLOP/s" if clock.on_gpu else "GFLOP/s"


def operands(dtype: Dtype, shape: Shape, data: Data, device: torch.device) -> tuple[Tensor, Tensor]:
    """(M, K) by rows and (K, N); the second one by columns for int8 and fp8, as cuBLASLt wants it."""
    kind = _TYPES[dtype][0]
    generator = torch.Generator(device).manual_seed(0)

    def filled(*sides: int) -> Tensor:
        if data != "random":
            return torch.full(sides, 0.0 if data == "zeros" else 1.0, device=device).to(kind)
        if dtype == "int8":
            return torch.randint(-128, 128, sides, dtype=kind, device=device, generator=generator)
        return torch.randn(*sides, device=device, generator=generator).to(kind)

    a = filled(shape.m, shape.k)
    if dtype in ("int8", "fp8"):
        return a, filled(shape.n, shape.k).t()
    return a, filled(shape.k, shape.n)


def product(dtype: Dtype, a: Tensor, b: Tensor) -> Callable[[], Tensor]:
    """A call that multiplies them, into the same memory every time."""
    if dtype == "fp8":
        one = torch.ones((), device=a.device)
        return lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    out = torch.empty(a.shape[0], b.shape[1], dtype=_TYPES[dtype][1], device=a.device)
    if dtype == "int8":
        return lambda: torch._int_mm(a, b, out=out)
    return lambda: torch.mm(a, b, out=out)


def relative_error(a: Tensor, b: Tensor, result: Tensor) -> float:
    """Distance of a corner of the result from the product in float64, over the latter's length; 0 for zeros."""
    expected = a[:CHECKED].double() @ b[:, -CHECKED:].double()
    distance = (result[:CHECKED, -CHECKED:].double() - expected).norm()
    length = expected.norm()
    if not bool(torch.isfinite(distance)):
        return float("inf")
    return float(distance / length) if float(length) else float(distance)


@contextmanager
def _fp32_products_as(dtype: Dtype, device: torch.device) -> Iterator[None]:
    """On a GPU, products of float32 in full precision or, for tf32, in TensorFloat-32; then as before."""
    if device.type != "cuda":
        yield
        return
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before
