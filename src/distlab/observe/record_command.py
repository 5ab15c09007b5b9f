"""distlab observe record training.telemetry.jsonl.gz --seconds 60
distlab observe record hot.telemetry.jsonl.gz --source simulated --scenario overheating --seconds 300 --speed 60
"""

from __future__ import annotations

import json as jsonlib
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tyro.conf import Positional

from distlab.errors import SettingError, WorkError
from distlab.observe.open import SourceArgs
from distlab.observe.recording import Recorder, provenance


def record(
    out: Positional[Path],
    source: SourceArgs,
    seconds: float = 60.0,
    every: float = 1.0,
    about: str = "",
    json: bool = False,
) -> int:
    """Record telemetry into a file, to be replayed with the source recorded. Ctrl-C ends it and keeps what there is.

    Args:
        out: the file to make; `NAME.telemetry.jsonl.gz` is found by its name in recordings/.
        source: where GPUs are read; what is a recording already is none.
        seconds: how long, in the source's time.
        every: seconds between two readings, in the source's time.
        about: what ran on the GPUs meanwhile, in a sentence.
        json: print what was recorded as JSON.
    """
    if not 0.05 <= every <= seconds <= 86400:
        raise SettingError(
            f"--every is {every:g} and --seconds {seconds:g}; choose 0.05 <= every <= seconds <= 86400."
        )
    if source.source == "recorded" or source.recording is not None:
        raise SettingError("A recording is recorded already: copy the file.")
    with source.open() as opened:
        pause_s = every / (source.speed if opened.tier == "simulated" else 1.0)
        first = opened.read()
        if not first.samples:
            raise WorkError(
                " ".join(problem.what for problem in first.problems) or "There is no GPU to record."
            )
        words = [out.name if word == str(out) else word for word in sys.argv[1:]]
        command = shlex.join(["distlab", *words])
        origin = provenance(first, tier=opened.tier, interval_s=every, command=command, about=about)
        samples = len(first.samples)
        with Recorder(out, origin) as recorder, _progress() as progress:
            task = progress.add_task(f"{origin.hardware}, tier {origin.tier}", total=int(seconds / every))
            recorder.write(first)
            due = time.monotonic()
            with _ctrl_c() as stop:
                for _ in range(int(seconds / every)):
                    due += pause_s
                    if stop.wait(max(0.0, due - time.monotonic())):
                        print("Stopped; what was recorded is kept.", file=sys.stderr)
                        break
                    reading = opened.read()
                    samples += len(reading.samples)
                    recorder.write(reading)
                    progress.advance(task)
    if json:
        facts = {"file": str(out), "tier": origin.tier, "readings": recorder.readings, "samples": samples}
        print(jsonlib.dumps(facts | {"bytes": out.stat().st_size}))
    else:
        print(f"{out}: {recorder.readings} readings of {origin.hardware}, {out.stat().st_size / 1e3:.0f} kB.")
    return 0


@contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Set by Ctrl-C: an exception could come in the middle of a line."""
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
