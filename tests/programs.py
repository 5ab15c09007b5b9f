"""Programs that a test puts in the place of the system's."""

from __future__ import annotations

from pathlib import Path


def command(folder: Path, name: str, script: str) -> None:
    """Put a command of one's own into `folder`."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
