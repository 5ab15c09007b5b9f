"""Recorded telemetry, replayed at the pace at which it was taken.

    with RecordedSource("recordings/training.jsonl.gz", speed=10, loop=True) as source:
        source.read()

A moment at which the recording holds nothing, a gap, reads as nothing: never as zeros, never as the value before.
A file that is cut off or damaged is replayed up to there, and then says so.
"""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from distlab.errors import SettingError
from distlab.observe.encoding import Damage
from distlab.observe.recording import TelemetryFile
from distlab.observe.sample import GpuSample, Problem, Reading, SampleTier, Source, Xid

GAP_INTERVALS = 2.5
"""A reading stands for the time until the next one, and for no longer than so many intervals."""


class RecordedSource(Source):
    """A telemetry file as a Source. Its clock starts with the source.

    Samples keep the time at which they were taken. Their tier is `recorded`, but what a simulator made stays
    `simulated`.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        speed: float = 1.0,
        loop: bool = False,
        at_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """speed: recorded seconds for each of the clock's. at_s: where in the file to begin.

        SettingError where it is no telemetry file.
        """
        if not 0 < speed <= 3600:
            raise SettingError(f"A speed of {speed:g} cannot be replayed; choose more than 0, 3600 at most.")
        self.path, self.speed, self.loop = Path(path), speed, loop
        self._clock = clock
        self._origin = clock() - at_s / speed
        self._rewind()
        self.tier: SampleTier = "simulated" if self.provenance.tier == "simulated" else "recorded"

    def close(self) -> None:
        self._file.close()

    def _rewind(self) -> None:
        self._file = TelemetryFile(self.path)
        self.provenance = self._file.provenance
        self._readings: Iterator[tuple[float, Reading]] = self._file.readings()
        self._now: tuple[float, Reading] | None = None
        self._told = False
        self._end: str | None = None
        self._damaged = False
        self._next = self._advance()
        self._first = self._next[0] if self._next else 0.0

    def _advance(self) -> tuple[float, Reading] | None:
        try:
            return next(self._readings)
        except StopIteration:
            self._end = "has ended"
        except Damage as damage:
            self._end, self._damaged = f"is not whole ({damage}) and has ended", True
        return None

    def read(self) -> Reading:
        """What the recording holds for this moment; XIDs of readings that were passed over are not lost."""
        at = self._first + max(0.0, self._clock() - self._origin) * self.speed
        missed: dict[int, list[Xid]] = defaultdict(list)
        while self._next is not None and self._next[0] <= at:
            if self._now is not None and not self._told:
                _collect(self._now[1], missed)
            self._now, self._told = self._next, False
            self._next = self._advance()
        if self._now is None:
            return Reading(
                (), (Problem(f"The recording {self.path.name} {self._end or 'holds nothing yet'}."),)
            )
        taken, reading = self._now
        if at - taken > GAP_INTERVALS * self.provenance.interval_s:
            return self._silence(at, reading, missed)
        if self._told:
            reading = _without_xids(reading)
        self._told = True
        return self._labelled(reading, missed)

    def _silence(self, at: float, last: Reading, missed: dict[int, list[Xid]]) -> Reading:
        """Nothing was recorded for this moment. XIDs that were passed over on the way are told all the same."""
        if not self._told:
            _collect(last, missed)
            self._told = True
        problems = tuple(
            Problem(f"GPU {gpu} has no sample here.", gpu, tuple(xids)) for gpu, xids in missed.items()
        )
        if self._next is not None:
            return Reading((), (Problem(f"The recording has a gap {at - self._first:.0f} s in."), *problems))
        if self.loop and self._now is not None:
            damaged = self._end if self._damaged else None
            self._file.close()
            self._origin = self._clock()
            try:
                self._rewind()
            except SettingError as error:  # removed or replaced meanwhile
                self._next = self._now = None
                return Reading((), (Problem(str(error)), *problems))
            again = self.read()
            if damaged:
                problems = (Problem(f"The recording {self.path.name} {damaged}; it starts again."), *problems)
            return Reading(again.samples, (*again.problems, *problems))
        length = self._now[0] - self._first if self._now else 0.0
        what = (
            f"The recording {self.path.name} {self._end} after {length:.0f} s; replay it with loop, or again."
        )
        return Reading((), (Problem(what), *problems))

    def _labelled(self, reading: Reading, missed: dict[int, list[Xid]]) -> Reading:
        """With the tier that a replay has, and the XIDs of readings that were passed over."""
        samples = tuple(
            dataclasses.replace(
                sample, tier=self._tier_of(sample), xids=(*missed.pop(sample.gpu, ()), *sample.xids)
            )
            for sample in reading.samples
        )
        late = tuple(
            Problem(f"GPU {gpu} has no sample here.", gpu, tuple(xids)) for gpu, xids in missed.items()
        )
        damage: tuple[Problem, ...] = ()
        if self._damaged and self._next is None:
            damage = (Problem(f"The recording {self.path.name} {self._end}."),)
        return Reading(samples, (*reading.problems, *damage, *late))

    def _tier_of(self, sample: GpuSample) -> SampleTier:
        return "simulated" if "simulated" in (sample.tier, self.tier) else "recorded"


def _collect(reading: Reading, into: dict[int, list[Xid]]) -> None:
    for sample in reading.samples:
        if sample.xids:
            into[sample.gpu] += sample.xids
    for problem in reading.problems:
        if problem.xids and problem.gpu is not None:
            into[problem.gpu] += problem.xids


def _without_xids(reading: Reading) -> Reading:
    return Reading(
        tuple(dataclasses.replace(sample, xids=()) for sample in reading.samples),
        tuple(dataclasses.replace(problem, xids=()) for problem in reading.problems),
    )
