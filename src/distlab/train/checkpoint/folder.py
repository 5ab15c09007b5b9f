"""A folder on a disk or in an object store, whose files appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]

from distlab.errors import SettingError


class Damage(Exception):  # noqa: N818 - what is damaged is data, not the program
    """A file that is missing or does not hold what was written; the message names it and says how."""


class Folder:
    """Files below a path (`runs/demo`) or a URL that fsspec knows (`s3://bucket/runs/demo`).

    Names are relative to it, with `/`. Several threads and several processes may use one folder. It may be a
    link; a folder in it may not, where something is to be written or removed: SettingError.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url).rstrip("/")
        # Listings are not remembered: other ranks write here, too.
        self._fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
        self._root: str = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)
        self._unsynced: set[str] = set()
        self._sound: set[str] = set()

    def is_at(self, url: str) -> bool:
        """Is this the folder at `url`, which may be spelled in another way?"""
        other = Folder(url)
        if self._local and other._local:
            return os.path.realpath(self._root) == os.path.realpath(other._root)
        return type(self._fs) is type(other._fs) and self._root == other._root

    def write(self, name: str, content: bytes | memoryview) -> None:
        """Write a file, or replace it, whole or not at all.

        On a disk its bytes are safe when this returns, its name only after `sync`. An object store does
        both in its one request.
        """
        path = self._path(name)
        if not self._local:
            self._fs.pipe_file(path, bytes(content))
            return
        self._refuse_linked(name)
        parent = os.path.dirname(path)
        _make_folder(parent)
        part = f"{parent}/.{uuid.uuid4().hex}.part"
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                rest = memoryview(content)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise
        self._unsynced.add(parent)

    def sync(self) -> None:
        """Return once every name written or removed so far would survive a power cut."""
        while self._unsynced:
            _sync(self._unsynced.pop())

    def put(self, below: str, content: bytes | memoryview, suffix: str = "") -> str:
        """Store `content` as `below/<sha256><suffix>` and return that name. What is there is not written again.

        A file that another process left is read once before it is relied on.
        """
        name = f"{below}/{hashlib.sha256(content).hexdigest()}{suffix}"
        if not self._holds(name, len(content)):
            self.write(name, content)
        elif self._local:  # who wrote it may have died before it synced the name
            self._unsynced.add(os.path.dirname(self._path(name)))
        self._sound.add(name)
        return name

    def _holds(self, name: str, size: int) -> bool:
        try:
            if name not in self._sound:
                self.check(name, size)
            return bool(self._fs.size(self._path(name)) == size)
        except (Damage, FileNotFoundError):
            return False

    def trust(self, names: Iterable[str]) -> None:
        """Another process has checked these files."""
        self._sound.update(names)

    def check(self, name: str, size: int) -> None:
        """Raise Damage unless `name`, a file from `put`, has `size` bytes and the content it is named by."""
        self._sound.discard(name)
        with _unreadable_is_damage(name):
            self._refuse_special(name)
            found = self._fs.size(self._path(name))
            if found != size:
                raise Damage(f"{name} has {found} bytes of {size}")
            with self._fs.open(self._path(name), "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        _compare(name, digest)
        self._sound.add(name)

    def get(self, name: str, most: int | None = None) -> bytes:
        """The content of a file from `put`; Damage where it is not what was put there, or has over `most` bytes."""
        content = self.read(name, most)
        _compare(name, hashlib.sha256(content).hexdigest())
        return content

    def read(self, name: str, most: int | None = None) -> bytes:
        """The content of any file, unchecked; Damage where it is missing, cannot be read or has over `most` bytes."""
        with _unreadable_is_damage(name):
            self._refuse_special(name)
            if most is not None and (size := self._fs.size(self._path(name))) > most:
                raise Damage(f"{name} has {size} bytes; expected at most {most}")
            content: bytes = self._fs.cat_file(self._path(name))
        return content

    def names(self) -> list[str]:
        """Every file of the folder and of the folders in it; none where the folder does not exist."""
        found = self._fs.find(self._root, maxdepth=2)
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def remove(self, names: list[str]) -> None:
        """Remove files, and the folders that are empty without them."""
        if not names:
            return
        for name in names if self._local else []:
            self._refuse_linked(name)
        self._fs.rm([self._path(name) for name in names])
        if self._local:
            parents = {os.path.dirname(self._path(name)) for name in names}
            self._unsynced |= parents
            for parent in parents - {self._root}:
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(parent)
                    self._unsynced.discard(parent)
                    self._unsynced.add(self._root)

    def _refuse_special(self, name: str) -> None:
        """Damage for a pipe or a device, which can be read without an end."""
        if self._local and not stat.S_ISREG(os.stat(self._path(name)).st_mode):
            raise Damage(f"{name} cannot be read (it is not a regular file)")

    def _refuse_linked(self, name: str) -> None:
        """A run's folder may come from someone else, and its links lead to files that are not the run's."""
        for parent in PurePosixPath(name).parents[:-1]:
            if os.path.islink(path := self._path(str(parent))):
                raise SettingError(
                    f"{path} is a link, and what it leads to may be someone else's; put a folder in its place, or "
                    "choose another name."
                )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextlib.contextmanager
def _unreadable_is_damage(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise Damage(f"{name} is missing") from None
    except (ConnectionError, TimeoutError):
        raise  # a store that does not answer says nothing about its files
    except OSError as error:
        raise Damage(f"{name} cannot be read ({type(error).__name__}: {error})") from error


def _compare(name: str, digest: str) -> None:
    if PurePosixPath(name).name.split(".")[0] != digest:
        raise Damage(f"{name} does not hold what was written (its sha256 is now {digest})")


def _make_folder(path: str) -> None:
    """`mkdir -p`, and each new folder's name is safe on the disk when this returns."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_folder(parent)
    with contextlib.suppress(FileExistsError):  # another rank was faster
        os.mkdir(path)
    _sync(parent)


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
