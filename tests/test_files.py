"""Files are read within limits, and written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distlab.files import read_limited, write_whole


def test_what_is_no_plain_file_or_too_long_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_whole(file, b"12345")
    assert read_limited(file, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_limited(file, 4)
    (tmp_path / "link").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    for name, why in [
        ("link", "it is a link"),
        ("pipe", "not a regular file|No such device"),
        ("absent", "No such file"),
        (".", "not a regular file"),
    ]:
        with pytest.raises(OSError, match=why):
            read_limited(tmp_path / name, 10)
    with pytest.raises(OSError, match="more than 10 bytes"):  # whose size the file system does not tell
        read_limited(Path("/proc/self/status"), 10)


def test_a_file_is_replaced_and_what_it_led_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "file").symlink_to(tmp_path / "other")
    write_whole(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "other").read_bytes() == b"other"


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "absent" / "file", tmp_path / ".."):
        with pytest.raises(OSError, match=r"Is a directory|No such file|busy|exists|not empty"):
            write_whole(path, b"x")
    (tmp_path / "file").write_bytes(b"before")

    def full(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"after")
    assert (tmp_path / "file").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
