"""One run at a time in a folder: two would tear each other's log and checkpoints.

Rank 0 holds a lock (`flock`) on `<run folder>/run.lock` while it trains. The system lifts it with the process,
however that ends, so that a crash leaves nothing to clear away.

An object store has no locks. A run in one (`s3://...`) locks the folder where its log is kept meanwhile (see
logs.py): that keeps out a second one from the same directory, and none from elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist

from distlab.errors import SettingError, printable
from distlab.files import open_regular
from distlab.train.config import TrainConfig
from distlab.train.logs import is_resumed, local_folder
from distlab.train.records import LOCK

GLANCE_S = 0.2
"""How long any run waits: who only asks whether the lock is held (`distlab observe export`) has it for a moment."""
PATIENCE_S = 20
"""How long a run that is taken up again waits: its own killed rank may take a moment to be gone."""
POLL_S = 0.02


@contextmanager
def only_run(config: TrainConfig) -> Iterator[None]:
    """Hold the run's folder; every rank enters at the same point.

    SettingError, on every rank, where another run holds it.
    """
    log = local_folder(config)
    if log is None:
        yield
        return
    held: IO[Any] | None = None
    refused: list[SettingError | None] = [None]
    if not dist.is_initialized() or dist.get_rank() == 0:
        try:
            held = _lock(log.parent, PATIENCE_S if is_resumed(config) else GLANCE_S)
        except SettingError as error:
            refused[0] = error
    if dist.is_initialized():
        dist.broadcast_object_list(refused, src=0)
    if refused[0] is not None:
        raise refused[0]
    try:
        yield
    finally:
        if held is not None:
            held.close()


def _lock(folder: Path, patience_s: float) -> IO[Any]:
    """The lock file, locked until it is closed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open_regular(folder / LOCK, "a+", encoding="utf-8", errors="replace")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise SettingError(
            f"Cannot write into {folder}: {error}; set folder to one that can be written."
        ) from None
    until = time.monotonic() + patience_s
    told = False
    while not _try(file):
        file.seek(0)
        busy = f"{printable(file.read(100).strip()) or 'Another process'} is writing a run into {folder}"
        if time.monotonic() >= until:
            file.close()
            raise SettingError(f"{busy}; let it end first, or choose another name.")
        if not told and patience_s > GLANCE_S:
            print(f"{busy}: waiting up to {patience_s:.0f} s for its end.", file=sys.stderr)
            told = True
        time.sleep(POLL_S)
    file.truncate(0)
    file.write(f"Process {os.getpid()} on {platform.node()}\n")
    file.flush()
    return file


def _try(file: IO[Any]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        # Lustre, for one, has locks only where it is mounted with `-o flock`.
        print(f"{file.name} cannot be locked ({error.strerror}): start no second run there.", file=sys.stderr)
    return True
