"""A folder on the wire: one line of JSON that names every file, then the files' bytes in that order.

    {"files": [{"path": "a/b.ipynb", "bytes": 3, "sha256": "..."}]}\\n<bytes of a/b.ipynb>...

Why not tar or zip: their readers must cope with links, devices, sparse files and nested headers, and
Python's tarfile has looped for ever on hostile headers in versions this course supports. Here a link or a
device cannot be said, every name and size is judged before the first byte is stored, and each file is
checked against its digest as it arrives.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from distlab.course.atomic import sync

MIB = 1 << 20
CHUNK_BYTES = 1 << 16
MANIFEST_BYTES = MIB
PATH_BYTES = 512
NAME_BYTES = 255
DEPTH = 16


class RefusedError(Exception):
    """Something that the exchange will not do; the message is one sentence for a person.

    `status` is the HTTP status that goes with it.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class UploadLimits:
    """What one user may send and keep."""

    file_bytes: int = 32 * MIB
    """Largest single file."""
    upload_bytes: int = 64 * MIB
    """All files of one upload together."""
    files: int = 200
    """Files in one upload."""
    notebooks: int = 20
    """Notebooks at the top of one upload."""
    user_bytes: int = 1024 * MIB
    """All kept submissions of one user together."""
    submissions: int = 100
    """Kept submissions of one user to one assignment."""
    uploads: int = 32
    """Uploads received at a time; more wait for their turn."""
    uploads_per_user: int = 2
    """Uploads of one user at a time, waiting ones included; more are refused."""
    upload_s: float = 120.0
    """Longest time for sending one upload, and for waiting for its turn."""


NO_LIMITS = UploadLimits(file_bytes=1 << 62, upload_bytes=1 << 62, files=1 << 31)
"""For what the exchange itself sends: it was judged when it came."""


@dataclass(frozen=True)
class Entry:
    """One file of a bundle: its path with `/` between the parts, its size, its SHA-256 in hex."""

    path: str
    bytes: int
    sha256: str


def size(count: int) -> str:
    """A number of bytes for a person."""
    return f"{count / MIB:.2f} MiB" if count >= MIB else f"{count:,} bytes"


def content_sha256(entries: Sequence[Entry]) -> str:
    """The SHA-256 of a whole folder: that of `sha256sum`'s output for its files, sorted by path."""
    lines = sorted(f"{entry.sha256}  {entry.path}\n" for entry in entries)
    lines.sort(key=lambda line: line[66:])
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_path(path: str) -> None:
    """Refuse a path that could leave its folder or means different files on different systems."""

    def refuse(why: str) -> RefusedError:
        return RefusedError(f"The file name {ascii(path)[:120]} {why}; rename the file.")

    if not path.isprintable():  # also lone surrogates, NUL, line breaks, invisible and direction marks
        raise refuse("has a character that cannot be shown")
    if len(path.encode()) > PATH_BYTES:
        raise refuse(f"is longer than {PATH_BYTES} bytes")
    if "\\" in path:
        raise refuse("has a backslash")
    if path != unicodedata.normalize("NFC", path):
        raise refuse("is not in Unicode's composed form (NFC)")
    parts = path.split("/")
    if len(parts) > DEPTH:
        raise refuse(f"is more than {DEPTH} folders deep")
    for part in parts:
        if part in ("", ".", ".."):
            raise refuse("has an empty, '.' or '..' part, or is absolute")
        if len(part.encode()) > NAME_BYTES:
            raise refuse(f"has a part longer than {NAME_BYTES} bytes")
        if part != part.strip(" ") or part.endswith("."):
            raise refuse("has a part that begins or ends with a space or ends with a dot")


def check_entries(entries: Sequence[Entry], limits: UploadLimits) -> None:
    """Refuse a list of files that breaks a limit, or in which two names mean one file."""
    if len(entries) > limits.files:
        raise RefusedError(f"The folder has {len(entries)} files; at most {limits.files} can be sent.", 413)
    spelling: dict[str, tuple[str, bool]] = {}
    for entry in entries:
        check_path(entry.path)
        if entry.bytes > limits.file_bytes:
            raise RefusedError(
                f'"{entry.path}" has {size(entry.bytes)}; at most {size(limits.file_bytes)} '
                "can be sent. Make it smaller or move it out of the folder.",
                413,
            )
        parts = entry.path.split("/")
        for depth in range(1, len(parts) + 1):
            name, is_file = "/".join(parts[:depth]), depth == len(parts)
            key = unicodedata.normalize("NFKC", name).casefold()
            other = spelling.get(key)
            if other and (is_file or other != (name, False)):
                raise RefusedError(f'"{other[0]}" and "{name}" are one name on some systems; rename one.')
            spelling[key] = (name, is_file)
    total = sum(entry.bytes for entry in entries)
    if total > limits.upload_bytes:
        raise RefusedError(
            f"The folder has {size(total)}; at most {size(limits.upload_bytes)} can be sent. "
            "Move large files out of it.",
            413,
        )


def parse_manifest(line: bytes) -> list[Entry]:
    """Read the first line of a bundle; only its form is checked here."""
    try:
        files = json.loads(line)["files"]
        entries = [Entry(item["path"], item["bytes"], item["sha256"]) for item in files]
        for entry in entries:
            if not (isinstance(entry.path, str) and isinstance(entry.sha256, str)):
                raise TypeError
            if type(entry.bytes) is not int or entry.bytes < 0:
                raise TypeError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise RefusedError("The upload does not begin with a list of its files.") from None
    return entries


class Receiver:
    """Writes an arriving bundle into `folder` (which exists and is empty), judging it as it comes.

    `feed` raises RefusedError at the first thing wrong and OSError when the disk refuses; the caller then
    throws the folder away.
    """

    def __init__(self, folder: Path, limits: UploadLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.entries: list[Entry] | None = None
        self._line = bytearray()
        self._next = 0
        self._file: IO[bytes] | None = None
        self._left = 0
        self._hash = hashlib.sha256()

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        if self.entries is None:
            head, newline, _ = data.partition(b"\n")
            self._line += head
            if len(self._line) > MANIFEST_BYTES:
                raise RefusedError("The list of files at the head of the upload is too long.", 413)
            if not newline:
                return
            entries = parse_manifest(bytes(self._line))
            check_entries(entries, self.limits)
            self.entries = entries
            view = view[len(head) + 1 :]
            self._open_next()
        while view:
            if self._file is None:
                raise RefusedError("The upload is longer than its list of files says.")
            part = view[: self._left]
            self._file.write(part)
            self._hash.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            if self._left == 0:
                self._open_next()

    def _open_next(self) -> None:
        """Close the file that is complete and open the next one that has bytes."""
        assert self.entries is not None
        while self._left == 0:
            if self._file is not None:
                self._file.close()
                self._file = None
                done = self.entries[self._next - 1]
                if self._hash.hexdigest() != done.sha256:
                    raise RefusedError(f'"{done.path}" arrived damaged; send the folder again.')
            if self._next == len(self.entries):
                return
            entry = self.entries[self._next]
            self._next += 1
            target = self.folder / entry.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._file = target.open("xb", buffering=0)
            self._left = entry.bytes
            self._hash = hashlib.sha256()

    def finish(self) -> list[Entry]:
        """The files, once all have arrived; RefusedError if the bundle ended early."""
        if self.entries is None or self._file is not None or self._next < len(self.entries):
            raise RefusedError("The upload ended before all its files had arrived; send it again.")
        return self.entries

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def find_files(
    folder: Path, ignored: Callable[[str, list[str]], Collection[str]] = lambda _folder, _names: ()
) -> tuple[list[tuple[str, Path]], list[str]]:
    """The regular files below `folder` as (path in the bundle, path on disk), and what was left out.

    Links, devices, sockets and pipes are left out and named. `ignored` is asked as in
    `shutil.copytree(ignore=...)`.
    """
    files: list[tuple[str, Path]] = []
    left_out: list[str] = []

    def walk(directory: Path, prefix: str) -> None:
        with os.scandir(directory) as scan:
            found = sorted(scan, key=lambda item: item.name)
        skip = set(ignored(str(directory), [item.name for item in found]))
        for item in found:
            if item.name in skip:
                continue
            path = unicodedata.normalize("NFC", prefix + item.name)
            if item.is_dir(follow_symlinks=False):
                walk(Path(item.path), path + "/")
            elif item.is_file(follow_symlinks=False):
                files.append((path, Path(item.path)))
            else:
                left_out.append(path)

    walk(folder, "")
    return files, left_out


class Bundle:
    """A snapshot of files, ready to send: iterate over its chunks, `len()` is its size in bytes.

    Taken at once, so that a file which a running kernel still writes cannot change between its digest and
    its sending. Close it after use.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], limits: UploadLimits) -> None:
        sizes = [Entry(path, source.stat().st_size, "") for path, source in files]
        check_entries(sizes, limits)
        entries = []
        self._content = tempfile.SpooledTemporaryFile(max_size=8 * MIB)  # noqa: SIM115 (closed in close)
        try:
            for path, source in files:
                digest, length = hashlib.sha256(), 0
                with source.open("rb") as stream:
                    while chunk := stream.read(CHUNK_BYTES):
                        digest.update(chunk)
                        length += len(chunk)
                        self._content.write(chunk)
                        if length > limits.file_bytes:
                            raise RefusedError(f'"{path}" grows while it is read; stop what writes it.', 413)
                entries.append(Entry(path, length, digest.hexdigest()))
            check_entries(entries, limits)
        except BaseException:
            self._content.close()
            raise
        self.entries = entries
        listing = {"files": [asdict(entry) for entry in entries]}
        self._head = json.dumps(listing, ensure_ascii=False).encode() + b"\n"

    def __len__(self) -> int:
        return len(self._head) + sum(entry.bytes for entry in self.entries)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        self._content.seek(0)
        while chunk := self._content.read(CHUNK_BYTES):
            yield chunk

    def __enter__(self) -> Bundle:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._content.close()


def sync_folder(folder: Path) -> None:
    """Push every file and directory below `folder`, and itself, to the disk."""
    for directory, _, names in os.walk(folder):
        for name in names:
            sync(Path(directory, name))
        sync(Path(directory))
