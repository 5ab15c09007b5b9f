"""Files of measured times: one format for every benchmark of the package, written whole, read with suspicion.

    {"kind": "collectives",                        which benchmark wrote it
     "identity": ["operation", "payload_bytes"],   the fields that say what a row measured
     "rows": [{"operation": "all_reduce", "payload_bytes": 1024, ..., "samples_s": [1.2e-4, ...]}, ...],
     "stamp": {"tier": "cpu", "hardware": ..., ...},    the fields of `distlab.bench.stamp.Stamp`
     "notes": ["..."]}                             what a reader must know, a sentence each

A row's `samples_s` are times in seconds in the order in which they were measured, at most SAMPLES_MOST of them;
with `launches`, how many of them each launch of the processes contributed. Other fields of a row are figures.
`distlab bench compare` needs nothing else.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distlab.errors import SettingError, printable
from distlab.files import read_limited, write_whole

SAMPLES_MOST = 200
"""Times that a row keeps: enough for a p99, and 60 rows stay under half a megabyte."""
BYTES_MOST = 2**26
ROWS_MOST = 10_000
TEXT_MOST = 2_000
FIGURES = (".svg", ".png", ".pdf")
"""How the name of a figure that is drawn of results may end."""

Identity = tuple[tuple[str, str | int | float | bool | None], ...]
"""What a row measured: the names of the identifying fields with their values, in the order of the file."""


@dataclass(frozen=True)
class Results:
    """The content of a file of results."""

    kind: str
    identity: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    stamp: Mapping[str, Any]
    notes: Sequence[str] = field(default=())

    def named(self, row: Mapping[str, Any]) -> Identity:
        """What a row measured."""
        return tuple((name, row.get(name)) for name in self.identity)


def thinned(samples_s: Sequence[float], most: int = SAMPLES_MOST) -> list[float]:
    """At most `most` of the samples, evenly spread over the time of measuring, in their order.

    To 6 digits: more is not in a clock. What is left has the distribution of the whole.
    """
    n = len(samples_s)
    kept = samples_s if n <= most else [samples_s[i * n // most] for i in range(most)]
    return [float(f"{sample:.6g}") for sample in kept]


def as_json(results: Results) -> str:
    """The text of a file: one row per line, so that a person can read it, too. ValueError for nan or infinity."""
    rows = ",\n  ".join(json.dumps(row, allow_nan=False) for row in results.rows)
    head = {"kind": results.kind, "identity": list(results.identity)}
    tail = {"stamp": dict(results.stamp), "notes": list(results.notes)}
    start = json.dumps(head, indent=1)[:-2]
    return f'{start},\n "rows": [\n  {rows}\n ],{json.dumps(tail, indent=1, allow_nan=False)[1:]}'


def write_results(path: str | Path, results: Results) -> None:
    """Write a file whole or not at all; a file that was there is replaced. SettingError where it cannot be."""
    write_file(path, as_json(results).encode() + b"\n")


def write_file(path: str | Path, content: bytes) -> None:
    """`write_whole` for a file that somebody named. SettingError where its folder is missing or may not be written."""
    try:
        write_whole(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingError(f"Cannot write {path}: {reason}. Name a file in a folder that exists.") from None


def check_writable(path: str | Path) -> None:
    """SettingError where `write_results` would fail: to be asked before an hour of measuring, not after it."""
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise SettingError(
            f"Cannot write {target}. Name a file in a folder that exists and is yours to write."
        )


def check_figure(path: Path) -> None:
    """SettingError where `path` is no figure's name, or cannot be written."""
    if path.suffix not in FIGURES:
        raise SettingError(f"{str(path)!r} is no figure's name; it must end in {', '.join(FIGURES)}.")
    check_writable(path)


def read_results(path: str | Path) -> Results:
    """Read a file that anybody may have written.

    SettingError, one sentence, where it is not a plain file of at most 64 MiB, not JSON (a truncated one), not of
    this format, or holds a time that no clock gives (nothing, negative, nan, infinite).
    """
    text = _text(Path(path))
    try:
        content = json.loads(text)
        return _checked(content)
    except json.JSONDecodeError as error:
        early = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated")
        cut = " It ends too early: it may be truncated." if early else ""
        where = f"line {error.lineno}: {error.msg}"
        raise SettingError(f"{_shown(path)} is not JSON ({where}).{cut} Measure it again.") from None
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        said = printable(str(error))[:300] or type(error).__name__
        raise SettingError(
            f"{_shown(path)} is not a file of results ({said}); expected what `distlab bench ... --out` writes."
        ) from None


def _text(path: Path) -> str:
    try:
        return read_limited(path, BYTES_MOST).decode()
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else printable(str(error))
        raise SettingError(
            f"Cannot read {_shown(path)}: {reason}. Name a file that `distlab bench ... --out` wrote."
        ) from None


def _checked(content: Any) -> Results:
    """The results in parsed JSON; ValueError, which says where, for anything else."""
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__} where an object is expected")
    kind = _text_of(content.get("kind"), "kind")
    identity = content.get("identity")
    rows, stamp, notes = content.get("rows"), content.get("stamp"), content.get("notes", [])
    if not isinstance(identity, list) or not 1 <= len(identity) <= 30 or len(set(identity)) < len(identity):
        raise ValueError("its identity is not a list of the names of fields")
    for name in identity:
        _text_of(name, "a name in identity")
    if not isinstance(stamp, dict) or not isinstance(rows, list) or not isinstance(notes, list):
        raise ValueError("it lacks rows, or a stamp")
    if len(rows) > ROWS_MOST:
        raise ValueError(f"it has {len(rows):,} rows, and results have at most {ROWS_MOST:,}")
    for note in notes:
        _text_of(note, "a note")
    for name, value in stamp.items():
        _text_of(name, "a name in the stamp")
        for part in value if isinstance(value, list) else [value]:
            _plain(part, f"the stamp's {name}")
    results = Results(kind, tuple(identity), rows, stamp, tuple(notes))
    seen: set[Identity] = set()
    for i, row in enumerate(rows, 1):
        _check_row(results, row, f"row {i}")
        if (named := results.named(row)) in seen:
            raise ValueError(f"row {i} measures what a row before it does")
        seen.add(named)
    return results


def _check_row(results: Results, row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not an object")
    for name in results.identity:
        if name not in row:
            raise ValueError(f"{where} has no {name}")
        _plain(row[name], f"{where}'s {name}")
    samples = row.get("samples_s")
    if not isinstance(samples, list) or not 1 <= len(samples) <= SAMPLES_MOST:
        raise ValueError(f"{where} has no samples_s of 1 to {SAMPLES_MOST} times")
    for sample in samples:
        if type(sample) not in (int, float) or not 0 < sample < 1e9:
            raise ValueError(f"{where} has a time of {str(sample)[:40]} s")
    launches = row.get("launches")
    if launches is None:
        return
    counts = isinstance(launches, list) and all(type(n) is int and n >= 1 for n in launches)
    if not counts or sum(launches) != len(samples):
        raise ValueError(f"{where} has launches that do not add up to its samples")


def _plain(value: Any, where: str) -> None:
    """A text, a number, a truth value or nothing."""
    if isinstance(value, str):
        _text_of(value, where)
    elif value is not None and (type(value) not in (int, float, bool) or not math.isfinite(value)):
        raise ValueError(f"{where} is {str(value)[:40]}")


def _text_of(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > TEXT_MOST:
        raise ValueError(f"{where} is not a text of at most {TEXT_MOST:,} characters")
    return value


def _shown(path: str | Path) -> str:
    return printable(str(path))
