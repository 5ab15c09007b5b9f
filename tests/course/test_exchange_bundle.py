"""A folder on the wire: what goes in comes out, and nothing ever lands outside its folder."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.course.exchange.bundle import (
    MIB,
    Bundle,
    Entry,
    Receiver,
    RefusedError,
    UploadLimits,
    check_entries,
    check_path,
    content_sha256,
    find_files,
)

LIMITS = UploadLimits()


def message(*files: tuple[str, bytes]) -> bytes:
    """A bundle as a hostile sender could write it: any path, honest digests."""
    listing = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in files
    ]
    return json.dumps({"files": listing}).encode() + b"\n" + b"".join(content for _, content in files)


def receive(data: bytes, folder: Path, limits: UploadLimits = LIMITS, step: int = 1 << 16) -> list[Entry]:
    receiver = Receiver(folder, limits)
    try:
        for start in range(0, len(data), step):
            receiver.feed(data[start : start + step])
        return receiver.finish()
    finally:
        receiver.close()


EVIL = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "a//b",
    "a/",
    "./a",
    "a\x00b",
    "a\nb",
    "a\\..\\b",
    "a\u202egnp.ipynb",
    "a\u200bb",
    "\ud800",
    "cafe\u0301.ipynb",
    " a",
    "a ",
    "a./b",
    "x" * 256,
    "d/" * 16 + "x",
    "é" * 300,
]


@pytest.mark.parametrize("path", EVIL)
def test_a_path_that_could_do_harm_is_refused_and_nothing_is_written(path: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(RefusedError, match="rename the file"):
        receive(message((path, b"x")), folder)
    assert [str(found) for found in tmp_path.rglob("*")] == [str(folder)]


@given(st.text(max_size=40) | st.lists(st.sampled_from(["..", ".", "", "a", "~", "/"])).map("/".join))
def test_an_accepted_path_stays_in_its_folder(path: str) -> None:
    try:
        check_path(path)
    except RefusedError:
        return
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "in")
        folder.mkdir()
        receive(message((path, b"x")), folder)
        assert os.listdir(parent) == ["in"]
        assert (folder / path).resolve().is_relative_to(folder.resolve())
        assert (folder / path).read_bytes() == b"x"
        assert [name for name, _ in find_files(folder)[0]] == [path]


names = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="/\\."), min_size=1, max_size=8
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=200), max_size=6
)


@settings(max_examples=60)
@given(trees, st.integers(1, 300))
def test_what_is_sent_arrives_whatever_the_chunks(tree: dict[str, bytes], step: int) -> None:
    entries = [Entry(path, len(content), "") for path, content in tree.items()]
    try:
        check_entries(entries, LIMITS)
    except RefusedError:
        return
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        for path, content in tree.items():
            Path(one, path).parent.mkdir(parents=True, exist_ok=True)
            Path(one, path).write_bytes(content)
        with Bundle(find_files(Path(one))[0], LIMITS) as bundle:
            data = b"".join(bundle)
            assert len(data) == len(bundle)
            arrived = receive(data, Path(other), step=step)
        assert {entry.path: Path(other, entry.path).read_bytes() for entry in arrived} == tree


@settings(max_examples=60)
@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps({"files": value}).encode() + b"\n"
))  # fmt: skip
def test_garbage_is_refused_in_words(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            entries = receive(data, Path(folder))
        except RefusedError:
            entries = []
        assert entries == []
        assert os.listdir(folder) == []


@pytest.mark.parametrize(
    "head", [b"[" * 100_000, b'{"files": [{"path": "a", "bytes": -1, "sha256": ""}]}',
             b'{"files": [{"path": "a", "bytes": true, "sha256": ""}]}', b'{"files": {"a": 1}}',
             b'{"files": [{"path": "a", "bytes": ' + b"9" * 5000 + b', "sha256": ""}]}'],
    ids=["nesting", "negative", "boolean", "no list", "huge number"],
)  # fmt: skip
def test_a_malformed_list_is_refused(head: bytes, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="does not begin with a list of its files"):
        receive(head + b"\n", tmp_path)


def test_a_list_without_end_is_cut_off(tmp_path: Path) -> None:
    receiver = Receiver(tmp_path, LIMITS)
    receiver.feed(b" " * MIB)
    with pytest.raises(RefusedError, match="too long"):
        receiver.feed(b" ")


@pytest.mark.parametrize(
    "paths", [("Lab.ipynb", "lab.ipynb"), ("a", "a"), ("a", "a/b"), ("A/x", "a/y"), ("straße", "STRASSE")]
)
def test_two_names_for_one_file_are_refused(paths: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="one name on some systems"):
        receive(message((paths[0], b""), (paths[1], b"")), tmp_path)
    assert os.listdir(tmp_path) == []


def test_each_limit_is_judged_before_anything_is_written(tmp_path: Path) -> None:
    small = replace(LIMITS, file_bytes=10, upload_bytes=15, files=3)
    with pytest.raises(RefusedError, match='"big" has'):
        receive(message(("big", b"x" * 11)), tmp_path, small)
    with pytest.raises(RefusedError, match="The folder has"):
        receive(message(("a", b"x" * 10), ("b", b"x" * 6)), tmp_path, small)
    with pytest.raises(RefusedError, match="has 4 files; at most 3"):
        receive(message(*((str(number), b"") for number in range(4))), tmp_path, small)
    assert os.listdir(tmp_path) == []


def test_bytes_that_do_not_match_the_list_are_refused(tmp_path: Path) -> None:
    whole = message(("a", b"12345"))
    with pytest.raises(RefusedError, match='"a" arrived damaged'):
        receive(whole[:-1] + b"6", tmp_path)
    for folder in ("cut", "long"):
        (tmp_path / folder).mkdir()
    with pytest.raises(RefusedError, match="ended before"):
        receive(whole[:-1], tmp_path / "cut")
    with pytest.raises(RefusedError, match="longer than its list"):
        receive(whole + b"x", tmp_path / "long")


def test_links_devices_and_sockets_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder-link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        files, left_out = find_files(tmp_path)
    assert [path for path, _ in files] == ["real"]
    assert left_out == ["folder-link", "link", "pipe", "socket"]


def test_the_digest_of_a_folder_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("b", "a", "sub/c"):
        (tmp_path / name).write_text(name)
    with Bundle(find_files(tmp_path)[0], LIMITS) as bundle:
        ours = content_sha256(bundle.entries)
    listing = subprocess.run(["sha256sum", "a", "b", "sub/c"], cwd=tmp_path, capture_output=True, check=True)
    assert ours == hashlib.sha256(listing.stdout).hexdigest()
