"""Readings as JSON and back. What comes back is checked field by field, since anybody may have written it."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from distlab.errors import printable
from distlab.observe.sample import GpuSample, Problem, Reading
from distlab.observe.workload import MOST_GPUS

MOST_ITEMS = 4096
"""Of a list: processes, XIDs."""
MOST_TEXT = 1000
MOST_NAME = 96
"""Of a GPU's name, UUID and driver, and of a MIG instance's profile and UUID: NVML's own longest."""
MOST_NUMBER = 1e19


class Damage(Exception):  # noqa: N818 - what is damaged is data, not the program
    """Why data cannot be read (further), in half a sentence."""


def encode(reading: Reading) -> dict[str, Any]:
    """A reading as plain data, without the values that are not known."""
    plain = {"samples": [_known(sample) for sample in reading.samples]}
    if reading.problems:
        plain["problems"] = [_known(problem) for problem in reading.problems]
    return plain


def decode(line: bytes | str) -> tuple[float, Reading]:
    """The time and the reading of a line that a Recorder wrote. Damage where it is not one."""
    try:
        plain = json.loads(line)
        at = _number(plain.pop("time"))
        samples, problems = plain.pop("samples"), plain.pop("problems", [])
        if plain:
            raise Damage(f"it has a field {printable(min(plain)[:40])!r}")
        reading = Reading(
            tuple(from_plain(GpuSample, sample) for sample in _list(samples)),
            tuple(from_plain(Problem, problem) for problem in _list(problems)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damage("it is not a reading") from None
    _check_gpus(reading.samples)
    return at, reading


def _check_gpus(samples: tuple[GpuSample, ...]) -> None:
    """Damage for what no machine has: each GPU becomes dozens of series with these labels."""
    if len(samples) > MOST_GPUS:
        raise Damage(f"it has {len(samples)} GPUs; expected at most {MOST_GPUS}")
    if len({gpu.uuid for gpu in samples}) < len(samples):
        raise Damage("two of its GPUs have the same UUID")
    for gpu in samples:
        texts = [gpu.uuid, gpu.name, gpu.driver or ""]
        texts += [text for instance in gpu.mig or () for text in (instance.uuid, instance.profile)]
        if any(len(text) > MOST_NAME for text in texts):
            raise Damage(
                f"a name, UUID, driver or profile of GPU {gpu.gpu} is longer than {MOST_NAME} characters"
            )


def from_plain(kind: type[Any], plain: Any) -> Any:
    """A flat dataclass of `sample.py`'s kind from plain data. Damage names the first field that does not fit."""
    if not isinstance(plain, dict):
        raise Damage(f"expected a {kind.__name__}")
    hints: Mapping[str, Any] = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    if unknown := plain.keys() - hints.keys():
        raise Damage(f"{kind.__name__} has no field {printable(str(min(unknown))[:40])!r}")
    values = {}
    for name, value in plain.items():
        try:
            values[name] = _fit(hints[name], value)
        except (ValueError, TypeError):
            raise Damage(f"{name} is {printable(repr(value)[:40])}") from None
    try:
        return kind(**values)
    except TypeError:
        missing = {
            f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING
        } - values.keys()
        raise Damage(f"{kind.__name__} lacks {', '.join(sorted(missing))}") from None


@functools.cache
def _hints(kind: type[Any]) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _fit(hint: Any, value: Any) -> Any:
    """The value as the field's type wants it. ValueError or TypeError where it does not fit."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [choice for choice in get_args(hint) if choice is not type(None)]
        return None if value is None else _fit(inner[0], value)
    if origin is tuple:
        return tuple(_fit(get_args(hint)[0], item) for item in _list(value))
    if origin is Literal:
        if value not in get_args(hint):
            raise ValueError
        return value
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return from_plain(hint, value)
    if hint is float:
        return _number(value)
    if type(value) is not hint:
        raise TypeError
    if hint is str and not (len(value) <= MOST_TEXT and value.isprintable()):
        raise ValueError
    if hint is int and abs(value) > MOST_NUMBER:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > MOST_NUMBER:
        raise ValueError
    return float(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MOST_ITEMS:
        raise ValueError
    return value


def _known(item: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in dataclasses.asdict(item).items()
        if value is not None and not (name == "xids" and not value)
    }
