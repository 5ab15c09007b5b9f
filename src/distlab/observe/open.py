"""Open a source of GPU telemetry by its kind.

with open_source("auto") as source:           # the driver's GPUs; simulated ones where there is no driver
    print(source.tier, len(source.read().samples))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from distlab.observe.sample import Source

SourceKind = Literal["auto", "nvml", "recorded", "simulated"]


def open_source(
    kind: SourceKind = "auto",
    *,
    scenario: str = "training",
    gpus: int = 8,
    seed: int = 0,
    speed: float = 1.0,
    recording: str | None = None,
    loop: bool = False,
    follow: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Source:
    """A source to read and to close.

    kind: `auto` is `nvml` where a driver is installed, else `simulated`; what it became is `Source.tier`.
    scenario, gpus, seed: of the simulated kind. follow: the folder of a run whose load the simulated GPUs show.
    recording, loop: of the recorded kind; a path or the name of one that comes with distlab, and whether it starts
    again at its end. speed: of simulated and recorded time.
    SettingError where what is asked for is not there.
    """
    from distlab.observe.simulated import SimulatedSource

    return SimulatedSource(scenario, gpus=gpus, seed=seed, speed=speed, clock=clock)
