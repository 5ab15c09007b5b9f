"""The known data: what they reduce to is exact, and a wrong, missing or misplaced part shows."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch

from distlab.bench.operations import (
    OPERATIONS,
    PERIOD,
    PLACES,
    REDUCING,
    DtypeName,
    LackError,
    Redop,
    attempt,
    pattern,
    prepare,
    reduced,
)
from distlab.predict.collectives import Op
from distlab.train.launch import launch

DTYPES: tuple[DtypeName, ...] = get_args(DtypeName)
REDOPS: tuple[Redop, ...] = get_args(Redop)


@pytest.mark.parametrize("world_size", [1, 3, 40])
@pytest.mark.parametrize("redop", ["sum", "product", "min", "max"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reductions_are_exact_in_every_order_and_every_rank_matters(
    dtype: DtypeName, redop: Redop, world_size: int
) -> None:
    kind = getattr(torch, dtype)
    parts = [pattern(rank, kind, redop, world_size) for rank in range(world_size)]
    assert all((part.to(kind).double() == part).all() for part in parts)
    combine = getattr(torch, {"sum": "add", "product": "mul", "min": "minimum", "max": "maximum"}[redop])
    order = torch.randperm(world_size, generator=torch.Generator().manual_seed(1)).tolist()
    total = parts[order[0]].to(kind)
    for rank in order[1:]:
        total = combine(total, parts[rank].to(kind))
    assert torch.equal(total.double(), reduced(kind, redop, world_size))
    if world_size > 1 and redop in ("sum", "product"):  # without a rank the result is another
        for rank in range(world_size):
            neutral = torch.zeros(PERIOD) if redop == "sum" else torch.ones(PERIOD)
            assert not torch.equal(parts[rank], neutral.double())


Lack = tuple[Op, DtypeName, Redop, str]


def _all_of_them() -> tuple[list[Lack], dict[str, float]]:
    """On each rank: every operation delivers what it must. What cannot be had, with its sentence; and per operation
    the share of elements that are wrong where the call did nothing."""
    lacks: list[Lack] = []
    undone: dict[str, float] = {}
    for operation, place, dtype, redop in product(OPERATIONS, PLACES, DTYPES, REDOPS):
        if operation not in REDUCING and redop != "sum":
            continue
        try:
            attempt(operation, place, dtype, redop, 1)
        except LackError as lack:
            lacks.append((operation, dtype, redop, str(lack)))
            continue
        call = prepare(operation, place, 3 * 700, dtype, redop, 1)
        call.fill()
        if (place, dtype, redop) == ("out_of_place", "float32", "sum"):
            undone[operation] = call.wrong() / (700 if operation == "reduce_scatter" else 2100)
        call.run()
        assert call.wrong() == 0, (operation, place, dtype, redop)
    return lacks, undone


def test_gloo_delivers_every_operation_rightly_and_what_it_lacks_is_a_sentence() -> None:
    ranks = launch(_all_of_them, 3, backend="gloo", threads_per_rank=1)
    lacks = ranks[0][0]
    assert all(rank[0] == lacks for rank in ranks)
    averages = {(operation, redop) for operation, _, redop, said in lacks if "in-place" not in said}
    assert averages == {(operation, "avg") for operation in REDUCING}
    assert not any(
        dtype.startswith(("float", "bfloat")) and "in-place" not in said for _, dtype, _, said in lacks
    )
    said = {said for *_, said in lacks}
    assert {"all_to_all has no in-place form.", "send_recv has no in-place form."} <= said
    assert any(s.startswith("gloo has no all_reduce of int32 with avg (") for s in said)
    for rank, (_, undone) in enumerate(ranks):
        assert undone.keys() == set(OPERATIONS)
        for operation, share in undone.items():
            # Nothing is promised to other ranks than the root.
            assert share > 0.9 if operation != "reduce" or rank == 1 else share == 0, operation
