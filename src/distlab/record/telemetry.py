"""Telemetry beside a part of a recording, and what it saw in a few numbers."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from distlab.errors import SettingError, WorkError
from distlab.observe.open import open_source
from distlab.observe.recording import Recorder, TelemetryFile, provenance
from distlab.observe.sample import Source

INTERVAL_S = 0.25
LEAD_S = 1.0
"""Before the part begins and after it has ended: the idle device beside the busy one."""


class Telemetry:
    """While it is entered, records the source into a file, in a thread. A fault of it costs the part nothing."""

    def __init__(
        self, path: Path, command: str, about: str, follow: Path | None, lead_s: float = LEAD_S
    ) -> None:
        """follow: a run's folder whose load simulated GPUs show, where there is no driver; None for the driver."""
        self.path, self.command, self.about, self.follow, self.lead_s = path, command, about, follow, lead_s
        self.problem = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> Telemetry:
        self._thread.start()
        try:
            self._over.wait(self.lead_s)
        except KeyboardInterrupt:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._over.wait(self.lead_s)
        self._end()

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def _record(self) -> None:
        try:
            with (
                open_source("simulated", follow=str(self.follow), gpus=1)
                if self.follow
                else open_source("nvml")
            ) as source:
                self._write(source)
        except Exception as error:  # whatever it is, it is said, and the part goes on
            expected = isinstance(error, SettingError | WorkError)
            self.problem = str(error) if expected else f"{type(error).__name__}: {error}"

    def _write(self, source: Source) -> None:
        reading = source.read()
        if not reading.samples:
            self.problem = " ".join(problem.what for problem in reading.problems) or "No GPU could be read."
            return
        origin = provenance(
            reading, tier=source.tier, interval_s=INTERVAL_S, command=self.command, about=self.about
        )
        with Recorder(self.path, origin) as recorder:
            recorder.write(reading)
            while not self._over.wait(INTERVAL_S):
                recorder.write(source.read())


def seen(path: Path) -> dict[str, Any]:
    """The extremes of a telemetry file, over all its GPUs, and every reason for which a clock was held down."""
    most: dict[str, float] = {}
    reasons: set[str] = set()
    with TelemetryFile(path) as file:
        count = 0
        for _, reading in file.readings():
            count += 1
            for sample in reading.samples:
                reasons.update(set(sample.throttle_reasons or ()) - {"gpu_idle"})
                for name in (
                    "utilization_percent",
                    "power_W",
                    "temperature_C",
                    "memory_used_bytes",
                    "sm_clock_MHz",
                ):
                    value = getattr(sample, name)
                    if value is not None:
                        most[f"most_{name}"] = max(most.get(f"most_{name}", value), value)
    return {"readings": count, **most, "throttle_reasons": ", ".join(sorted(reasons))}


def in_words(facts: dict[str, Any]) -> str:
    """For the file's description."""
    parts = [f"{facts['readings']} readings"]
    for name, words in (("utilization_percent", "% busy"), ("power_W", " W"), ("temperature_C", " C")):
        if (value := facts.get(f"most_{name}")) is not None:
            parts.append(f"up to {value:.0f}{words}")
    held = facts["throttle_reasons"]
    return ", ".join(parts) + (
        f"; the clock was held down by {held}" if held else "; the clock was not held down"
    )


def simulated_by(path: Path) -> dict[str, str]:
    """Tier, hardware and driver of a telemetry file that no driver made; of one that a driver made, nothing."""
    with TelemetryFile(path) as file:
        origin = file.provenance
    if origin.tier != "simulated":
        return {}
    return {"tier": origin.tier, "hardware": origin.hardware, "driver": origin.driver}
