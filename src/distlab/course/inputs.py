"""What a result was made from, as one hash, and the folder in which the user's results are kept by such hashes."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from distlab.machine import hardware


def digest(*parts: str) -> str:
    """A hash of texts, short enough for a file's name."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def contents(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """Of each file its name below `root`, and a hash of what it holds."""
    for path in sorted(paths):
        state = path.stat()
        yield f"{path.relative_to(root)}\0{_hash(path, state.st_ino, state.st_size, state.st_mtime_ns)}"


@functools.lru_cache(maxsize=10_000)
def _hash(path: Path, *state: int) -> str:
    """Of what the file holds, while its `state` is this."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_below(folder: Path) -> list[Path]:
    """The regular files below `folder`, sorted; no hidden ones, no caches, no build output."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("__pycache__", "_build") and name[0] != "."]
        found += [Path(where, name) for name in names if name[0] != "."]
    return sorted(found)


def surroundings() -> str:
    """The Python, what is installed, and the machine."""
    machine = hardware()
    gpus = [gpu.name for gpu in machine.gpus]
    return json.dumps([sys.version, _installed(), machine.cpu, machine.cores, gpus])


def _installed() -> list[str]:
    """What is installed, as `name-version.dist-info`; what a module has added to sys.path is left out of it."""
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    return sorted(path.name for folder in folders for path in folder.glob("*.dist-info"))


def user_cache(name: str) -> Path:
    """The user's folder for results of a kind. Raises PermissionError where others could have written into it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distlab" / name
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = base.stat()
    if state.st_uid != os.geteuid() or state.st_mode & 0o022:
        raise PermissionError(
            f"{base} belongs to another user or can be written by others, so that its content cannot be "
            "trusted: remove it, or set XDG_CACHE_HOME to a folder of your own."
        )
    return base
