"""Opening files that somebody else may have put there."""

from __future__ import annotations

import errno
import os
import stat
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
