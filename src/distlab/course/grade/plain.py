"""Values as plain data: what may cross between the learner's process and the tests.

    tree, blobs = encode(value, number_of)        # JSON and bytes
    value = decode(tree, blobs, object_of)

Crossing are None, bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, range, slice, numpy
arrays and scalars, torch tensors, dtypes and devices, and any nesting of them. Everything else crosses as a
handle: a number that stands for an object which stays where it is. Nothing in an encoding names code: no
pickle, no import, no eval. Decoding gives new values of exactly these types, or raises Malformed.

In JSON: null, booleans, whole numbers of 64 bits, finite floats, strings and lists stand for themselves. All
else is an object with one key, its kind. The content of bytes, long strings, arrays and tensors is a blob,
little-endian and in C order, which may be used once.

A value is read by its type and that class's own methods: a subclass of a plain type crosses as the plain value
it holds (a namedtuple as a tuple, an IntEnum as an int, a Parameter as a tensor), whatever it says about itself.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distlab.course.grade.wire import Malformed, TooLarge

MAX_DEPTH = 64
MAX_ITEMS = 1_000_000
"""Values in one encoding, counting those within containers, and the length of a range."""
MAX_SAME_HASH = 100
"""Keys of one set or dict that have one hash. Python compares each of them with all others: a million such keys,
easily made of whole numbers, would take it hours that nothing can interrupt."""
MAX_INT_BITS = 14_000
"""Of a whole number: Python turns up to 4,300 decimal digits into text."""
MAX_BYTES = 64 * 2**20
"""Of all blobs of one encoding."""
LONG_TEXT = 1024
"""Characters from which on a string is a blob."""
MAX_DIMENSIONS = 32
MAX_ELEMENTS = 2**31

FLOATS = ("nan", "inf", "-inf")

NUMPY_TYPES = {
    name: np.dtype(name)
    for name in (
        "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "complex64", "complex128",
    )
}  # fmt: skip
NUMPY_NAMES = {dtype: name for name, dtype in NUMPY_TYPES.items()}

TORCH_TYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "bfloat16", "float32", "float64", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2",
)  # fmt: skip

DEVICE = re.compile(r"(cpu|cuda|meta)(:[0-9]{1,2})?", re.ASCII)

NumberOf = Callable[[object], int]
ObjectOf = Callable[[int], object]


def encode(value: object, number_of: NumberOf) -> tuple[Any, list[bytes]]:
    """JSON and blobs of `value`; `number_of` gives the handle of an object that is not plain, or raises.

    Raises TooLarge where the value is over the bounds above (one that contains itself, too).
    """
    encoder = _Encoder(number_of)
    return encoder.encode(value, 0), encoder.blobs


def decode(tree: object, blobs: Sequence[bytes], object_of: ObjectOf) -> Any:
    """The value of an encoding, whoever made it; `object_of` gives the object of a handle, or raises Malformed.

    Raises Malformed, and nothing else, where `tree` and `blobs` are no encoding.
    """
    decoder = _Decoder(blobs, object_of)
    try:
        value = decoder.decode(tree, 0)
    except (ValueError, TypeError, ArithmeticError, RuntimeError, LookupError, AttributeError) as error:
        raise Malformed(f"not a plain value: {type(error).__name__}") from error
    if decoder.unused:
        raise Malformed("a blob that nothing uses")
    return value


class _Encoder:
    def __init__(self, number_of: NumberOf) -> None:
        self.number_of = number_of
        self.blobs: list[bytes] = []
        self.bytes_left = MAX_BYTES
        self.items_left = MAX_ITEMS

    def encode(self, value: Any, depth: int) -> Any:
        self.items_left -= 1
        if depth > MAX_DEPTH or self.items_left < 0:
            raise TooLarge(f"a value with over {MAX_ITEMS} items, or nested over {MAX_DEPTH} deep")
        if value is None or value is True or value is False:
            return value
        # Classes are told apart by identity, and the real MRO is asked: a metaclass can lie about all else.
        kind = type(value)
        method = _ENCODE.get(id(kind)) or _SCALARS.get(id(kind))
        tree = method(self, value, depth) if method else self._by_base(kind, value, depth)
        return {"handle": self.number_of(value)} if tree is None else tree

    def _by_base(self, kind: type, value: Any, depth: int) -> Any:
        """As the first of its classes that crosses; None where none does."""
        for base in type.__dict__["__mro__"].__get__(kind):
            method = _ENCODE.get(id(base))
            tree = method(self, value, depth) if method else self._torch_value(base, value)
            if tree is not None:
                return tree
        return None

    def _scalar(self, value: np.generic, _: int) -> Any:
        name = NUMPY_NAMES[value.dtype]
        return {"scalar": [name, self._blob(np.asarray(value).astype(_little(name)).tobytes())]}

    def _torch_value(self, base: type, value: Any) -> Any:
        """Of a class of torch's; None where it is none that crosses."""
        torch = sys.modules.get("torch")  # where it is not imported, no value is of it
        if torch is None:
            return None
        if base is torch.Tensor:
            return self._tensor(torch, value)
        if base is torch.dtype:
            name = str(value).removeprefix("torch.")
            return {"dtype": name} if name in TORCH_TYPES else None
        if base is torch.device:
            return {"device": str(value)} if DEVICE.fullmatch(str(value)) else None
        return None

    def _int(self, value: int, _: int) -> Any:
        plain = int.__add__(value, 0)
        if int.bit_length(plain) > MAX_INT_BITS:
            raise TooLarge(f"a whole number of over {MAX_INT_BITS} bits")
        return plain if -(2**63) <= plain < 2**63 else {"int": hex(plain)}

    def _float(self, value: float, _: int) -> Any:
        plain = float.__pos__(value)
        if math.isfinite(plain):
            return plain
        return {"float": "nan" if math.isnan(plain) else "inf" if plain > 0 else "-inf"}

    def _complex(self, value: complex, depth: int) -> Any:
        plain = complex.__pos__(value)
        return {"complex": [self._float(plain.real, depth), self._float(plain.imag, depth)]}

    def _str(self, value: str, _: int) -> Any:
        plain = "".join(str.__iter__(value)) if type(value) is not str else value
        if len(plain) < LONG_TEXT:
            return plain
        return {"text": self._blob(plain.encode("utf-8", "surrogatepass"))}

    def _bytes(self, value: bytes, _: int) -> Any:
        return {"bytes": self._blob(bytes.__getitem__(value, slice(None)))}

    def _list(self, value: list[Any], depth: int) -> Any:
        return [self.encode(item, depth + 1) for item in list.__iter__(value)]

    def _tuple(self, value: tuple[Any, ...], depth: int) -> Any:
        return {"tuple": [self.encode(item, depth + 1) for item in tuple.__iter__(value)]}

    def _set(self, value: set[Any], depth: int) -> Any:
        return {"set": [self.encode(item, depth + 1) for item in set.__iter__(value)]}

    def _frozenset(self, value: frozenset[Any], depth: int) -> Any:
        return {"frozenset": [self.encode(item, depth + 1) for item in frozenset.__iter__(value)]}

    def _dict(self, value: dict[Any, Any], depth: int) -> Any:
        flat = [self.encode(part, depth + 1) for pair in dict.items(value) for part in pair]
        return {"dict": flat}

    def _range(self, value: range, depth: int) -> Any:
        if not _short(value):
            return None
        return {"range": [self._int(part, depth) for part in (value.start, value.stop, value.step)]}

    def _slice(self, value: slice, depth: int) -> Any:
        return {"slice": [self.encode(part, depth + 1) for part in (value.start, value.stop, value.step)]}

    def _array(self, value: np.ndarray[Any, Any], _: int) -> Any:
        plain = np.ndarray.view(value, np.ndarray)
        name = NUMPY_NAMES.get(plain.dtype.newbyteorder("="))
        if name is None:
            return None
        self._reserve(plain.nbytes)
        blob = self._append(plain.astype(_little(name), order="C").tobytes())
        return {"array": [name, list(plain.shape), blob]}

    def _tensor(self, torch: Any, value: Any) -> Any:
        """None for tensors without content of their own: sparse, meta, distributed, of unknown types."""
        with torch._C.DisableTorchFunctionSubclass():
            own = torch._C._disabled_torch_dispatch_impl
            if type(value) is not torch.Tensor and type(value).__torch_dispatch__ is not own:
                return None
            if torch.Tensor.layout.__get__(value) != torch.strided or torch.Tensor.is_meta.__get__(value):
                return None
            plain = torch.Tensor.as_subclass(torch.Tensor.detach(value), torch.Tensor)
            name = str(plain.dtype).removeprefix("torch.")
            if name not in TORCH_TYPES:
                return None
            self._reserve(plain.numel() * plain.element_size())
            flat = plain.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            blob = self._append(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
            requires_grad = torch.Tensor.requires_grad.__get__(value)
            return {"tensor": [name, list(plain.shape), blob, requires_grad]}

    def _blob(self, data: bytes) -> int:
        self._reserve(len(data))
        return self._append(data)

    def _reserve(self, size: int) -> None:
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise TooLarge(f"a value of over {MAX_BYTES} bytes")

    def _append(self, data: bytes) -> int:
        self.blobs.append(data)
        return len(self.blobs) - 1


_ENCODE: dict[int, Callable[[_Encoder, Any, int], Any]] = {
    id(int): _Encoder._int,
    id(float): _Encoder._float,
    id(complex): _Encoder._complex,
    id(str): _Encoder._str,
    id(bytes): _Encoder._bytes,
    id(list): _Encoder._list,
    id(tuple): _Encoder._tuple,
    id(dict): _Encoder._dict,
    id(set): _Encoder._set,
    id(frozenset): _Encoder._frozenset,
    id(range): _Encoder._range,
    id(slice): _Encoder._slice,
    id(np.ndarray): _Encoder._array,
}
_SCALARS = {
    id(scalar): _Encoder._scalar for scalar in np.sctypeDict.values() if np.dtype(scalar) in NUMPY_NAMES
}
"""Of these classes themselves: what a subclass of one holds is its Python value, or unknown."""


def _little(name: str) -> np.dtype[Any]:
    return NUMPY_TYPES[name].newbyteorder("<")


def _short(value: range) -> bool:
    """Of no more than MAX_ITEMS numbers, which all have a bounded size? `len` fails for a very long one."""
    ends = (value.start, value.stop, value.step)
    bounded = all(part.bit_length() <= MAX_INT_BITS for part in ends)
    return bounded and (value.stop - value.start) // value.step < MAX_ITEMS


class _Decoder:
    def __init__(self, blobs: Sequence[bytes], object_of: ObjectOf) -> None:
        self.unused = dict(enumerate(blobs))
        self.object_of = object_of
        self.items_left = MAX_ITEMS

    def decode(self, tree: Any, depth: int) -> Any:
        self.items_left -= 1
        if depth > MAX_DEPTH or self.items_left < 0:
            raise Malformed("too many items, or nested too deep")
        kind = type(tree)
        if tree is None or kind is bool or kind is str:
            return tree
        if kind is int or kind is float:
            return self._number(tree)
        if kind is list:
            return self._items(tree, depth)
        if kind is not dict or len(tree) != 1:
            raise Malformed("neither a value nor an object with one key")
        [(name, body)] = tree.items()
        method = _DECODE.get(name) if type(name) is str else None
        if method is None:
            raise Malformed("a kind of value that there is not")
        return method(self, body, depth)

    def _number(self, tree: int | float) -> int | float:
        if (type(tree) is int and not -(2**63) <= tree < 2**63) or not math.isfinite(tree):
            raise Malformed("a number that JSON should not hold")
        return tree

    def _items(self, body: Any, depth: int) -> list[Any]:
        if type(body) is not list:
            raise Malformed("not a list")
        return [self.decode(item, depth + 1) for item in body]

    def _int(self, body: Any, _: int) -> int:
        if type(body) is not str or len(body) > MAX_INT_BITS // 4 + 4:
            raise Malformed("not a whole number")
        value = int(body, 16)
        if value.bit_length() > MAX_INT_BITS:
            raise Malformed("too many digits")
        return value

    def _float(self, body: Any, _: int) -> float:
        if body not in FLOATS:
            raise Malformed("a number that there is not")
        return float(body)  # each nan an object of its own: they are different keys

    def _complex(self, body: Any, depth: int) -> complex:
        real, imag = self._items(body, depth)
        if type(real) is not float or type(imag) is not float:
            raise Malformed("a complex number is two floats")
        return complex(real, imag)

    def _text(self, body: Any, _: int) -> str:
        return self._take(body).decode("utf-8", "surrogatepass")

    def _bytes(self, body: Any, _: int) -> bytes:
        return self._take(body)

    def _tuple(self, body: Any, depth: int) -> tuple[Any, ...]:
        return tuple(self._items(body, depth))

    def _set(self, body: Any, depth: int) -> set[Any]:
        return set(self._distinct(self._items(body, depth)))

    def _frozenset(self, body: Any, depth: int) -> frozenset[Any]:
        return frozenset(self._distinct(self._items(body, depth)))

    def _dict(self, body: Any, depth: int) -> dict[Any, Any]:
        flat = self._items(body, depth)
        return dict(zip(self._distinct(flat[::2]), flat[1::2], strict=True))

    def _distinct(self, keys: list[Any]) -> list[Any]:
        if max(Counter(map(hash, keys)).values(), default=0) > MAX_SAME_HASH:
            raise Malformed("too many keys of one hash")
        if len(set(keys)) != len(keys):
            raise Malformed("a key stands twice")
        return keys

    def _range(self, body: Any, depth: int) -> range:
        start, stop, step = self._items(body, depth)
        if not type(start) is type(stop) is type(step) is int:
            raise Malformed("a range is three whole numbers")
        value = range(start, stop, step)
        if not _short(value):
            raise Malformed("too long a range")
        return value

    def _slice(self, body: Any, depth: int) -> slice:
        start, stop, step = self._items(body, depth)
        return slice(start, stop, step)

    def _array(self, body: Any, _: int) -> np.ndarray[Any, Any]:
        name, shape, blob = self._parts(body, 3)
        data = self._content(NUMPY_TYPES[name].itemsize, shape, blob)
        if name == "bool":  # a byte other than 0 and 1 would be a truth value that is neither
            return np.frombuffer(data, np.uint8).reshape(shape).astype(np.bool_)
        return np.frombuffer(data, _little(name)).reshape(shape).astype(NUMPY_TYPES[name])

    def _scalar(self, body: Any, depth: int) -> np.generic:
        name, blob = self._parts(body, 2)
        scalar = np.asarray(self._array([name, [], blob], depth))[()]
        assert isinstance(scalar, np.generic)
        return scalar

    def _tensor(self, body: Any, _: int) -> Any:
        import torch

        name, shape, blob, requires_grad = self._parts(body, 4)
        if type(requires_grad) is not bool:
            raise Malformed("requires_grad is true or false")
        dtype = self._dtype(name, 0)
        data = self._content(dtype.itemsize, shape, blob)
        if not data:  # which torch takes from no buffer
            return torch.empty(shape, dtype=dtype, requires_grad=requires_grad)
        content = torch.frombuffer(bytearray(data), dtype=torch.uint8 if name == "bool" else dtype)
        tensor = content != 0 if name == "bool" else content
        return tensor.reshape(shape).requires_grad_(requires_grad)

    def _dtype(self, body: Any, _: int) -> Any:
        import torch

        if type(body) is not str or body not in TORCH_TYPES:
            raise Malformed("a dtype that there is not")
        return getattr(torch, body)

    def _device(self, body: Any, _: int) -> Any:
        import torch

        if type(body) is not str or not DEVICE.fullmatch(body):
            raise Malformed("a device that there is not")
        return torch.device(body)

    def _handle(self, body: Any, _: int) -> object:
        if type(body) is not int or not 0 <= body < 2**53:
            raise Malformed("a handle is a number")
        return self.object_of(body)

    def _parts(self, body: Any, count: int) -> list[Any]:
        if type(body) is not list or len(body) != count or type(body[0]) is not str:
            raise Malformed("not the parts of an array")
        return body

    def _content(self, item_bytes: int, shape: Any, blob: Any) -> bytes:
        """The blob of an array, if it is as long as its shape says."""
        if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
            raise Malformed("a shape is a short list")
        if not all(type(length) is int and 0 <= length <= MAX_ELEMENTS for length in shape):
            raise Malformed("a shape is of whole numbers from 0")
        if math.prod(length or 1 for length in shape) > MAX_ELEMENTS:
            raise Malformed("too large a shape")
        data = self._take(blob)
        if len(data) != item_bytes * math.prod(shape):
            raise Malformed("an array whose content is not as long as its shape says")
        return data

    def _take(self, index: Any) -> bytes:
        """A blob, which nothing else may use: many copies of one would be a small message of any size."""
        if type(index) is not int or index not in self.unused:
            raise Malformed("a blob that is not there, or was used before")
        return bytes(self.unused.pop(index))


_DECODE: dict[str, Callable[[_Decoder, Any, int], Any]] = {
    "int": _Decoder._int,
    "float": _Decoder._float,
    "complex": _Decoder._complex,
    "text": _Decoder._text,
    "bytes": _Decoder._bytes,
    "tuple": _Decoder._tuple,
    "dict": _Decoder._dict,
    "set": _Decoder._set,
    "frozenset": _Decoder._frozenset,
    "range": _Decoder._range,
    "slice": _Decoder._slice,
    "array": _Decoder._array,
    "scalar": _Decoder._scalar,
    "tensor": _Decoder._tensor,
    "dtype": _Decoder._dtype,
    "device": _Decoder._device,
    "handle": _Decoder._handle,
}
