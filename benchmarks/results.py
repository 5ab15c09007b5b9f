"""The table of results: one row per name and peer, replaced on a rerun."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from distlab.machine import cores, cpu_model

PATH = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Result:
    """One measured figure.

    `ratio` is `value` over the peer's value in the same run; both are None where there is no peer.
    """

    name: str
    value: float
    unit: str
    peer: str | None = None
    ratio: float | None = None


def machine() -> str:
    """This machine in one line: processor, cores, memory, system, Python."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return f"{cpu_model()}, {cores()} cores, {memory_gib:.0f} GiB, Python {platform.python_version()}"


def record(results: list[Result], command: str) -> None:
    """Put the rows into `results.json` (atomically) in place of those of the same name and peer."""
    rows = json.loads(PATH.read_text()) if PATH.exists() else []
    replaced = {(result.name, result.peer) for result in results}
    rows = [row for row in rows if (row["name"], row["peer"]) not in replaced]
    stamp = {
        "machine": machine(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
    }
    rows += [{**asdict(result), **stamp} for result in results]
    rows.sort(key=lambda row: (row["name"], row["peer"] or ""))
    fresh = PATH.with_suffix(".new")
    fresh.write_text(json.dumps(rows, indent=1) + "\n")
    fresh.replace(PATH)
