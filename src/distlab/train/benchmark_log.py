"""A log of benchmarks: what each run was, where it ran and what it came to, one JSON object a line.

distlab runs collect runs/ddp runs/fsdp --log benchmarks.jsonl --label "before packing"

A run's own log is large and stays where it trained; this is what a later project reads to compare runs of weeks:

    for entry in read_benchmarks("benchmarks.jsonl"):
        print(entry.label, entry.run.tokens_per_s, entry.config["strategy"], entry.stamp["hardware"])

Lines are added and never changed. A run that went on after it was collected gets another line; the last one of a name
and a date counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from distlab.errors import SettingError, printable
from distlab.files import read_limited
from distlab.train.records import MOST_VALUE, read_info, read_log
from distlab.train.result import finite
from distlab.train.runs import RunSummary, summarise

SCHEMA = 1
MOST_BYTES = 2**26
"""Of a benchmark log: some ten thousand runs."""


@dataclass(frozen=True)
class Benchmark:
    """One run, as it was when it was collected."""

    schema: int
    label: str
    """What the run was for, in the words of whoever collected it."""
    log_sha256: str
    """Of what the run had logged: a run that is collected twice is written once."""
    run: RunSummary
    config: dict[str, Any]
    """All settings, as `distlab.train.config.from_dict` reads them."""
    stamp: dict[str, Any]
    """The fields of `distlab.bench.stamp.Stamp`: hardware, versions, date, command."""


def benchmark(run_folder: str, label: str = "") -> Benchmark:
    """What is to be kept of a run. SettingError where it has no log, or the label is no line of text."""
    if not label.isprintable() or len(label) > 200:
        raise SettingError(f"The label {printable(label[:40])!r} is no line of up to 200 characters.")
    info, lines = read_info(run_folder), read_log(run_folder)
    logged = [dataclasses.asdict(info), [dataclasses.asdict(line) for line in lines]]
    digest = hashlib.sha256(json.dumps(logged, sort_keys=True).encode()).hexdigest()
    return Benchmark(SCHEMA, label, digest, summarise(run_folder), info.config, info.stamp)


def append(log: Path, entries: Sequence[Benchmark]) -> list[Benchmark]:
    """Add to the log those that are not in it; returns them. SettingError where it is damaged: nothing is added."""
    known = {entry.log_sha256 for entry in read_benchmarks(log)} if log.exists() else set()
    new = [entry for entry in entries if entry.log_sha256 not in known]
    text = "".join(json.dumps(_plain(entry), allow_nan=False) + "\n" for entry in new)
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SettingError(f"Cannot write {log}: {error.strerror}.") from None
    return new


def read_benchmarks(log: Path | str) -> list[Benchmark]:
    """All entries in the order of their lines; a loss that was not finite is nan.

    SettingError for a file that cannot be read, and for the first line that is no entry of this schema.
    """
    path = Path(log)
    try:
        text = read_limited(path, MOST_BYTES).decode("utf-8", "replace")
    except OSError as error:
        raise SettingError(f"Cannot read {path}: {error.strerror or error}.") from None
    if text and not text.endswith("\n"):
        raise SettingError(
            f"The last line of {path} was cut off while it was written; delete it, collect again."
        )
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(text.splitlines(), 1)]


def collect(
    folders: Positional[tuple[str, ...]], log: Path = Path("benchmarks.jsonl"), label: str = ""
) -> int:
    """Add runs to a log of benchmarks that later projects read.

    Args:
        folders: folders of runs, `<folder>/<name>` each; paths or URLs.
        log: the file to add to, one JSON object a line; made where there is none.
        label: what the runs were for, such as "before packing".
    """
    if not folders:
        raise SettingError("No run is named; name the folder of at least one, such as runs/fsdp_2gpu.")
    entries = [benchmark(folder, label) for folder in folders]
    new = append(log, entries)
    print(f"{len(new)} runs added to {log}, {len(entries) - len(new)} were in it")
    return 0


_KINDS = {field.name: str(field.type) for field in dataclasses.fields(RunSummary)}
_FIELDS = {field.name for field in dataclasses.fields(Benchmark)}


def _parse(line: str, where: str) -> Benchmark:
    try:
        values = json.loads(line)
        run = values["run"]
        right = (
            set(values) == _FIELDS
            and values["schema"] == SCHEMA
            and set(run) == set(_KINDS)
            and all(_fits(name, value) for name, value in run.items())
            and all(isinstance(values[name], dict) for name in ("config", "stamp"))
            and all(_is_text(values[name]) for name in ("label", "log_sha256"))
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        right = False
    if not right:
        raise SettingError(
            f"{where} is no entry of a benchmark log of schema {SCHEMA}; `distlab runs collect` writes one."
        )
    loss = float("nan") if run["loss"] is None else run["loss"]
    return Benchmark(**{**values, "run": RunSummary(**{**run, "loss": loss})})


def _fits(name: str, value: Any) -> bool:
    """Has a field of the summary what `collect` writes there? Logs come from strangers."""
    kind = _KINDS[name]
    if value is None:
        return kind.endswith("None") or name == "loss"
    if kind == "list[str]":
        return isinstance(value, list) and all(map(_is_text, value))
    if kind == "str":
        return _is_text(value)
    if kind.startswith("int"):
        return type(value) is int and 0 <= value < 2**63
    return type(value) in (int, float) and abs(value) < MOST_VALUE


def _is_text(value: Any) -> bool:
    """Also: nothing that a terminal would obey."""
    return isinstance(value, str) and value.isprintable()


def _plain(entry: Benchmark) -> dict[str, Any]:
    values = dataclasses.asdict(entry)
    values["run"]["loss"] = finite(entry.run.loss)
    return values
