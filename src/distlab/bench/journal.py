"""What ranks have found so far, in a folder: it outlives them, however they end.

Rank 0 adds; the process that started the ranks reads, while they run and after.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIX = ".item"


@dataclass(frozen=True)
class Doing:
    """What is measured now."""

    what: str


class Journal:
    """Objects in the order in which they were added, each a file that appears whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.count = 0

    def add(self, item: object) -> None:
        """By one process alone."""
        part = self.folder / "part"
        part.write_bytes(pickle.dumps(item))
        part.rename(self.folder / f"{self.count:06}{SUFFIX}")
        self.count += 1

    def items(self, start: int = 0) -> list[Any]:
        """What is there, from the item number `start` on."""
        names = sorted(self.folder.glob(f"*{SUFFIX}"))[start:]
        return [pickle.loads(name.read_bytes()) for name in names]
