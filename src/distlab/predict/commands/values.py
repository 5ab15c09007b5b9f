"""A value of an option, or of a YAML file, as the type of its field: numbers, sizes, names, true or false.

converted("payload_bytes", "64MiB", float)         # 67108864.0; SettingError names the field
"""

from __future__ import annotations

import dataclasses
import math
import re
import reprlib
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distlab.errors import SettingError, printable
from distlab.predict.commands.presets import unknown
from distlab.predict.commands.scales import check, counted, example

SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
SIZES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}

MOST = 1e30
"""Of a number, in size: beyond it sums of the models leave the range of floats, and nobody has such a machine."""


def types_of(kind: type) -> dict[str, Any]:
    """Fields that are plain values, with their types."""
    hints = get_type_hints(kind)
    names = [part.name for part in dataclasses.fields(kind)]
    return {name: hints[name] for name in names if plain_type(hints[name]) is not None}


def plain_type(hint: Any) -> Any:
    """int, float, bool, str or the Literal behind a hint, None left out; None for anything else."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [part for part in get_args(hint) if part is not type(None)]
        return plain_type(inner[0]) if len(inner) == 1 else None
    return hint if hint in (int, float, bool, str) or get_origin(hint) is Literal else None


def converted(name: str, value: Any, hint: Any) -> Any:
    """A value of an option (text) or of YAML as the field's type. SettingError names the field."""
    plain = plain_type(hint)
    if value is None and type(None) in get_args(hint):
        return None
    if get_origin(plain) is Literal:
        if not isinstance(value, str | int | float):
            raise wrong(name, value, f"one of {', '.join(map(str, get_args(plain)))}")
        for choice in get_args(plain):
            if not isinstance(value, bool) and str(choice) == str(value):
                return choice
        raise unknown(name, value, [str(choice) for choice in get_args(plain)])
    if plain is bool:
        if isinstance(value, bool):
            return value
        raise wrong(name, value, "true or false")
    if plain is str:
        if isinstance(value, str):
            return printable(value[:200])
        raise wrong(name, value, "text")
    if name.endswith("_bytes") and isinstance(value, str):
        number: int | float = size(name, value)
    else:
        number = _number(name, counted(name, value) if isinstance(value, str) else value, plain)
    check(name, number)
    return number


def _number(name: str, value: Any, plain: type) -> int | float:
    expected = ("a whole number" if plain is int else "a number") + example(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise wrong(name, value, expected)
    try:
        number = float(value)
        whole = int(str(value).replace("_", "")) if plain is int else 0
    except (ValueError, OverflowError):
        raise wrong(name, value, expected) from None
    if math.isnan(number) or (math.isinf(number) and name != "mtbf_h"):
        raise wrong(name, value, "a finite number")
    if number and not math.isinf(number) and not 1 / MOST <= abs(number) <= MOST:
        raise wrong(name, value, f"a number of at most {MOST:g}, and 0 or at least {1 / MOST:g}, in size")
    return whole if plain is int else number


def size(name: str, text: str) -> float:
    """Bytes of `64MiB`, `1.5 GB` or `4096`."""
    plain = text.strip().lower()
    digits = plain.rstrip("abcdefghijklmnopqrstuvwxyz").strip()
    unit = plain[len(plain.rstrip("abcdefghijklmnopqrstuvwxyz")) :]
    if re.search(r"[KMGT]b$", text.strip()):  # "64mb" is lazy, "64Mb" is how networks write bits
        raise SettingError(
            f"{name} is {printable(repr(text)[:80])}, in bits; it is in bytes, of 8 bits each: "
            f"{printable(text.strip()[:-1][:79])}B, or {printable(text.strip()[:-1][:79])}iB in powers of 2."
        )
    if unit not in SIZES:
        raise unknown(f"unit of {name}", text, [key for key in ("B", "KiB", "MiB", "GiB", "MB", "GB", "TB")])
    return float(_number(name, digits, float)) * SIZES[unit]


def wrong(name: str, value: Any, expected: str) -> SettingError:
    return SettingError(f"{name} is {printable(reprlib.repr(value))}; it is {expected}.")
