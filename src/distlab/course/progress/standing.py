"""The rules: from what a learner handed in and what was released, to what is done and what is missing.

Pure functions of a `Module` and of one `Work` for each of its parts. Where the works come from: `record`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from distlab.course.progress.table import Module, Part

ROUNDING = 1e-9
"""In percent: sums of decimals fall short by a few bits, and eight times 0.1 of 1 point is 80%."""


@dataclass(frozen=True)
class Mark:
    """What released feedback says of a submission."""

    points: float
    max_points: float

    @property
    def percent(self) -> float:
        """What was reached; of nothing, all."""
        share = self.points / self.max_points if self.max_points else 1.0
        return 100 * share + ROUNDING

    @property
    def shown_percent(self) -> str:
        return f"{self.floor_percent:g}%"

    @property
    def floor_percent(self) -> float:
        """To one decimal, rounded down: who is told 80 has 80."""
        return math.floor(10 * self.percent) / 10


@dataclass(frozen=True)
class Work:
    """What the site has of one learner and one assignment. Nothing here depends on marks that are not released."""

    available: bool = False
    """Can it be opened on this site?"""
    opened: bool = False
    submitted: str = ""
    """When the last submission came (UTC); empty if none did."""
    mark: Mark | None = None
    """Of the last submission whose feedback is released."""
    marked: str = ""
    """When that submission came."""


class State(StrEnum):
    """How far a part is."""

    UNAVAILABLE = "not yet available"
    UNOPENED = "not opened"
    OPENED = "opened"
    SUBMITTED = "submitted"
    MARKED = "marked"


@dataclass(frozen=True)
class Item:
    """One line of the checklist."""

    part: Part
    work: Work = field(default_factory=Work)

    @property
    def state(self) -> State:
        if self.work.mark is not None:
            return State.MARKED
        if self.work.submitted:
            return State.SUBMITTED
        if not self.work.available:
            return State.UNAVAILABLE
        return State.OPENED if self.work.opened else State.UNOPENED

    @property
    def submitted_again(self) -> bool:
        """Is there a submission after the one that the mark is of?"""
        return self.work.mark is not None and self.work.submitted > self.work.marked

    @property
    def passed(self) -> bool:
        mark = self.work.mark
        return mark is not None and mark.percent >= self.part.pass_percent

    @property
    def done(self) -> bool:
        if self.part.gate == "submitted":
            return self.state in (State.SUBMITTED, State.MARKED)
        return self.passed

    @property
    def missing(self) -> str:
        """Why it is not done; empty if it is."""
        if self.done:
            return ""
        if self.work.mark is not None:
            return f"{self.work.mark.shown_percent} of the {self.part.pass_percent:g}% needed"
        reasons = {State.OPENED: "opened, not submitted", State.SUBMITTED: "submitted, no marks released"}
        return reasons.get(self.state, str(self.state))

    def to_json(self) -> dict[str, Any]:
        mark = self.work.mark
        return {
            "id": self.part.id,
            "name": self.part.name,
            "title": self.part.title,
            "gate": self.part.gate,
            "pass_percent": self.part.pass_percent,
            "state": str(self.state),
            "submitted_utc": self.work.submitted or None,
            "marked_submission_utc": self.work.marked or None,
            "points": mark.points if mark else None,
            "max_points": mark.max_points if mark else None,
            "percent": mark.floor_percent if mark else None,
            "done": self.done,
        }


@dataclass(frozen=True)
class Standing:
    """How one learner stands in one module."""

    module: Module
    items: tuple[Item, ...]

    @property
    def asked(self) -> tuple[Item, ...]:
        """The lines that completing the module depends on."""
        return tuple(item for item in self.items if item.part.counts)

    @property
    def done(self) -> int:
        return sum(item.done for item in self.asked)

    @property
    def complete(self) -> bool:
        return self.done == len(self.asked)

    @property
    def missing(self) -> dict[str, list[Item]]:
        """What is missing, by reason, in the order of the checklist."""
        found: dict[str, list[Item]] = {}
        for item in self.asked:
            if not item.done:
                found.setdefault(item.missing, []).append(item)
        return found

    @property
    def sentence(self) -> str:
        if self.complete:
            return f"Complete: {self.counted}."
        groups = (
            f"{', '.join(item.part.name for item in items)}: {reason}"
            for reason, items in self.missing.items()
        )
        return f"Not complete, {self.counted}; still missing are {'; '.join(groups)}."

    @property
    def counted(self) -> str:
        """How many parts are done, in words."""
        of = len(self.asked)
        if self.complete:
            return f"all {of} parts are done" if of > 1 else "its one part is done"
        return f"{self.done} of {of} part{'s' * (of != 1)} {'is' if self.done == 1 else 'are'} done"

    def to_json(self) -> dict[str, Any]:
        return {
            "module": self.module.module,
            "title": self.module.title,
            "complete": self.complete,
            "done": self.done,
            "asked": len(self.asked),
            "sentence": self.sentence,
            "parts": [item.to_json() for item in self.items],
        }


def standing(module: Module, works: Mapping[str, Work]) -> Standing:
    """How a learner stands, from their works by assignment; one that is not there was never released."""
    return Standing(module, tuple(Item(part, works.get(part.id, Work())) for part in module.parts))
