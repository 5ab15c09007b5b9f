"""The lines of a run's log, and how to read them back.

    for line in read_log("runs/fsdp_2gpu"):
        print(line.step, line.rank, line.loss, line.step_s, line.ram_bytes)

A rank writes `<run folder>/log/rank_N.jsonl`, one JSON object per optimizer step with the fields of `LogLine`.
`log/run.json` beside it says what ran (the configuration) and where (the stamp of the machine).
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from distlab.errors import SettingError, printable
from distlab.train.checkpoint.folder import Damage, Folder
from distlab.train.config import from_dict
from distlab.train.result import StepRecord

LOG = "log"
RUN = "run.json"
LOCK = "run.lock"
"""In the run's folder: rank 0 holds it while it trains (see lock.py)."""
MOST_BYTES = 2**28
"""Of a file that is read: a log of half a million lines."""
MOST_VALUE = 1e300


@dataclass(frozen=True, kw_only=True)
class LogLine(StepRecord):
    """One optimizer step as one rank saw it. What is counted per rank adds up to the whole job's."""

    rank: int
    world_size: int
    attempt: int
    """How often this rank had taken the run up again when it made the step: 0 without a restart."""
    tier: str
    """`gpu` or `cpu`: where the model was."""
    time: float
    """When the line was written: Unix time in seconds. A line is written while the next step runs."""
    run_s: float
    """Seconds that this rank has spent on the run, steps that a crash undid and all attempts included."""
    samples_per_s: float
    """This rank's part of the throughput: the sum over ranks is the job's, also where ranks share a model."""
    tokens_per_s: float
    ram_bytes: int
    """Resident memory of the rank's process."""
    vram_bytes: int | None
    """Most memory that tensors held on the rank's GPU so far; None without one."""
    mfu: float | None
    """Share of the device's peak that went into the model's own FLOPs; None where no peak is known."""
    cost: float
    """`run_s` at `log.price_per_hour`, in that price's currency."""
    sample_ids: list[list[int]] | None = None
    """The samples of each micro-batch, with `log.samples`."""


@dataclass(frozen=True)
class RunInfo:
    """What `log/run.json` holds, as plain data."""

    config: dict[str, Any]
    """As `distlab.train.config.from_dict` reads it."""
    stamp: dict[str, Any]
    """The fields of `distlab.bench.stamp.Stamp`."""
    shards: list[str]
    """What no rank held whole: of "weights", "gradients", "optimizer"."""
    job: str = ""
    """Whose run it is: DISTLAB_JOB of rank 0, else the run's name. Empty in logs of before there was this."""
    ranks: list[dict[str, Any]] = field(default_factory=list)
    """Where each rank of the last attempt ran, as the fields of `Place`; empty as above."""

    def places(self) -> list[Place]:
        """`ranks` as records."""
        return [Place(**place) for place in self.ranks]


@dataclass(frozen=True)
class Place:
    """Where a rank runs."""

    rank: int
    host: str
    pid: int
    device: str
    """The GPU's UUID as NVML writes it, `GPU-...`; `cpu` without one."""


def read_log(run_folder: str) -> list[LogLine]:
    """All lines of all ranks, by step and then by rank; a torn last line is left out.

    run_folder: `<folder>/<name>`, a path or an fsspec URL. A loss that was not finite reads as nan, any other such
    number as None.
    SettingError where there is no log, or it is damaged.
    """
    folder = _log_folder(run_folder)
    lines: list[LogLine] = []
    for name in folder.names():
        if _RANK.fullmatch(name):
            text = _read(folder, name).decode("utf-8", "replace")
            whole = text[: text.rfind("\n") + 1].splitlines()
            lines += [parse_line(line, f"{folder.url}/{name}, line {i}") for i, line in enumerate(whole, 1)]
    if not lines:
        raise SettingError(
            f"{run_folder} holds no log of a step; expected the folder of a run, <folder>/<name>."
        )
    return sorted(lines, key=lambda line: (line.step, line.rank))


def by_step(lines: Iterable[LogLine]) -> dict[int, list[LogLine]]:
    """The ranks' last lines of each step, in the order of steps: one that a crash undid was taken again."""
    last: dict[int, dict[int, LogLine]] = defaultdict(dict)
    for line in lines:
        last[line.step][line.rank] = line
    return {step: list(ranks.values()) for step, ranks in sorted(last.items())}


def read_info(run_folder: str) -> RunInfo:
    """What ran, and where. SettingError where nobody wrote it down."""
    return parse_info(_read(_log_folder(run_folder), RUN), run_folder)


def parse_info(content: bytes, run_folder: str) -> RunInfo:
    """What a `run.json` with this content says. SettingError where it is not one."""
    try:
        info = RunInfo(**json.loads(content))
        from_dict(info.config)
        places = info.places()
        if not all(type(place.rank) is type(place.pid) is int for place in places):
            raise ValueError("a rank or its process has no number")
        texts = [info.stamp["hardware"], *info.shards, info.job]
        texts += [text for place in places for text in (place.host, place.device)]
        if not all(text.isprintable() for text in texts):
            raise ValueError("it holds control characters")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingError(
            f"{run_folder} holds no readable {LOG}/{RUN} ({printable(str(error))}); expected the folder of a run."
        ) from None
    return info


def _read(folder: Folder, name: str) -> bytes:
    try:
        return folder.read(name, MOST_BYTES)
    except (Damage, OSError) as error:
        raise SettingError(f"Cannot read {folder.url}/{name}: {error}.") from None


def rank_of(name: str) -> int | None:
    """The rank whose log has this file name; None for any other file."""
    match = _RANK.fullmatch(name)
    return int(match[1]) if match else None


_RANK = re.compile(r"rank_([0-9]{1,9})\.jsonl")
_NAMES = {field.name for field in fields(LogLine)}
_COUNTS = {field.name for field in fields(LogLine) if field.type == "int"}
_MAY_BE_NULL = {field.name for field in fields(LogLine) if str(field.type).endswith("None")} | {"loss"}
"""A number that was not finite is null."""


def parse_line(line: str, where: str) -> LogLine:
    """The record in one line of a log. SettingError, naming `where`, for what no run writes."""
    try:
        values = json.loads(line)
        wrong = set(values) ^ _NAMES or {name for name in _NAMES if not _fits(name, values[name])}
    except (ValueError, TypeError, RecursionError):
        wrong = {line[:40]}
    if wrong:
        raise SettingError(f"{where} is not a line of a run's log (see {min(wrong)!r}); delete it.")
    if values["loss"] is None:
        values["loss"] = float("nan")
    return LogLine(**values)


def _fits(name: str, value: Any) -> bool:
    """Has a field what RunLog writes there?"""
    if value is None:
        return name in _MAY_BE_NULL
    if name == "tier":
        return value in ("gpu", "cpu")
    if name == "applied":
        return isinstance(value, bool)
    if name == "sample_ids":
        return isinstance(value, list)
    if name in _COUNTS:
        return type(value) is int and 0 <= value < 2**63
    if type(value) is int and abs(value) >= 2**63:  # products of longer ones fit no float
        return False
    return type(value) in (int, float) and abs(value) < MOST_VALUE and (name != "step_s" or value > 0)


def _log_folder(run_folder: str) -> Folder:
    try:
        return Folder(f"{run_folder.rstrip('/')}/{LOG}")
    except (ImportError, ValueError) as error:  # a kind of storage that is not known, or not installed
        raise SettingError(f"Cannot open {run_folder}: {error}") from None
