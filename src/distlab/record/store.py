"""A recording while it is made: files come in whole, packed, without this machine's paths, and within the limit.

The manifest is written after each part, so that whatever ends the recording keeps the parts before; a part that is
done is not done again.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distlab.bench.results import write_file
from distlab.errors import SettingError, WorkError
from distlab.record.recordings import FORMAT, MANIFEST, MOST_BYTES, VERSION, read_recording


@dataclass
class Part:
    """What became of a part."""

    status: str = "begun"
    """begun, done, failed, interrupted or skipped."""
    seconds: float = 0.0
    problem: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)


class Store:
    """The folder of one recording."""

    def __init__(self, folder: Path, stamp: Mapping[str, Any], limit_bytes: int = MOST_BYTES) -> None:
        """stamp: of `distlab.bench.stamp.Stamp`, whose hardware must be that of a recording that is taken up again.

        SettingError for a folder that is another machine's, or none of ours.
        """
        self.folder, self.stamp, self.limit_bytes = folder, dict(stamp), limit_bytes
        self.parts: dict[str, Part] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingError(f"Cannot make {folder}: {error.strerror}.") from None
        if (folder / MANIFEST).exists():
            self._take_up()

    def _take_up(self) -> None:
        before = read_recording(self.folder)
        if (before.tier, before.hardware) != (self.stamp["tier"], self.stamp["hardware"]):
            raise SettingError(
                f"{self.folder} was recorded on {before.hardware} ({before.tier}), and this is "
                f"{self.stamp['hardware']} ({self.stamp['tier']}); name another folder."
            )
        content = json.loads((self.folder / MANIFEST).read_text())
        self.parts = {name: Part(**values) for name, values in content["parts"].items()}

    def is_done(self, part: str) -> bool:
        return part in self.parts and self.parts[part].status in ("done", "skipped")

    def begin(self, part: str) -> None:
        """Take a part up; what an earlier try of it left goes."""
        for file in self.parts.get(part, Part()).files:
            (self.folder / file["name"]).unlink(missing_ok=True)
        self.parts[part] = Part()
        self.write()

    def end(self, part: str, status: str, seconds: float, problem: str = "") -> None:
        done = self.parts[part]
        done.status, done.seconds, done.problem = status, round(seconds, 1), scrubbed_text(problem)[:2000]
        self.write()

    def add(
        self,
        part: str,
        name: str,
        content: bytes,
        *,
        kind: str,
        about: str,
        command: str,
        scratch: Path,
        measured: Mapping[str, str] | None = None,
    ) -> None:
        """Take a file in. gzip where the name says so; packed content is unpacked, scrubbed and packed again.

        command, about: how it came to be, and what it shows. scratch: the folder that it was written in. measured:
        tier, hardware and driver, where they are not those of the recording.
        WorkError where all recordings together would be larger than they may be.
        """
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        if ".pickle" not in name:  # which counts its letters, and holds no path (oom.py)
            content = scrubbed(content.replace(str(scratch).encode(), b"<folder>"))
        if name.endswith(".gz"):
            content = gzip.compress(content, 9, mtime=0)
        room = self.limit_bytes - sum(
            path.stat().st_size for path in self.folder.parent.rglob("*") if path.is_file()
        )
        if len(content) > room:
            raise WorkError(
                f"{name} has {len(content):,} bytes, and of the {self.limit_bytes:,} that recordings may have "
                f"{max(0, room):,} are left; remove an old recording, and run again."
            )
        target = self.folder / name
        target.parent.mkdir(exist_ok=True)
        write_file(target, content)
        told = {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), **(measured or {})}
        self.parts[part].files.append(
            {
                "name": name,
                "kind": kind,
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "about": about,
                "provenance": {**self.stamp, **told, "command": scrubbed_text(command)},
            }
        )
        self.write()

    def write(self) -> None:
        """The manifest."""
        parts = {name: vars(part) for name, part in self.parts.items()}
        content = {"format": FORMAT, "version": VERSION, "stamp": self.stamp, "parts": parts}
        write_file(self.folder / MANIFEST, json.dumps(content, indent=1).encode() + b"\n")


def _places() -> list[tuple[str, str]]:
    """Paths of this machine with what stands for them, the longest first."""
    here = {
        str(Path(__file__).resolve().parents[3]): "<repository>",
        str(Path.cwd()): "<repository>",
        sys.prefix: "<python>",
        sys.base_prefix: "<python>",
        str(Path.home()): "<home>",
    }
    named = {
        path: word for path, word in here.items() if len(Path(path).parts) > 2 or path == str(Path.home())
    }
    named.pop("/", None)
    return sorted(named.items(), key=lambda item: -len(item[0]))


def scrubbed(content: bytes) -> bytes:
    """Without the paths of this machine and its name."""
    for path, word in _places():
        content = re.sub(re.escape(path.encode()) + rb"(?=[/\"'\s:,)\\]|$)", word.encode(), content)
    host = platform.node()
    return content.replace(f'"{host}"'.encode(), b'"<host>"') if host else content


def scrubbed_text(text: str) -> str:
    return scrubbed(text.encode(errors="replace")).decode(errors="replace")


def folder_name(stamp: Mapping[str, Any], count: int) -> str:
    """Of a machine's recording: `nvidia-h200-x1`."""
    bare = re.sub(r"[^a-z0-9]+", "-", str(stamp["hardware"]).lower()).strip("-") or "unknown"
    return f"{bare}-x{count}"
