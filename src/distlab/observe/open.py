"""Open a source of GPU telemetry by its kind.

with open_source("auto") as source:           # the driver's GPUs; simulated ones where there is no driver
    print(source.tier, len(source.read().samples))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from distlab.errors import SettingError
from distlab.observe.sample import Source

SourceKind = Literal["auto", "nvml", "recorded", "simulated"]

DEFAULT_GPUS, DEFAULT_RANKS = 8, 2
SUFFIX = ".telemetry.jsonl.gz"


@dataclass(frozen=True)
class SourceOptions:
    """A source as the commands' options name it. All of them take it as `SourceArgs`."""

    source: SourceKind = "auto"
    """nvml is the driver of this machine, auto the same where one is installed and simulated GPUs elsewhere."""
    scenario: str = "training"
    """What simulated GPUs do: idle, training, small-batch, data-starved, straggler, overheating, memory-leak,
    ecc-storm, xid-79, mig."""
    gpus: int | None = None
    """How many to simulate; 8 without it, or one for each rank of a run that is followed."""
    seed: int = 0
    """Of the simulated chances."""
    follow: str | None = None
    """Folder of a run whose load simulated GPUs show, and whose they are."""
    recording: str | None = None
    """What to replay: a file, or the name of a recording that comes with distlab."""
    loop: bool = False
    """Start a recording again at its end."""
    speed: float = 1.0
    """Of simulated and recorded time."""

    def open(self, at_s: float = 0.0) -> Source:
        """The source; at_s and errors as of `open_source`."""
        options = dict(vars(self))
        return open_source(options.pop("source"), at_s=at_s, **options)

    def words(self) -> list[str]:
        """The same as words on the command line of another command."""
        switch = ["--loop"] if self.loop else []
        values = {name: value for name, value in vars(self).items() if name != "loop" and value is not None}
        return [f"--{name}={value}" for name, value in values.items()] + switch


SourceArgs = Annotated[SourceOptions, tyro.conf.OmitArgPrefixes]
"""For a command's parameter: the options have their own names alone."""


def open_source(
    kind: SourceKind = "auto",
    *,
    scenario: str = "training",
    gpus: int | None = None,
    seed: int = 0,
    speed: float = 1.0,
    at_s: float = 0.0,
    recording: str | None = None,
    loop: bool = False,
    follow: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Source:
    """A source to read and to close.

    kind: `auto` is `recorded` where a recording is named, `nvml` where a driver is installed, else `simulated`; what
    it became is `Source.tier`.
    scenario, gpus, seed: of the simulated kind. follow: the folder of a run whose load the simulated GPUs show, one
    for each rank.
    recording, loop: of the recorded kind; the path of a telemetry file or the name of one that comes with distlab, and
    whether it starts again at its end. speed: of simulated and recorded time. at_s: where in it to begin; for a run
    that is followed, how long its load has been there.
    SettingError where what is asked for is not there.
    """
    if kind == "recorded" or (kind == "auto" and recording is not None):
        from distlab.observe.recorded import RecordedSource

        return RecordedSource(find_telemetry_file(recording), speed=speed, loop=loop, at_s=at_s, clock=clock)
    if recording is not None:
        raise SettingError(f"A recording is replayed by the source recorded, not {kind}; choose that one.")
    if kind in ("auto", "nvml") and follow is None:
        from distlab.observe.nvml import NvmlSource, driver_is_installed

        if kind == "nvml" or driver_is_installed():
            return NvmlSource(clock=clock)
    if kind == "nvml":
        raise SettingError("Only simulated GPUs follow a run; choose the source simulated.")
    from distlab.observe.simulated import SimulatedSource

    if follow is not None:
        from distlab.observe.follow import follow_run, ranks_of

        gpus = gpus or ranks_of(follow) or DEFAULT_RANKS
        return SimulatedSource(follow_run(follow, clock), gpus=gpus, seed=seed, at_s=at_s, clock=clock)
    gpus = DEFAULT_GPUS if gpus is None else gpus
    return SimulatedSource(scenario, gpus=gpus, seed=seed, speed=speed, at_s=at_s, clock=clock)


def find_telemetry_file(name: str | None) -> Path:
    """A path, or the telemetry file of that name that comes with distlab; the newest one without a name."""
    known = telemetry_files()
    if name is not None:
        return known.get(name, Path(name))
    if not known:
        raise SettingError(
            "There is no recording of a GPU yet: name a file with --recording, or choose the source simulated, "
            "which stands in."
        )
    return next(iter(known.values()))


def telemetry_files() -> dict[str, Path]:
    """Those in the recordings of machines that come with distlab, the newest first; none until a GPU was recorded.

    By their names, and by `<folder>/<name>` where another machine recorded the same.
    """
    from distlab.record.recordings import recordings

    found: dict[str, Path] = {}
    for recording in recordings():
        for file in recording.files("telemetry"):
            name = file.name.removesuffix(SUFFIX)
            found[f"{recording.folder.name}/{name}" if name in found else name] = file.path
    return found
