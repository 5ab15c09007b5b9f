"""Files appear whole or not at all, damage shows, and the order of writing survives a power cut."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distlab.train.checkpoint import Checkpoints
from distlab.train.checkpoint.folder import Damage, Folder
from tests.train.checkpoint.states import make_state


def test_a_file_holds_what_its_name_says(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    name = folder.put("objects", b"weights", ".pt")
    assert name == f"objects/{hashlib.sha256(b'weights').hexdigest()}.pt"
    assert (tmp_path / name).read_bytes() == folder.get(name) == b"weights"
    folder.check(name, 7)
    assert folder.put("objects", memoryview(b"")) == f"objects/{hashlib.sha256().hexdigest()}"


@pytest.mark.parametrize("content", [b"weighty", b"weight", b"", None])
def test_a_file_that_changed_or_vanished_is_named(tmp_path: Path, content: bytes | None) -> None:
    folder = Folder(tmp_path)
    name = folder.put("objects", b"weights")
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Damage, match=name):
        folder.check(name, 7)
    with pytest.raises(Damage, match=name):
        folder.get(name)
    # Damage that is known is repaired by the next save that needs the file.
    assert folder.put("objects", b"weights") == name
    folder.check(name, 7)


def test_what_is_there_is_not_written_again_but_a_strangers_file_is_read_first(tmp_path: Path) -> None:
    name = Folder(tmp_path).put("objects", b"weights")
    before = (tmp_path / name).stat()
    other = Folder(tmp_path)
    other.put("objects", b"weights")
    assert (tmp_path / name).stat().st_ino == before.st_ino
    (tmp_path / name).write_bytes(b"WEIGHTS")  # of equal size
    Folder(tmp_path).put("objects", b"weights")
    assert (tmp_path / name).read_bytes() == b"weights"


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("old", b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.write("old", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert folder.names() == ["old"]
    assert folder.read("old") == b"old"


class Journal:
    """What a process asks the system to do with files, in order: (call, path)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.paths: dict[int, str] = {}
        real_open, real_fsync = os.open, os.fsync

        def open_(path: str, *args: Any) -> int:
            descriptor = real_open(path, *args)
            self.paths[descriptor] = path
            return descriptor

        def fsync(descriptor: int) -> None:
            real_fsync(descriptor)
            self.calls.append(("fsync", self.paths[descriptor]))

        monkeypatch.setattr(os, "open", open_)
        monkeypatch.setattr(os, "fsync", fsync)
        for name in ("replace", "remove", "mkdir", "rmdir"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*paths: str) -> None:
            real(*paths)
            self.calls += [(name, path) for path in paths]

        return call

    def unsynced(self) -> Iterator[tuple[str, str, set[str]]]:
        """Each call with the names that a power cut just before it could lose, or bring back."""
        names: set[str] = set()
        contents: set[str] = set()
        for call, path in self.calls:
            yield call, path, names | contents
            if call == "fsync":
                contents.discard(path)
                names -= {name for name in names if os.path.dirname(name) == path}
            else:
                names.add(path)


@pytest.mark.parametrize("incremental", [False, True])
def test_a_power_cut_finds_no_mark_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, incremental: bool
) -> None:
    checkpoints = Checkpoints(tmp_path / "runs" / "a", keep=1, incremental=incremental)
    checkpoints.save(1, make_state(1))
    journal = Journal(monkeypatch)
    checkpoints.save(2, make_state(2))

    new_mark, old_mark = (str(tmp_path / "runs" / "a" / f"step_{n}.json") for n in (2, 1))
    fsynced: set[str] = set()
    marked = unmarked = False
    for call, path, unsynced in journal.unsynced():
        if call == "fsync":
            fsynced.add(path)
        if call == "replace" and path.endswith(".part"):
            assert path in fsynced, f"{path} gets its name before its bytes are safe"
        if (call, path) == ("replace", new_mark):
            marked = True
            parts = {p for p in unsynced if p.endswith(".part")}
            assert unsynced <= parts | {new_mark}, "files whose names a power cut could lose"
        if (call, path) == ("remove", old_mark):
            unmarked = True
            assert marked
            assert new_mark not in unsynced, "the old mark goes before the new one is safe"
        elif call in ("remove", "rmdir"):
            assert unmarked, "a file goes before its mark"
            assert old_mark not in unsynced, "a file goes before its mark is surely gone"
    assert marked
    assert unmarked
    assert journal.calls[-1][0] == "fsync"
