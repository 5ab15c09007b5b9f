"""`profile.json`: what was profiled, where, and how it ended."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from distlab.errors import SettingError
from distlab.files import read_limited, write_whole
from distlab.observe.profile.analysis import FORMAT, PROFILE, FlameGraph, clean_json
from distlab.observe.profile.capture import CaptureOptions

MOST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Description:
    """A profile as the command that made it describes it."""

    command: str
    options: CaptureOptions = field(default_factory=CaptureOptions)
    exit_code: int | None = None
    """None until the command has ended."""
    world_size: int = 0
    ranks: tuple[int, ...] = ()
    """That left a trace which can be read."""
    steps_profiled: int = 0
    """Of the rank that recorded fewest."""
    stamp: dict[str, Any] = field(default_factory=dict)
    """The fields of `distlab.bench.stamp.Stamp`, of the first rank."""
    flame_graph: FlameGraph | None = None
    problems: tuple[str, ...] = ()
    """Of the recording; those of the analysis are in `analysis.json`."""
    format: int = FORMAT


def claim(folder: Path, description: Description) -> None:
    """Make the folder of a profile ours. SettingError where it holds anything, or cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
        raise SettingError(_unwritable(folder, error)) from None
    if used:
        raise SettingError(
            f"{folder} is not empty: another profile, or another's files; delete it, or set --out to a new folder."
        )
    try:
        descriptor = os.open(folder / PROFILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise SettingError(_unwritable(folder, error)) from None
    with open(descriptor, "wb") as file:
        file.write(_encode(description))


def _unwritable(folder: Path, error: Exception) -> str:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return f"Cannot write into {folder}: {why}; set --out to a new folder."


def write_description(folder: Path, description: Description) -> None:
    """Write `profile.json` anew, whole or not at all."""
    write_whole(folder / PROFILE, _encode(description))


def read_description(folder: Path) -> Description:
    """`profile.json` of a folder; where there is none that can be read, one that says so."""
    import pydantic

    try:
        content = clean_json(read_limited(folder / PROFILE, MOST_BYTES))
        return pydantic.TypeAdapter(Description).validate_json(content)
    except FileNotFoundError:
        return Description("unknown", problems=(f"{PROFILE} is missing: the command is not known.",))
    except (OSError, ValueError, RecursionError):
        return Description("unknown", problems=(f"{PROFILE} cannot be read: the command is not known.",))


def _encode(description: Description) -> bytes:
    return json.dumps(asdict(description)).encode()
