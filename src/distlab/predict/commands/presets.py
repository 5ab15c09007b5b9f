"""Names at the command line: of models, and what is said of a name that is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from distlab.errors import SettingError, printable
from distlab.predict.models import MODELS, Preset

Found = TypeVar("Found")


def preset(name: str) -> Preset:
    """The model called so; SettingError names the nearest."""
    if not isinstance(name, str) or name.lower().replace("_", "-") not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[name.lower().replace("_", "-")]


def named(field: str, name: str, find: Callable[[str], Found]) -> Found:
    """What `find` has under the name; its SettingError, with the field in front, where it has nothing."""
    try:
        return find(name)
    except SettingError as error:
        raise SettingError(f"{field} is {printable(name[:80])!r}. {error}") from None


def unknown(field: str, value: object, known: Iterable[str]) -> SettingError:
    """What to raise for a name that is none: the nearest, and all others."""
    import difflib  # only for a message

    names = list(known)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? It" if near else "it"
    text = printable(str(value)[:80])
    return SettingError(f"{field} is {text!r}; {hint} is one of {', '.join(names)}.")
