"""Faults of storage: a checkpoint that loses bits, a disk that is full, a folder that does not answer.

damage("runs/demo/step_20.ckpt")      # one bit of its largest file flips
truncate("runs/demo/step_20.ckpt")    # its largest file loses its second half
stall(Path("runs/demo"), 60)          # for a minute, whatever this process opens in it waits
with small_disk(64) as folder: ...    # a file system of 64 MiB, gone afterwards
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import psutil

from distlab.errors import SettingError
from distlab.faults.network import owner

SMALL_BYTES = 2**30
"""A file system up to this size is filled for good; on a larger one others would suffer."""
LEFT_BYTES = 16 * 2**10
"""What a full disk still takes: a few lines of a log, no checkpoint."""


def damage(path: str | Path) -> str:
    """Flip one bit in the middle of a file, or of the largest file under a folder; return that file's path.

    path: local, or an fsspec URL (`s3://...`). SettingError where there is no file that holds anything.
    """
    files, victim = _largest(path)
    data = bytearray(files.cat_file(victim))
    data[len(data) // 2] ^= 1
    files.pipe_file(victim, bytes(data))
    return victim


def truncate(path: str | Path) -> str:
    """Cut off the second half of a file, or of the largest file under a folder; return that file's path.

    path: local, or an fsspec URL. SettingError where there is no file that holds anything.
    """
    files, victim = _largest(path)
    data = files.cat_file(victim)
    files.pipe_file(victim, data[: len(data) // 2])
    return victim


def newest_checkpoint(run_folder: str) -> str:
    """The `step_N.ckpt` of the highest N whose `step_N.json`, written last, is there.

    SettingError where there is none.
    """
    files, root = fsspec.core.url_to_fs(run_folder)
    names = [Path(name).name for name in files.ls(root, detail=False)] if files.exists(root) else []
    steps = [int(match[1]) for name in names if (match := re.fullmatch(r"step_(\d+)\.json", name))]
    if not steps:
        raise SettingError(f"{run_folder} holds no complete checkpoint (`step_N.ckpt` with `step_N.json`).")
    return f"{run_folder}/step_{max(steps)}.ckpt"


def fill_disk(folder: Path) -> str:
    """Leave no space (16 KiB) for what this process writes under `folder`; say by which means.

    On a file system of 1 GiB or less (`small_disk`) a file `ballast` takes all of it, and writers get ENOSPC
    ("No space left on device"). On a larger one, which others share, this process alone loses the right to
    write files of more than 16 KiB, and gets EFBIG ("File too large").
    """
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).total > SMALL_BYTES:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LEFT_BYTES, hard))
        return (
            f"{folder} is on a large file system: this process may write files of {LEFT_BYTES} bytes (EFBIG)."
        )
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        file.truncate(max(0, file.tell() - LEFT_BYTES))
    return f"{ballast} fills the file system of {folder} but for {LEFT_BYTES} bytes (ENOSPC)."


HELD = frozenset({"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.scandir"})
"""Python's audit events of what waits while a folder is stalled."""
_stalled: dict[str, tuple[float, threading.Event]] = {}
"""Folders that do not answer this process: until when (time.monotonic), and what ends it before."""
_hooked = False


def stall(folder: Path, seconds: float) -> None:
    """For `seconds`, whatever this process opens, lists, makes, renames or removes in a folder waits, and then goes on.

    So does a network file system that is mounted `hard`, whose server is silent: no error, no end of its own. Each
    thread waits for itself; files that are open already, such as a log, go on as where they lie on another disk. Other
    processes are not concerned. `answer_again` ends it before its time.
    """
    global _hooked
    if not _hooked:  # Python takes no hook away again: without a stalled folder this one does nothing
        sys.addaudithook(_hold)
        _hooked = True
    _stalled[os.path.realpath(folder)] = (time.monotonic() + seconds, threading.Event())


def answer_again(folder: Path) -> None:
    """End a stall now: all that waited goes on."""
    _, over = _stalled.pop(os.path.realpath(folder), (0.0, None))
    if over is not None:
        over.set()


def is_stalled(folder: Path) -> bool:
    """Does this process wait for the folder, or would it?"""
    until, _ = _stalled.get(os.path.realpath(folder), (0.0, None))
    return time.monotonic() < until


def _hold(event: str, args: tuple[object, ...]) -> None:
    """The audit hook: it returns when what the event announces may happen."""
    if not _stalled or event not in HELD:
        return
    for name in args[:2]:  # a renaming has two
        if not isinstance(name, str | os.PathLike) or not os.fspath(name):
            continue
        path = f"{os.path.realpath(name)}/"
        for folder, (until, over) in list(_stalled.items()):
            if path.startswith(f"{folder}/") and not over.wait(max(0.0, until - time.monotonic())):
                _stalled.pop(folder, None)  # its time is over


@contextlib.contextmanager
def small_disk(size_MiB: int) -> Iterator[Path]:  # noqa: N803 - units keep their case
    """A file system in memory (tmpfs) of `size_MiB`, unmounted and gone on leaving.

    SettingError without the right to mount (root).
    """
    folder = Path(tempfile.mkdtemp(prefix="distlab-disk-"))
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_MiB}m", owner(psutil.Process()), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode:
            raise SettingError(
                f"Cannot mount a file system of {size_MiB} MiB as user {os.getuid()} "
                f"({mounted.stderr.strip()}); run as root."
            )
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


def _largest(path: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    files, root = fsspec.core.url_to_fs(str(path))
    sizes = {name: info["size"] for name, info in files.find(root, detail=True).items()}
    if not any(sizes.values()):
        raise SettingError(f"{path} holds no file with anything in it; expected a checkpoint, `step_N.ckpt`.")
    return files, max(sizes, key=lambda name: (sizes[name], name))
