"""distlab observe sample                                        # what the GPUs do now
distlab observe sample --watch --source simulated --scenario overheating --speed 10
distlab observe sample --json
"""

from __future__ import annotations

import dataclasses
import json as jsonlib
import time
from typing import TYPE_CHECKING, Any

from distlab.errors import SettingError, WorkError
from distlab.observe.follow import ranks_of
from distlab.observe.open import SourceArgs
from distlab.observe.sample import Reading, Source

if TYPE_CHECKING:
    from rich.console import Console

RATES_AFTER_S = 0.3
"""A driver tells activity and traffic as of the reading before: a single look at it takes two."""
SHOWN_AT_S = 60.0
"""Where in a scenario a single look falls."""


def sample(
    source: SourceArgs,
    watch: bool = False,
    every: float = 1.0,
    count: int | None = None,
    json: bool = False,
    at: float | None = None,
) -> int:
    """Show each GPU: utilization, memory, power, temperature, clock and what holds it down, errors, traffic.

    Args:
        source: where GPUs are read.
        watch: go on until Ctrl-C.
        every: seconds between two readings.
        count: end after so many readings.
        json: print each reading as a line of JSON.
        at: seconds into the scenario or recording; 60 for a single look at a scenario, else 0.
    """
    if not 0.05 <= every <= 3600:
        raise SettingError(f"--every is {every:g}; choose 0.05 to 3600 seconds.")
    if count is not None and count < 1:
        raise SettingError(f"--count is {count}; choose 1 or more.")
    single = not watch and count in (None, 1)
    if single and source.follow is not None and not ranks_of(source.follow):
        raise SettingError(
            f"{source.follow} holds no log of a run; give the folder of one, <folder>/<name>, or wait for it with "
            "--watch."
        )
    replayed = source.recording is not None or source.source == "recorded"
    usual = SHOWN_AT_S if single and not replayed else 0.0  # a recording may be shorter
    with source.open(usual if at is None else at) as opened:
        return _once(opened, json) if single else _repeat(opened, every, count, json)


def _once(source: Source, json: bool) -> int:
    before = source.read() if source.tier == "gpu" else None
    if before is not None and before.samples:
        time.sleep(RATES_AFTER_S)
    reading = source.read() if before is None or before.samples else before
    if json:
        print(_json(source, reading))
    elif reading.samples:
        from distlab.observe.gpu_table import gpu_table

        console = _console()
        console.print(gpu_table(source.tier, reading, before, console.width))
    return _outcome(reading)


def _repeat(source: Source, every: float, count: int | None, json: bool) -> int:
    """Reading after reading. The screen is redrawn in place; without a terminal each is printed."""
    from rich.live import Live

    from distlab.observe.gpu_table import gpu_table

    console, before, made = _console(), None, 0
    live = Live(console=console, auto_refresh=False) if console.is_terminal and not json else None
    reading = Reading(())
    try:
        if live:
            live.start()
        while True:
            started = time.monotonic()
            reading = source.read()
            made += 1
            if json:
                print(_json(source, reading), flush=True)
            elif live:
                live.update(gpu_table(source.tier, reading, before, console.width), refresh=True)
            else:
                console.print(gpu_table(source.tier, reading, before, console.width))
            before = reading
            if made == count:
                break
            time.sleep(max(0.0, every - (time.monotonic() - started)))
    except KeyboardInterrupt:
        pass
    finally:
        if live:
            live.stop()
    return _outcome(reading)


def _outcome(reading: Reading) -> int:
    if not reading.samples:
        raise WorkError(" ".join(problem.what for problem in reading.problems) or "There is no GPU to show.")
    return 0


def _json(source: Source, reading: Reading) -> str:
    values: dict[str, Any] = {"tier": source.tier} | dataclasses.asdict(reading)
    return jsonlib.dumps(values)


def _console() -> Console:
    from rich.console import Console

    return Console()
