"""What was recorded, as the course reads it: an empty tier says so, and files of others are read with suspicion."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from distlab.cli import main
from distlab.errors import SettingError
from distlab.record.recordings import (
    FOLDER,
    MANIFEST,
    read_recording,
    recorded_tier,
    recordings,
    recordings_folder,
    unpacked,
)
from distlab.record.store import Store

STAMP = {
    "tier": "gpu",
    "hardware": "NVIDIA H200",
    "driver": "580.1",
    "date": "2026-11-29T00:00:00+00:00",
    "command": "scripts/record_gpu",
    "torch": "2.13.0",
    "system": "Linux",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording of one part."""
    store = Store(tmp_path / "nvidia-h200-x1", STAMP)
    store.begin("bench")
    store.add(
        "bench", "bench.json", b"{}", kind="results", about="What it reaches", command="c", scratch=tmp_path
    )
    store.end("bench", "done", 1.0)
    return store.folder


def test_the_empty_tier_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "The recorded tier is empty" in recorded_tier(tmp_path)
    assert "The recorded tier is empty" in recorded_tier(tmp_path / "missing")
    monkeypatch.delenv(FOLDER, raising=False)
    assert (recordings_folder() / "README.md").is_file(), "the repository's own"


def test_what_there_is_is_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FOLDER, str(folder.parent))
    assert recorded_tier() == "The recorded tier holds NVIDIA H200 of 2026-11-29 (1 files)."
    for arguments in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["bench", "recordings", *arguments])
        assert not ended.value.code
        told = capsys.readouterr().out
    assert json.loads(told)[0]["files"][0]["provenance"]["driver"] == "580.1"


def test_the_newest_comes_first_and_what_is_none_is_passed_over(folder: Path) -> None:
    Store(folder.parent / "older", {**STAMP, "date": "2025-01-01T00:00:00+00:00"}).write()
    Store(folder.parent / "rehearsal", {**STAMP, "tier": "cpu"}).write()
    (folder.parent / "README.md").write_text("words")
    (folder.parent / "link").symlink_to(folder)
    assert [found.folder.name for found in recordings(folder.parent)] == [folder.name, "older"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "../../etc/passwd"}, "is no file's name"),
        ({"name": "/etc/passwd"}, "is no file's name"),
        ({"name": ".hidden"}, "is no file's name"),
        ({"name": "a/b/c"}, "is no file's name"),
        ({"name": "missing.json"}, "missing.json"),
        ({"bytes": 3}, "is not the file of 3 bytes"),
        ({"provenance": {}}, "lacks tier"),
        ({"kind": 7}, "a short text is expected"),
    ],
)
def test_a_manifest_of_somebody_else_s_is_no_traceback(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["parts"]["bench"]["files"][0] |= change
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(SettingError, match="is no recording that can be read") as refused:
        read_recording(folder)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{" * 100_000, '{"format": "distlab recording", "version": 9}']
)
def test_a_manifest_that_is_none(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(SettingError, match="is no recording that can be read"):
        read_recording(folder)


def test_links_are_not_followed(folder: Path) -> None:
    (folder / "bench.json").rename(folder / "ab")
    (folder / "bench.json").symlink_to("ab")  # a link of as many bytes as the file had
    with pytest.raises(SettingError):
        read_recording(folder)
    with pytest.raises(SettingError, match=r"Cannot read bench\.json"):
        unpacked(folder / "bench.json")


def test_packed_files_that_are_cut_off_or_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gzip.compress(b"x" * 10_000)
    file = tmp_path / "trace.json.gz"
    file.write_bytes(whole)
    assert unpacked(file) == b"x" * 10_000
    file.write_bytes(whole[:-12])
    with pytest.raises(SettingError, match="it is cut off"):
        unpacked(file)
    file.write_bytes(whole)
    monkeypatch.setattr("distlab.record.recordings.MOST_UNPACKED_BYTES", 1000)
    with pytest.raises(SettingError, match="it unpacks to too much"):
        unpacked(file)
