"""Values as plain data: the same after crossing, or a handle."""

import collections
import enum
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings

from distlab.course.grade.plain import MAX_BYTES, MAX_DEPTH, MAX_INT_BITS, MAX_ITEMS, decode, encode
from distlab.course.grade.wire import TooLarge
from tests.course.plain_rig import VALUES, Thing, across, nested, no_number, no_object, same


@settings(deadline=None, derandomize=True, max_examples=400)
@given(VALUES)
@example({float("nan"): 1, float("nan"): 2})
@example(["\ud800", "\x00", "\ud800" * 2000])
@example([10**4000, -(10**4000), 2**63, -(2**63), 2**63 - 1, -0.0])
@example(range(10**30, 10**30 + 5))
def test_every_plain_value_is_the_same_after_crossing(value: object) -> None:
    assert same(across(value), value)


def test_a_decoded_array_can_be_changed_and_shares_nothing() -> None:
    array, tensor = np.arange(3.0), torch.arange(3.0)
    tree, blobs = encode([array, tensor, array], no_number)
    got = decode(tree, blobs, no_object)
    got[0][0], got[1][0] = 7, 7
    assert got[2][0] == 0
    assert array[0] == 0
    assert blobs[0] == np.arange(3.0).tobytes()


def test_arrays_in_any_memory_layout_cross_by_value() -> None:
    base = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    for array in (base, base.T, base[:, ::-2], np.broadcast_to(base[0], (5, 3, 4)), np.asfortranarray(base)):
        got = across(array)
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, array)
    tensor = torch.arange(24).reshape(2, 3, 4)
    for view in (tensor, tensor.mT, tensor[:, ::2], tensor[0].expand(5, 3, 4)):
        assert torch.equal(across(view), view)
    assert torch.equal(across(torch.tensor([1j]).conj()), torch.tensor([-1j]))


class Liar:
    """Claims to be whatever is asked."""

    __class__ = dict  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("x")

    def __iter__(self) -> Iterator[int]:
        return iter([1])


class Int(int):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    def __index__(self) -> int:
        return 42

    def __int__(self) -> int:
        return 42

    def __add__(self, other: object) -> Any:
        return 42

    def bit_length(self) -> int:
        return 1


class Float(float):
    def __float__(self) -> float:
        return 42.0

    def __repr__(self) -> str:
        return "42.0"

    def __pos__(self) -> float:
        return 42.0


class Str(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "lie"

    def __iter__(self) -> Iterator[str]:
        return iter("lie")

    def __len__(self) -> int:
        return 3

    def encode(self, *_: object) -> bytes:
        return b"lie"


class Bytes(bytes):
    def __getitem__(self, _: Any) -> Any:
        return b"lie"

    def __bytes__(self) -> bytes:
        return b"lie"


class List(list[Any]):
    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self.looks += 1
        return iter([self.looks])

    def __len__(self) -> int:
        return 99


class Dict(dict[Any, Any]):
    def items(self) -> Any:
        return [("lie", "lie")]

    def __iter__(self) -> Iterator[Any]:
        return iter(["lie"])


class Array(np.ndarray[Any, Any]):
    dtype = np.dtype("int8")  # type: ignore[assignment]
    shape = (99,)  # type: ignore[assignment]

    def __array_finalize__(self, obj: Any) -> None:
        pass

    def tobytes(self, *_: Any) -> bytes:
        return b"lie"

    def astype(self, *_: Any, **__: Any) -> Any:
        return self


class Tensor(torch.Tensor):
    @property
    def dtype(self) -> Any:
        raise AssertionError("asked")

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise AssertionError("asked")


class Meta(type):
    """A class of classes that cannot be asked anything."""

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("asked")

    def __hash__(cls) -> int:
        raise AssertionError("asked")

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__mro__", "__module__", "__bases__"):
            raise AssertionError("asked")
        return super().__getattribute__(name)


class Odd(list[Any], metaclass=Meta):
    pass


class Colour(enum.IntEnum):
    RED = 3


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Int(7), 7),
        (Float(1.5), 1.5),
        (Str("truth"), "truth"),
        (Str("truth" * 1000), "truth" * 1000),
        (Bytes(b"truth"), b"truth"),
        (List([1, 2]), [1, 2]),
        (Dict({"a": 1}), {"a": 1}),
        (np.arange(3).view(Array), np.arange(3)),
        (torch.ones(2).as_subclass(Tensor), torch.ones(2)),
        (torch.nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)),
        (Odd([1]), [1]),
        (Colour.RED, 3),
        (Pair(1, "x"), (1, "x")),
        (torch.Size([2, 3]), (2, 3)),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (np.str_("x"), "x"),
        (np.longlong(5), np.int64(5)),
        ({Int(1): Str("x")}, {1: "x"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_crosses_as_the_plain_value_it_holds(value: object, plain: object) -> None:
    assert same(across(value), plain)


@pytest.mark.parametrize(
    "value",
    [
        Liar(),
        object(),
        print,
        int,
        (number for number in range(3)),
        iter([1]),
        {}.keys(),
        range(MAX_ITEMS + 1),
        range(2**20000, 2**20000 + 1),
        bytearray(b"x"),
        memoryview(b"x"),
        np.array(["a"]),
        np.array([None]),
        np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]),
        np.datetime64("2020-01-01"),
        np.longdouble(1),
        torch.eye(2).to_sparse(),
        torch.ones(2, device="meta"),
        torch.nn.Linear(1, 1),
        torch.Generator(),
        Ellipsis,
        NotImplemented,
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_else_is_a_handle(value: object) -> None:
    seen: list[object] = []

    def number_of(value: object) -> int:
        seen.append(value)
        return 11

    tree, blobs = encode([value], number_of)
    assert (tree, blobs) == ([{"handle": 11}], [])
    assert seen[0] is value
    [got] = decode(tree, blobs, Thing)
    assert type(got) is Thing
    assert got.number == 11


def doubled(times: int) -> list[Any]:
    value: list[Any] = [1]
    for _ in range(times):
        value = [value, value]
    return value


def itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: nested(MAX_DEPTH + 1),
        itself,
        lambda: doubled(40),  # small, and 2**40 items when written out
        lambda: 2**MAX_INT_BITS,
        lambda: Int(2**MAX_INT_BITS),
        lambda: [0] * (MAX_ITEMS + 1),
        lambda: bytes(MAX_BYTES + 1),
        lambda: np.broadcast_to(np.zeros(1), (2**40,)),
        lambda: torch.zeros(1).expand(2**40),
        lambda: [bytes(MAX_BYTES // 2 + 1)] * 2,
    ],
)
def test_what_is_too_large_is_not_encoded(make: Callable[[], object]) -> None:
    with pytest.raises(TooLarge):
        encode(make(), no_number)
