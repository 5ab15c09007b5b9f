"""Opening and reading files that somebody else may have put there; writing files whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from pathlib import Path
from typing import IO, Any, overload


@overload
def open_regular(path: Path) -> IO[bytes]: ...
@overload
def open_regular(path: Path, mode: str, **options: Any) -> IO[Any]: ...
def open_regular(path: Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """`open` for regular files alone. OSError for a link, which may lead anywhere, a pipe or a device."""

    def opener(name: str, flags: int) -> int:
        # O_NONBLOCK: opening a pipe must not wait for its other end.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "it is not a regular file", name)
        return descriptor

    if path.is_symlink():
        raise OSError(errno.ELOOP, "it is a link, not a regular file", str(path))
    return open(path, mode, opener=opener, **options)


def read_limited(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file; OSError for a link, a pipe, a device, or one that is longer."""
    with open_regular(path) as file:
        longer = os.fstat(file.fileno()).st_size > most_bytes
        content = b"" if longer else file.read(most_bytes + 1)
    if longer or len(content) > most_bytes:
        raise OSError(f"it has more than {most_bytes} bytes")
    return content


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file, or replace it: beside it, synced, renamed. OSError, and nothing left of it, where it cannot be.

    A link in its place is replaced, not followed.
    """
    target = Path(path)
    part = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.part"
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_text(name: str) -> bool:
    """A file's name may hold bytes that are no text: Python has lone surrogates for them, which cannot be written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
