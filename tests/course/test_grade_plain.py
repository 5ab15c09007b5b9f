"""Values as plain data: the same after crossing, or a handle; and nothing else, whoever made the encoding."""

import collections
import enum
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distlab.course.grade.plain import (
    _DECODE,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_INT_BITS,
    MAX_ITEMS,
    NUMPY_TYPES,
    TORCH_TYPES,
    decode,
    encode,
)
from distlab.course.grade.wire import Malformed, TooLarge, parse


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


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


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


BLOBS = [b"\x02" * 24, b"", b"abc"]
HOSTILE = [
    {},
    {"list": []},
    {"__class__": "int"},
    {"tuple": [], "set": []},
    {"pickle": "x"},
    2**63,
    {"int": 5},
    {"int": "5" * 10**6},
    {"int": "0x" + "f" * 3600},
    {"int": "x"},
    {"float": "1"},
    {"float": []},
    {"float": 1.0},
    {"complex": [1.0]},
    {"complex": [1, 2]},
    {"complex": ["1", "2"]},
    {"text": 1.0},
    {"text": True},
    {"text": 3},
    {"text": -1},
    {"text": "0"},
    {"bytes": None},
    {"tuple": {}},
    {"tuple": "abc"},
    {"tuple": None},
    {"set": [[]]},
    {"set": [1, 1]},
    {"set": [1, True]},
    {"set": [{"dict": []}]},
    {"frozenset": [{"set": []}]},
    {"dict": [1]},
    {"dict": [[], 1]},
    {"dict": [1, 1, 1, 2]},
    {"dict": [1, 1, 1.0, 2]},
    {"dict": [{"array": ["int8", [3], 2]}, 1]},
    {"dict": [{"slice": [1, 2, 3]}, 1]},
    {"range": [1, 2]},
    {"range": [0, 5, 0]},
    {"range": [0.0, 5.0, 1.0]},
    {"range": [True, 5, 1]},
    {"range": [0, 2**40, 1]},
    {"range": ["0", "5", "1"]},
    {"slice": [1]},
    {"array": ["int8", [3]]},
    {"array": ["int8", [4], 2]},
    {"array": ["int8", [2], 2]},
    {"array": ["int16", [3], 2]},
    {"array": ["int8", [-3], 2]},
    {"array": ["int8", [3.0], 2]},
    {"array": ["int8", [True, 3], 2]},
    {"array": ["int8", ["3"], 2]},
    {"array": ["int8", 3, 2]},
    {"array": ["int8", [2**62, 2**62, 2**4], 1]},
    {"array": ["int8", [2**32, 2**32], 1]},
    {"array": ["int8", [0, 2**31, 2**31], 1]},
    {"array": ["int8", [1] * 33, 2]},
    {"array": ["object", [3], 2]},
    {"array": ["O", [3], 2]},
    {"array": ["|S3", [1], 2]},
    {"array": ["int8,int8", [1], 2]},
    {"array": [["int8"], [3], 2]},
    {"array": ["float80", [3], 2]},
    {"array": ["bfloat16", [12], 0]},
    {"array": ["int8", [3], "2"]},
    {"scalar": ["int8", 2]},
    {"scalar": ["str", 2]},
    {"scalar": 3},
    {"tensor": ["int8", [3], 2]},
    {"tensor": ["int8", [3], 2, 1]},
    {"tensor": ["int8", [3], 2, True]},
    {"tensor": ["qint8", [3], 2, False]},
    {"tensor": ["load", [3], 2, False]},
    {"tensor": ["float32", [7], 0, False]},
    {"tensor": ["float32", [0, 2**31, 2**31], 1, False]},
    {"dtype": "load"},
    {"dtype": "__class__"},
    {"dtype": ["float32"]},
    {"device": "cpu; rm"},
    {"device": "cuda:99999"},
    {"device": "cpu\n"},
    {"device": None},
    {"handle": -1},
    {"handle": 1.0},
    {"handle": True},
    {"handle": "1"},
    {"handle": 2**60},
    {"handle": 5},
    [{"bytes": 2}, {"bytes": 2}],
    [{"bytes": 0}, {"bytes": 1}],
]


@pytest.mark.parametrize("tree", HOSTILE, ids=lambda tree: str(tree)[:40])
def test_hostile_encodings_are_malformed(tree: object) -> None:
    with pytest.raises(Malformed):
        decode(tree, BLOBS, no_object)


def test_encodings_over_the_bounds_are_malformed() -> None:
    for tree in (nested(100_000), [0] * (MAX_ITEMS + 1), {"dict": [[]] * 10}):
        with pytest.raises(Malformed):
            decode(tree, [], no_object)
    deep: Any = 1
    for _ in range(100_000):
        deep = {"tuple": [deep]}
    with pytest.raises(Malformed):
        decode(deep, [], no_object)


def test_truth_values_are_true_or_false() -> None:
    """A byte of 2 in an array of truth values would be neither, and both."""
    array = decode({"array": ["bool", [3], 0]}, [b"\x00\x01\x02"], no_object)
    assert array.view(np.uint8).tolist() == [0, 1, 1]
    tensor = decode({"tensor": ["bool", [3], 0, False]}, [b"\x00\x01\x02"], no_object)
    assert tensor.view(torch.uint8).tolist() == [0, 1, 1]
    assert decode({"scalar": ["bool", 0]}, [b"\xff"], no_object) is np.True_


WORDS = st.sampled_from([*_DECODE, *NUMPY_TYPES, *TORCH_TYPES, "nan", "cpu", "0xff", ""])
TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 30)
    | st.integers()
    | st.floats()
    | WORDS
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(WORDS, inner, max_size=1)
        | st.tuples(WORDS, st.lists(st.integers(-1, 4), max_size=3), st.integers(-1, 3)).map(list)
        | st.builds(lambda kind, body: {kind: body}, st.sampled_from([*_DECODE]), inner)
    ),
    max_leaves=12,
)
PLAIN = (
    type(None), bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range, slice, np.ndarray,
    torch.Tensor, torch.dtype, torch.device, Thing,
)  # fmt: skip


def all_plain(value: Any) -> bool:
    if type(value) in (list, tuple, set, frozenset):
        return all(map(all_plain, value))
    if type(value) is dict:
        return all(all_plain(key) and all_plain(item) for key, item in value.items())
    if type(value) in (np.ndarray, torch.Tensor):
        return str(value.dtype).removeprefix("torch.") in (*NUMPY_TYPES, *TORCH_TYPES)
    return type(value) in PLAIN or type(value) in {dtype.type for dtype in NUMPY_TYPES.values()}


@settings(deadline=None, derandomize=True, max_examples=1000)
@given(TREES, st.lists(st.binary(max_size=16), max_size=3))
def test_whatever_comes_is_plain_or_malformed(tree: object, blobs: list[bytes]) -> None:
    try:
        value = decode(tree, blobs, Thing)
    except Malformed:
        return
    assert all_plain(value)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(VALUES, st.randoms(use_true_random=False))
def test_a_damaged_encoding_is_plain_or_malformed(value: object, random: Any) -> None:
    """One spot of an honest encoding changed: a much likelier way past a check than chance."""
    tree, blobs = encode(value, no_number)
    text = json.dumps(tree)
    spot = random.randrange(len(text))
    changed = text[:spot] + random.choice('0123456789-"[]{}:,.eE x') + text[spot + random.randrange(2) :]
    try:
        message = parse(b'{"value":' + changed.encode() + b"}")
        got = decode(message["value"], blobs, Thing)
    except (Malformed, KeyError):
        return
    assert all_plain(got)
