"""Values that cross between two processes as plain data: how they are made, sent and compared."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distlab.course.grade.plain import NUMPY_TYPES, TORCH_TYPES, decode, encode
from distlab.course.grade.wire import Malformed, parse


class Thing:
    """What stands for an object of the other side."""

    def __init__(self, number: int) -> None:
        self.number = number


def no_object(number: int) -> object:
    raise Malformed(f"no object {number}")


def no_number(value: object) -> int:
    raise AssertionError(f"{value!r} became a handle")


def across(value: object) -> Any:
    """`value` after it went through JSON, as it does."""
    tree, blobs = encode(value, no_number)
    return decode(parse(json.dumps({"value": tree}, allow_nan=False).encode())["value"], blobs, no_object)


def same(one: Any, other: Any) -> bool:
    """Of the same types and values all the way down; nan is nan, and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    match one:
        case float() if math.isnan(one):
            return math.isnan(other)
        case float():
            return bool(one == other) and math.copysign(1, one) == math.copysign(1, other)
        case complex():
            return same(one.real, other.real) and same(one.imag, other.imag)
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case dict():
            return same(
                [part for pair in one.items() for part in pair], [p for pair in other.items() for p in pair]
            )
        case set() | frozenset():
            return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
        case slice():
            return same([one.start, one.stop, one.step], [other.start, other.stop, other.step])
        case np.ndarray() | np.generic():
            return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        case torch.Tensor():
            return (
                one.dtype == other.dtype
                and one.shape == other.shape
                and one.requires_grad == other.requires_grad
                and raw(one) == raw(other)
            )
    return bool(one == other)


def raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def tensors() -> st.SearchStrategy[torch.Tensor]:
    def make(name: str, shape: list[int], data: bytes, requires_grad: bool) -> torch.Tensor:
        dtype = getattr(torch, name)
        size = math.prod(shape) * dtype.itemsize
        content = (data * (size // max(1, len(data)) + 1))[:size] if data else bytes(size)
        if name == "bool":
            content = bytes(byte % 2 for byte in content)
        tensor = torch.frombuffer(bytearray(content or b"\0" * 16), dtype=dtype)[: math.prod(shape)].reshape(
            shape
        )
        return tensor.requires_grad_(requires_grad and (dtype.is_floating_point or dtype.is_complex))

    names, shapes = st.sampled_from(TORCH_TYPES), st.lists(st.integers(0, 4), max_size=4)
    return st.builds(make, names, shapes, st.binary(min_size=1, max_size=40), st.booleans())


KEYS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([torch.float32, torch.device("cpu"), torch.device("cuda", 1)]),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
LEAVES = (
    KEYS
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters(), min_size=1024, max_size=1100)
    | st.builds(range, st.integers(-9, 9), st.integers(-99, 99), st.integers(1, 9))
    | st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers())
    | st.sampled_from([*NUMPY_TYPES.values()]).flatmap(
        lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, min_side=0))
    )
    | st.sampled_from([*NUMPY_TYPES.values()]).flatmap(lambda t: hnp.from_dtype(t).map(t.type))
    | tensors()
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
    ),
    max_leaves=10,
)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value
