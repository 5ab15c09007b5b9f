"""`distlab bench gpu --launches N`: the benchmark in N fresh processes, and their rows as one.

Where memory comes to lie, and which algorithm a library chooses, is decided at a start: two launches can differ by
more than all the calls of one.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from distlab.bench.gpu import CUT_SHORT, Report
from distlab.bench.measured import IDENTITY, Row, merged
from distlab.bench.results import Results, read_results
from distlab.bench.stamp import Stamp, command
from distlab.errors import SettingError, WorkError


def launched(
    launches: int, options: Sequence[str], lists: Mapping[str, Sequence[object]]
) -> tuple[Report, BaseException | None]:
    """Measure `launches` times; the report of what came out of it, and Ctrl-C if that ended it.

    SettingError or WorkError, in the words of the launch that failed, where one did.
    """
    words = [*options]
    for name, values in lists.items():
        words += [name, *map(str, values)] if values else []
    found: list[Results] = []
    ended: BaseException | None = None
    with tempfile.TemporaryDirectory(prefix="distlab-bench-") as folder:
        for number in range(1, launches + 1):
            print(f"Launch {number} of {launches}", file=sys.stderr, flush=True)
            out = Path(folder, f"{number}.json")
            try:
                _one(words, out)
            except KeyboardInterrupt as error:
                ended = error
            if out.exists():
                found.append(read_results(out))
            if ended is not None:
                break
    if not found:
        raise KeyboardInterrupt
    return _report(found, launches, cut_short=ended is not None), ended


def _one(words: Sequence[str], out: Path) -> None:
    """One launch; on Ctrl-C it is given the time to write down what it has."""
    program = [sys.executable, "-m", "distlab.cli", "bench", "gpu", *words, "--out", str(out)]
    with subprocess.Popen(
        program,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C reaches it once, from here
    ) as child:
        assert child.stderr is not None
        said = ""
        try:
            for line in child.stderr:
                if said:  # the last line may be what it failed with, which is raised
                    print(f"  {said}", file=sys.stderr, flush=True)
                said = line.strip()
            child.wait()
        except KeyboardInterrupt:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    if child.returncode == 130:
        raise KeyboardInterrupt
    if child.returncode:
        kind = SettingError if child.returncode == 2 else WorkError
        raise kind(said.removeprefix("distlab bench gpu: "))


def _report(found: Sequence[Results], launches: int, *, cut_short: bool) -> Report:
    rows: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for results in found:
        for plain in results.rows:
            row = _row(plain)
            rows[tuple(getattr(row, name) for name in IDENTITY)].append(row)
    names = {field.name for field in fields(Stamp)}
    told: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in found[0].stamp.items() if name in names
    }
    notes = dict.fromkeys(
        note for results in found for note in results.notes if not note.startswith(CUT_SHORT)
    )
    first = Report(
        replace(Stamp(**told), command=command()),
        [merged(same) for same in rows.values()],
        [f"Of {len(found)} launches.", *notes],
    )
    if cut_short:
        first.notes.append(f"{CUT_SHORT}it was interrupted in launch {len(found)} of {launches}.")
    return first


def _row(plain: Mapping[str, Any]) -> Row:
    values = {field.name: plain[field.name] for field in fields(Row) if field.name in plain}
    return Row(**{**values, "samples_s": tuple(plain["samples_s"])})
