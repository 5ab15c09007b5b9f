"""What was recorded on GPUs: the folders that `scripts/record_gpu` left in `recordings/`, read with suspicion.

    for recording in recordings():
        print(recording.hardware, [file.name for file in recording.files("telemetry")])
    recorded_tier()                        # one sentence; while nothing was recorded it says so

A recording, of a machine, is a folder with `manifest.json`, which says of every file where it comes from; the telemetry
files in it are read by `distlab.observe.recording`. Nothing here imports torch.
"""

from __future__ import annotations

import json as jsonlib
import os
import re
import stat
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distlab.errors import SettingError, printable
from distlab.files import read_limited

FORMAT, VERSION = "distlab recording", 1
MANIFEST = "manifest.json"
FOLDER = "DISTLAB_RECORDINGS"
"""Environment variable: where recordings lie, if not in the repository."""

MOST_BYTES = 20_000_000
"""Of all recordings together."""
MOST_MANIFEST_BYTES = 2**20
MOST_UNPACKED_BYTES = 2**28
MOST_FILES = 500
_NAME = re.compile(r"([A-Za-z0-9]\w{0,99}/)?[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
"""Of a file, or of one in a folder."""
TELLING = ("tier", "hardware", "driver", "date", "command", "torch", "system")
"""What the provenance of every file tells at the least."""


@dataclass(frozen=True)
class RecordedFile:
    """One file of a recording."""

    path: Path
    name: str
    """Below the recording's folder: `bench.json`, `profile_good/rank_0.trace.json.gz`."""
    kind: str
    """results, telemetry, run, profile, memory."""
    bytes: int
    sha256: str
    about: str
    """What it shows, in a sentence."""
    provenance: Mapping[str, Any]
    """Of `distlab.bench.stamp.Stamp`; `command` is what ran."""


@dataclass(frozen=True)
class Recording:
    """Of one machine: a folder."""

    folder: Path
    tier: str
    """`gpu`; a rehearsal on a CPU says `cpu`."""
    hardware: str
    date: str
    parts: Mapping[str, str]
    """Status of each part: done, failed, interrupted, skipped."""
    contents: tuple[RecordedFile, ...]

    def files(self, kind: str) -> list[RecordedFile]:
        """Those of a kind."""
        return [file for file in self.contents if file.kind == kind]

    def file(self, name: str) -> RecordedFile:
        """SettingError where there is none of that name."""
        for file in self.contents:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in self.contents) or "none"
        raise SettingError(f"{self.folder.name} has no file {printable(name)!r}; it has {known}.")


def recordings_folder() -> Path:
    """Where recordings lie, whether or not there are any: DISTLAB_RECORDINGS, or `recordings/` of the repository."""
    named = os.environ.get(FOLDER)
    if named:
        return Path(named)
    root = os.environ.get("DISTLAB_ROOT")
    return (Path(root) if root else Path(__file__).resolve().parents[3]) / "recordings"


def recordings(folder: Path | None = None) -> list[Recording]:
    """All recordings made on a GPU, the newest first; folders that hold none, and rehearsals, are passed over."""
    found = []
    where = folder or recordings_folder()
    for path in sorted(where.iterdir()) if where.is_dir() else []:
        if path.is_dir() and not path.is_symlink() and (path / MANIFEST).exists():
            recording = read_recording(path)
            if recording.tier == "gpu":
                found.append(recording)
    return sorted(found, key=lambda recording: recording.date, reverse=True)


def recorded_tier(folder: Path | None = None) -> str:
    """What the recorded tier holds, in a sentence."""
    found = recordings(folder)
    if not found:
        return (
            "The recorded tier is empty: nothing was recorded on a GPU yet, and the simulated tier stands in, "
            "labelled. scripts/record_gpu records on a machine with an NVIDIA GPU."
        )
    told = [f"{r.hardware} of {r.date[:10]} ({len(r.contents)} files)" for r in found]
    return f"The recorded tier holds {', '.join(told)}."


def read_recording(folder: Path) -> Recording:
    """SettingError where the manifest is none, or names a file that is missing or of another size."""
    try:
        content = jsonlib.loads(read_limited(folder / MANIFEST, MOST_MANIFEST_BYTES))
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"it is not of version {VERSION} of the format")
        stamp = content["stamp"]
        parts = {_text(name): _text(part["status"]) for name, part in content["parts"].items()}
        listed = [file for part in content["parts"].values() for file in part["files"]]
        if len(listed) > MOST_FILES:
            raise ValueError(f"it names {len(listed)} files")
        return Recording(
            folder=folder,
            tier=_text(stamp["tier"]),
            hardware=_text(stamp["hardware"]),
            date=_text(stamp["date"]),
            parts=parts,
            contents=tuple(_file(folder, file) for file in listed),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise SettingError(
            f"{printable(str(folder))} is no recording that can be read ({printable(why)[:200]}); delete it, or run "
            "scripts/record_gpu again."
        ) from None


def _file(folder: Path, values: dict[str, Any]) -> RecordedFile:
    name, provenance = values["name"], values["provenance"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file's name")
    missing = [told for told in TELLING if not isinstance(provenance.get(told), str)]
    if missing:
        raise ValueError(f"the provenance of {name} lacks {missing[0]}")
    path = folder / name
    found = path.lstat()
    if path.parent.is_symlink() or not stat.S_ISREG(found.st_mode) or found.st_size != values["bytes"]:
        raise ValueError(f"{name} is not the file of {values['bytes']} bytes that was recorded")
    return RecordedFile(
        path=path,
        name=name,
        kind=_text(values["kind"]),
        bytes=found.st_size,
        sha256=_text(values["sha256"]),
        about=_text(values["about"]),
        provenance=provenance,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 2000:
        raise ValueError(f"{str(value)[:40]!r} stands where a short text is expected")
    return printable(value)


def unpacked(path: Path) -> bytes:
    """The content of a recorded file, unpacked if it is gzip. SettingError where it is damaged or a bomb."""
    try:
        content = read_limited(path, MOST_BYTES)
        if not content.startswith(b"\x1f\x8b"):
            return content
        unpack = zlib.decompressobj(31)
        text = unpack.decompress(content, MOST_UNPACKED_BYTES)
        if not unpack.eof:
            raise ValueError("it is cut off" if not unpack.unconsumed_tail else "it unpacks to too much")
        return text
    except (OSError, ValueError, zlib.error) as error:
        raise SettingError(f"Cannot read {printable(path.name)}: {printable(str(error))}.") from None


def unpack_run(recording: Recording, case: str, target: Path) -> Path:
    """The log of a recorded training run as `distlab runs show` reads it: `<target>/<case>`, which is new."""
    parts = {f"{case}.run.json": "run.json", f"{case}.rank_0.jsonl.gz": "rank_0.jsonl"}
    contents = {to: unpacked(recording.file(name).path) for name, to in parts.items()}
    log = target / case / "log"
    log.mkdir(parents=True)
    for name, content in contents.items():
        (log / name).write_bytes(content)
    return target / case


def main(json: bool = False) -> int:
    """What was recorded on GPUs, and on which.

    Args:
        json: print the files with their provenance as JSON.
    """
    found = recordings()
    if json:
        print(jsonlib.dumps([_plain(recording) for recording in found], indent=1))
        return 0
    print(recorded_tier())
    for recording in found:
        print(f"\n{recording.folder.name}: {recording.hardware}, {recording.date}")
        for file in recording.contents:
            print(f"  {file.name} ({file.bytes / 1e3:,.0f} kB, {file.kind}): {file.about}")
    return 0


def _plain(recording: Recording) -> dict[str, Any]:
    return {
        "folder": recording.folder.name,
        "tier": recording.tier,
        "hardware": recording.hardware,
        "date": recording.date,
        "parts": dict(recording.parts),
        "files": [
            {
                "name": file.name,
                "kind": file.kind,
                "bytes": file.bytes,
                "sha256": file.sha256,
                "about": file.about,
                "provenance": dict(file.provenance),
            }
            for file in recording.contents
        ],
    }
