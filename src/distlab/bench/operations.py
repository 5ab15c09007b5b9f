"""The collectives as they are measured: their buffers, the call, known data and what it must become.

Payload, count, root and the meaning of in place follow nccl-tests: an operation works out of place from one
buffer to another, and in place where its input already lies where its output, or a part of it, will. All-to-all and
send-receive have no in-place form. Send-receive: every rank sends to the next and receives from the one before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from distlab.predict.collectives import Op
from distlab.train.launch import device

Place = Literal["out_of_place", "in_place"]
PLACES: tuple[Place, ...] = get_args(Place)
Redop = Literal["sum", "product", "min", "max", "avg"]
DtypeName = Literal["float32", "float64", "float16", "bfloat16", "int32", "int64", "int8", "uint8"]

OPERATIONS: tuple[Op, ...] = get_args(Op)
REDUCING = frozenset({"all_reduce", "reduce_scatter", "reduce"})
ROOTED = frozenset({"broadcast", "reduce"})
COPIED_FIRST = frozenset({"all_reduce", "broadcast", "reduce"})
"""torch.distributed has them in place only."""
OUT_OF_PLACE_ONLY = frozenset({"all_to_all", "send_recv"})

PERIOD = 1009
"""The known data repeat after so many elements: a prime, so that a block in a wrong place does not look right."""
EXACT = {torch.bfloat16: 2**8, torch.float16: 2**11, torch.int8: 2**7 - 1, torch.uint8: 2**8 - 1}
"""Whole numbers up to this are exact."""
LACKS = re.compile(
    "scalar type|data type|unsupported|not support|cannot use|not implement|can't be cast", re.I
)
"""In what torch and its backends say of an operation or a type that they do not have."""


class LackError(Exception):
    """The backend has no such operation, or not for this dtype; the message is the sentence that says so."""


@dataclass(frozen=True)
class Call:
    """One collective with its buffers on this rank. All ranks call the same functions in the same order."""

    run: Callable[[], object]
    fill: Callable[[], None]
    """Put known data into the buffers, different on each rank."""
    clear: Callable[[], None]
    """Zeros everywhere: in place, sums of anything else would grow from call to call."""
    wrong: Callable[[], int]
    """After `fill` and `run`: elements of this rank that are not what they must be."""
    target: Tensor
    """Where the result lies."""


def direct(operation: Op) -> Place:
    """Where the operation of torch.distributed itself works; the other place needs a copy, or views."""
    return "in_place" if operation in COPIED_FIRST else "out_of_place"


def prepare(operation: Op, place: Place, elements: int, dtype: DtypeName, redop: Redop, root: int) -> Call:
    """Buffers and call of an operation whose payload is `elements`, a multiple of the world size.

    LackError where there is no such operation.
    """
    kind: torch.dtype = getattr(torch, dtype)
    world_size, rank = dist.get_world_size(), dist.get_rank()
    if place == "in_place" and operation in OUT_OF_PLACE_ONLY:
        raise LackError(f"{operation} has no in-place form.")
    if operation == "send_recv" and world_size == 1:
        raise LackError("send_recv needs two ranks.")
    part = elements // world_size
    own = slice(rank * part, (rank + 1) * part)
    op = getattr(dist.ReduceOp, redop.upper())

    whole = torch.zeros(elements, dtype=kind, device=device())
    source, target = whole, whole
    if place == "out_of_place":
        sizes = {"all_gather": (part, elements), "reduce_scatter": (elements, part)}
        given, received = sizes.get(operation, (elements, elements))
        source = whole if given == elements else torch.zeros(given, dtype=kind, device=device())
        target = torch.zeros(received, dtype=kind, device=device())
    elif operation == "all_gather":
        source = whole[own]
    elif operation == "reduce_scatter":
        target = whole[own]

    reduce_in = redop if operation in REDUCING else None
    known = tiled(pattern(rank, kind, reduce_in, world_size), len(source), kind)
    copied = operation in COPIED_FIRST and place == "out_of_place"
    if copied and operation == "broadcast" and rank != root:
        copied = False  # what it holds is not sent
    call = _call(operation, source, target, op, root)

    def copy_and_call() -> None:
        target.copy_(source)
        call()

    def fill() -> None:
        target.zero_()
        source.copy_(known)

    def clear() -> None:
        target.zero_()
        source.zero_()

    def wrong() -> int:
        if operation == "reduce" and rank != root:
            return 0  # no result is promised there
        return differing(target, expected(operation, elements, kind, reduce_in, root), redop)

    return Call(copy_and_call if copied else call, fill, clear, wrong, target)


def _call(
    operation: Op, source: Tensor, target: Tensor, op: dist.ReduceOp.RedOpType, root: int
) -> Callable[[], object]:
    """The bare call of torch.distributed."""
    match operation:
        case "all_reduce":
            return lambda: dist.all_reduce(target, op)
        case "broadcast":
            return lambda: dist.broadcast(target, src=root)
        case "reduce":
            return lambda: dist.reduce(target, dst=root, op=op)
        case "all_gather":
            return lambda: dist.all_gather_single(target, source)
        case "reduce_scatter":
            return lambda: dist.reduce_scatter_single(target, source, op)
        case "all_to_all":
            return lambda: dist.all_to_all_single(target, source)
        case "send_recv":
            world_size, rank = dist.get_world_size(), dist.get_rank()
            both = [
                dist.P2POp(dist.isend, source, (rank + 1) % world_size),
                dist.P2POp(dist.irecv, target, (rank - 1) % world_size),
            ]

            def send_and_receive() -> None:
                for work in dist.batch_isend_irecv(both):
                    work.wait()

            return send_and_receive


def attempt(operation: Op, place: Place, dtype: DtypeName, redop: Redop, root: int) -> None:
    """Try the operation on a few elements. LackError where the backend does not have it."""
    call = prepare(operation, place, dist.get_world_size(), dtype, redop, root)
    try:
        call.run()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not LACKS.search(said):
            raise
        reduces = f" with {redop}" if operation in REDUCING else ""
        raise LackError(
            f"{dist.get_backend()} has no {operation} of {dtype}{reduces} ({said.rstrip('.')[:120]})."
        ) from None


def pattern(rank: int, dtype: torch.dtype, redop: Redop | None, world_size: int) -> Tensor:
    """The known data of a rank, float64 of shape [PERIOD]: whole numbers whose reduction is exact in `dtype`."""
    i = torch.arange(PERIOD)
    mixed = (5 * i * i + 31 * i + 57 * rank * (i + 1)) % PERIOD
    turn = (rank + i) % world_size
    exact = EXACT.get(dtype, 2**20)
    match redop:
        case None:
            values = mixed % 113 + 1
        case "min" | "max":
            values = mixed % 7 + 1
        case "sum":  # so many ranks have something to add that the sum stays exact
            values = torch.where(turn < exact // 7, mixed % 7 + 1, 0)
        case "product":  # plus or minus one, and of one rank two
            sign = 1 if dtype == torch.uint8 else 1 - 2 * (mixed % 2)
            values = torch.where(turn == 0, 2, 1) * sign
        case "avg":  # what one rank has more than the average, its neighbour has less
            level = i % max(1, min(7, exact // world_size - 2)) + 2
            paired = rank < world_size // 2 * 2
            values = level + (1 - 2 * (rank % 2)) * paired
    return values.to(torch.float64)


def reduced(dtype: torch.dtype, redop: Redop, world_size: int) -> Tensor:
    """What the data of all ranks reduce to, float64 of shape [PERIOD]."""
    total = pattern(0, dtype, redop, world_size)
    for rank in range(1, world_size):
        more = pattern(rank, dtype, redop, world_size)
        match redop:
            case "sum" | "avg":
                total = total + more
            case "product":
                total = total * more
            case "min":
                total = torch.minimum(total, more)
            case "max":
                total = torch.maximum(total, more)
    return total / world_size if redop == "avg" else total


def expected(operation: Op, elements: int, dtype: torch.dtype, redop: Redop | None, root: int) -> Tensor:
    """What the output of this rank must hold after the operation on known data (for reduce: the root's)."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    part = elements // world_size

    def of(rank: int, count: int, start: int = 0) -> Tensor:
        return tiled(pattern(rank, dtype, redop, world_size), count, dtype, start)

    match operation:
        case "all_reduce" | "reduce":
            assert redop is not None
            return tiled(reduced(dtype, redop, world_size), elements, dtype)
        case "reduce_scatter":
            assert redop is not None
            return tiled(reduced(dtype, redop, world_size), part, dtype, rank * part)
        case "all_gather":
            return torch.cat([of(peer, part) for peer in range(world_size)])
        case "all_to_all":
            return torch.cat([of(peer, part, rank * part) for peer in range(world_size)])
        case "broadcast":
            return of(root, elements)
        case "send_recv":
            return of((rank - 1) % world_size, elements)


def tiled(values: Tensor, count: int, dtype: torch.dtype, start: int = 0) -> Tensor:
    """`count` elements of the repeated values, from `start` on, on this rank's device."""
    turned = values.roll(-(start % PERIOD)).to(device(), dtype)
    return turned.repeat(math.ceil(count / PERIOD))[:count]


def differing(delivered: Tensor, wanted: Tensor, redop: Redop) -> int:
    """Elements that differ; an average may be rounded at each of its steps."""
    if redop == "avg" and delivered.is_floating_point():
        slack = 2 * dist.get_world_size() * torch.finfo(delivered.dtype).eps
        close = torch.isclose(delivered.double(), wanted.double(), rtol=slack, atol=0)
        return int((~close).sum())
    return int((delivered != wanted).sum())
