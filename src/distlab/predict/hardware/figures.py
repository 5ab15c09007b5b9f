"""A number of the hardware registry: its value, who says so, and what others say instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, Literal, Protocol, TypeVar

from distlab.errors import SettingError

Confidence = Literal["V", "S", "C", "R"]
"""V the source or an excerpt of it was read, S a secondary page, C computed from other rows, R recalled."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Source:
    """Who says so: `key` of book/references.bib, and the page."""

    key: str
    url: str
    confidence: Confidence
    checked: str = "2026-11-29"
    """ISO 8601: when it was looked at."""


@dataclass(frozen=True)
class Figure(Generic[Value]):
    """One number."""

    value: Value
    source: Source
    note: str = ""
    others: tuple[Figure[Value], ...] = ()
    """What other sources say: kept where they disagree. The models take `value`."""

    @property
    def all(self) -> tuple[Figure[Value], ...]:
        """This one and the others."""
        return self, *self.others


class _Named(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...


Row = TypeVar("Row", bound=_Named)


def table(rows: Iterable[Row]) -> Mapping[str, Row]:
    """Rows by name. ValueError for a name or alias that two rows have."""
    made: dict[str, Row] = {}
    seen: set[str] = set()
    for row in rows:
        for name in (row.name, *row.aliases):
            if name in seen:
                raise ValueError(f"two rows are called {name!r}")
            seen.add(name)
        made[row.name] = row
    return MappingProxyType(made)


def find(rows: Mapping[str, Row], name: str, what: str) -> Row:
    """The row called so, in any case, with spaces, `-` or `_`; SettingError names the nearest where there is none."""
    plain = "_".join(name.lower().replace("-", " ").replace("_", " ").split())
    if plain in rows:
        return rows[plain]
    by_alias = {alias: row for row in rows.values() for alias in row.aliases}
    if plain in by_alias:
        return by_alias[plain]
    import difflib  # only for a message: the import takes as long as all tables

    near = difflib.get_close_matches(plain, [*rows, *by_alias], n=3, cutoff=0.5)
    hint = f"the nearest are {', '.join(near)}" if near else f"there are {', '.join(rows)}"
    raise SettingError(f"There is no {what} {name!r} in the registry; {hint}.")
