"""The flight recorder: which rank never came to which collective.

    DISTLAB_FLIGHT=flight distlab train --config configs/fsdp_2gpu.yaml     # or torchrun -m distlab.train ...
    distlab profile flight flight                                            # after it hung or died

torch keeps the last collectives of each rank in a ring, for NCCL and, since 2.10, for gloo. With DISTLAB_FLIGHT set,
a rank whose collective fails asks all others for theirs, and each writes `rank_N.flight.json` there: what it had
called, and where its main thread is now. The asking goes by a file, so that it also reaches a rank that hangs.
What NCCL's own watchdog dumps (a pickle, `nccl_trace_rank_N`) is read as well, by an unpickler that builds nothing but
plain data.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distlab.files import write_whole

FOLDER = "DISTLAB_FLIGHT"
ENTRIES = 2000
"""Collectives that a rank remembers: what torch itself takes for NCCL."""

WANTED = "wanted"
DUMP = "rank_{}.flight.json"
POLL_S = 0.5
ANSWER_S = 5.0
"""How long a rank that fails waits for the others' records."""


@contextlib.contextmanager
def flight_recorder() -> Iterator[None]:
    """Around all that a rank does, from before its process group exists; nothing without DISTLAB_FLIGHT."""
    name = os.environ.get(FOLDER)
    if not name:
        yield
        return
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(ENTRIES))
    os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "1")
    os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(folder / "nccl_trace_rank_"))
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    _forget(folder, rank)
    over = threading.Event()
    started = time.time()
    watch = threading.Thread(target=_watch, args=(folder, rank, world_size, started, over), daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        _ask(folder, f"rank {rank}: {type(error).__name__}: {error}")
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline and not all(
            (folder / DUMP.format(rank)).exists() for rank in range(world_size)
        ):
            time.sleep(POLL_S / 5)
        raise
    finally:
        over.set()
        watch.join()


def _watch(folder: Path, rank: int, world_size: int, started: float, over: threading.Event) -> None:
    ended = False
    while not ended:
        ended = over.wait(POLL_S)
        if _is_wanted(folder, started):
            dump(folder, rank, world_size)
            return


def _is_wanted(folder: Path, started: float) -> bool:
    """Was it asked for since this attempt at the run began?"""
    try:
        return (folder / WANTED).stat().st_mtime >= started
    except OSError:
        return False


def _ask(folder: Path, why: str) -> None:
    """The first who asks tells why."""
    with contextlib.suppress(FileExistsError), (folder / WANTED).open("x", encoding="utf-8") as file:
        file.write(why[:2000])


def _forget(folder: Path, rank: int) -> None:
    """Remove what an earlier attempt left."""
    (folder / DUMP.format(rank)).unlink(missing_ok=True)
    if rank == 0:
        (folder / WANTED).unlink(missing_ok=True)


def dump(folder: Path, rank: int, world_size: int) -> None:
    """Write this rank's record. It needs no answer from the main thread, which may hang."""
    from torch._C import _distributed_c10d as c10d

    record: dict[str, Any] = {
        "rank": rank,
        "world_size": world_size,
        "host": socket.gethostname(),
        "time": time.time(),
        "main_thread": _main_thread(),
        "flight": json.loads(c10d._dump_fr_trace_json()),  # type: ignore[attr-defined]
    }
    write_whole(folder / DUMP.format(rank), json.dumps(record).encode())


def _main_thread() -> list[str]:
    """Where the main thread is, outermost call first."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return [line.rstrip() for line in traceback.format_stack(frame)] if frame is not None else []
