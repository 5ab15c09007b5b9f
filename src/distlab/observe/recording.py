"""Telemetry files: recorded telemetry, one gzip file of JSON lines that says where it comes from.

    with Recorder("idle.jsonl.gz", provenance(source, interval_s=1.0)) as recorder:
        recorder.write(source.read())

    with TelemetryFile("idle.jsonl.gz") as file:
        print(file.provenance.hardware, sum(1 for _ in file.readings()))

The first line is the provenance, each further one a Reading; a value that was not known is left out. Every reading
is flushed as it is written: a recorder that is killed leaves a file that reads to its last whole reading.

Files may come from anybody: sizes, types and texts are checked, and the first thing that is wrong ends the reading.
"""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import importlib.metadata
import json
import math
import os
import platform
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from distlab.errors import SettingError, WorkError, printable
from distlab.files import open_regular
from distlab.observe.encoding import Damage, decode, encode, from_plain
from distlab.observe.sample import Reading, SampleTier

FORMAT, VERSION = "distlab telemetry", 1
MOST_FILE_BYTES = 64 * 2**20
MOST_BYTES = 2**30
"""Unpacked: two days of eight GPUs at one reading a second. A bomb is larger."""
MOST_LINE_BYTES = 4 * 2**20
CHUNK_BYTES = 2**16
"""Unpacked at once, at most."""
PIECE_BYTES = 512
"""Of packed bytes: a broken one costs the readings of its piece and what follows."""
MOST_INTERVAL_S = 3600.0


@dataclass(frozen=True)
class Provenance:
    """Where a telemetry file comes from."""

    tier: SampleTier
    """Of what was recorded: gpu or simulated."""
    hardware: str
    """The GPUs' names with their number: `8 x NVIDIA H100 80GB HBM3`."""
    driver: str
    date: str
    """UTC, ISO 8601, of its start."""
    command: str
    system: str
    distlab: str
    interval_s: float
    """Between two readings. A longer silence is a gap."""
    about: str = ""
    """What ran on the GPUs meanwhile."""


def provenance(
    reading: Reading, *, tier: SampleTier, interval_s: float, command: str, about: str = ""
) -> Provenance:
    """Describe what is about to be recorded; reading: a first one, for the names of the GPUs."""
    names = [sample.name for sample in reading.samples]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    drivers = dict.fromkeys(sample.driver for sample in reading.samples if sample.driver)
    return Provenance(
        tier=tier,
        hardware=", ".join(counted) or "no GPU that could be read",
        driver=", ".join(drivers) or "unknown",
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        system=platform.platform(terse=True),
        distlab=_own_version(),
        interval_s=interval_s,
        about=about,
    )


def _own_version() -> str:
    """Of distlab, which may run from its source without being installed."""
    try:
        return importlib.metadata.version("distlab")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class Recorder:
    """Writes a telemetry file. SettingError where it exists or cannot be made, WorkError where the disk is full."""

    def __init__(self, path: str | Path, origin: Provenance) -> None:
        self.path = Path(path)
        self.readings = 0
        self._last = 0.0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._raw: IO[bytes] = os.fdopen(os.open(self.path, flags, 0o644), "wb")
        except FileExistsError:
            raise SettingError(f"{self.path} exists; choose another name for the recording.") from None
        except (OSError, ValueError) as error:
            raise SettingError(f"Cannot make {self.path}: {error}.") from None
        # mtime=0: the same readings make the same file.
        self._file = gzip.GzipFile("", "wb", 9, self._raw, mtime=0)
        self._line({"format": FORMAT, "version": VERSION, "provenance": dataclasses.asdict(origin)})

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, reading: Reading) -> None:
        """Append a reading; it is with the system when this returns."""
        at = max((sample.time for sample in reading.samples), default=time.time())
        self._last = max(self._last, at)
        self._line({"time": self._last} | encode(reading))
        self.readings += 1

    def close(self) -> None:
        self._file.close()
        self._raw.close()

    def _line(self, values: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(values, allow_nan=False, separators=(",", ":")).encode() + b"\n")
            self._file.flush(zlib.Z_SYNC_FLUSH)
            self._raw.flush()
        except OSError as error:
            raise WorkError(
                f"Cannot write {self.path}: {error}; it keeps {self.readings} readings, whole."
            ) from None


class TelemetryFile:
    """An open telemetry file: its provenance is read, its readings follow one by one.

    SettingError where it is not one, or is of a kind or size that is never one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open_regular(self.path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise SettingError(f"Cannot open the recording {printable(str(path))}: {why}.") from None
        try:
            if (size := os.fstat(self._file.fileno()).st_size) > MOST_FILE_BYTES:
                raise Damage(f"it has {size} bytes; expected at most {MOST_FILE_BYTES}")
            self._lines = _lines(self._file)
            first = next(self._lines, None)
            if first is None:
                raise Damage("it is empty")
            self.provenance = _header(first)
        except Damage as damage:
            self._file.close()
            raise SettingError(
                f"{printable(str(path))} is no recording of telemetry: {damage}; expected a file that "
                "`distlab observe record` wrote."
            ) from None

    def __enter__(self) -> TelemetryFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def readings(self) -> Iterator[tuple[float, Reading]]:
        """Each reading with its Unix time, once. Damage after the last whole one, where the rest is not there."""
        before = -math.inf
        for number, line in enumerate(self._lines, 2):
            try:
                at, reading = decode(line)
            except Damage as damage:
                raise Damage(f"line {number}: {damage}") from None
            if at < before:
                raise Damage(f"line {number}: its time lies before that of the line before")
            before = at
            yield at, reading


def _header(line: bytes) -> Provenance:
    try:
        values = json.loads(line)
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise Damage(f"it is not of version {VERSION} of the format")
        origin: Provenance = from_plain(Provenance, values["provenance"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Damage("its first line says nothing of where it comes from") from None
    if not 0 < origin.interval_s <= MOST_INTERVAL_S:
        raise Damage(f"an interval of {origin.interval_s:g} s")
    return origin


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a gzip file, unpacked piece by piece. Damage where it ends early or is too much."""
    unpack, rest, size = zlib.decompressobj(31), b"", 0
    while not unpack.eof:
        packed = unpack.unconsumed_tail or file.read(PIECE_BYTES)
        if not packed:
            raise Damage("it is cut off" if size else "it is empty")
        try:
            text = unpack.decompress(packed, CHUNK_BYTES)
        except zlib.error:
            raise Damage("it is not gzip" if not size else "its bytes are broken") from None
        size += len(text)
        if size > MOST_BYTES:
            raise Damage(f"it unpacks to more than {MOST_BYTES} bytes")
        *whole, rest = (rest + text).split(b"\n")
        yield from whole
        if len(rest) > MOST_LINE_BYTES:
            raise Damage(f"a line of more than {MOST_LINE_BYTES} bytes")
    if rest:
        raise Damage("its last line is not whole")
    if file.read(1):
        raise Damage("something follows its end")
