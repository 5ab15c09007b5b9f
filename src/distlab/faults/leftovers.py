"""What injected faults may leave behind: a process that hangs, a full disk, a network, a small file system.

    distlab drill leftovers runs/demo       # exit code 1 if there is something, with the command that removes it

All other faults live in the process of the rank that they struck, and end with it: a delay, a limit on memory or on
the size of files, storage that does not answer. So a run whose lock nobody holds has none of them any more.
"""

from __future__ import annotations

import fcntl
import json as jsonlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.faults.network import owners
from distlab.files import open_regular
from distlab.train.records import LOCK

NAMESPACES = Path("/run/netns")
MOUNTS = Path("/proc/self/mounts")
SMALL_DISK = re.compile(r"^(distlab-\d+-\d+) (\S+) tmpfs ", re.MULTILINE)
"""What `small_disk` mounts, and the process that did."""


def leftovers(folders: Positional[tuple[Path, ...]] = (), json: bool = False) -> int:
    """Look for what injected faults have left on this machine and in the folders of runs; 1 if there is something.

    Args:
        folders: folders of runs, `<folder>/<name>` each.
        json: print what was found as JSON.
    """
    found = left_behind(folders)
    if json:
        print(jsonlib.dumps(found, indent=1))
    else:
        print("\n".join(found) if found else "Nothing is left of injected faults.")
    return int(bool(found))


def left_behind(folders: tuple[Path, ...] = ()) -> list[str]:
    """What is left, each in a sentence that says how it is removed. SettingError for a folder that is none.

    What a process that lives has made (a network, a small file system) is in use, and no leftover.
    """
    found = [sentence for folder in folders for sentence in _of_run(folder)]
    alive = owners()
    found += [
        f"The network namespace {path.name} has outlived its process: `ip netns delete {path.name}`."
        for path in sorted(NAMESPACES.glob("distlab-*"))
        if path.name.rpartition("-")[0] not in alive
    ]
    mounts = MOUNTS.read_text(encoding="utf-8", errors="replace") if MOUNTS.exists() else ""
    found += [
        f"A small file system is still mounted at {printable(place)}: `umount {printable(place)}`."
        for who, place in SMALL_DISK.findall(mounts)
        if who not in alive
    ]
    return found


def _of_run(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        raise SettingError(f"{folder} is no folder; name that of a run, <folder>/<name>.")
    if _is_held(folder / LOCK):
        yield (
            f"A process holds {folder}/{LOCK}: the run goes on, or hangs; Ctrl-C in its terminal ends it, and "
            f"`fuser {folder}/{LOCK}` names it."
        )
    ballast = folder / "ballast"
    if ballast.exists():
        yield f"{ballast} takes {ballast.stat().st_size:,} bytes: remove it."


def _is_held(lock: Path) -> bool:
    """Does a process hold the run's lock?"""
    try:
        file: IO[bytes] = open_regular(lock)
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
