"""Encodings that nobody honest made: plain data, or malformed; nothing else, whoever made them."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.course.grade.plain import _DECODE, MAX_ITEMS, NUMPY_TYPES, TORCH_TYPES, decode, encode
from distlab.course.grade.wire import Malformed, parse
from tests.course.plain_rig import VALUES, Thing, nested, no_number, no_object

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
