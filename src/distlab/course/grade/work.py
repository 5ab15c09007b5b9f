"""What is graded, and what came of it: the contract between whoever keeps marks and whoever runs code.

The grading service of one machine, the command line and a batch Job on Kubernetes all take a `Work` and give a
`Result`, both as JSON: `to_json` and `from_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MIB = 2**20

WORK, RESULT = ".work.json", ".result.json"
"""The ends of the names of both where they are files."""


class Verdict(StrEnum):
    """How a test, or a whole submission, ended."""

    PASSED = "passed"
    PARTIAL = "partial"  # the test gave a number of points between none and all
    FAILED = "failed"  # an assertion of the test
    ERROR = "error"  # the learner's code raised, or its process ended
    TIMEOUT = "timeout"
    MEMORY = "out of memory"
    OUTPUT = "too much output"
    VIOLATION = "sandbox violation"  # a forbidden system call, or an answer that is no answer
    NOT_GRADABLE = "not gradable"  # a fault of the machine or of the test: says nothing about the learner


OWN_FAULT = "This test could not run: its own code is at fault."
"""What `NOT_GRADABLE` says where the course is to blame, and not the machine."""


BASELINE = "baseline"
"""In the tests of a timed lab: what its locked cells make, in a sandbox where no learner's code is."""


class Kind(StrEnum):
    """What a code cell is to the grader."""

    CODE = "code"
    VISIBLE = "visible"  # a test that learners have, with points
    HIDDEN = "hidden"  # a test that they have not


@dataclass(frozen=True)
class Limits:
    """What each sandbox of a submission may use. Wall-clock and processor seconds; `processes` counts threads."""

    cell_s: float = 60.0
    wall_s: float = 300.0
    cpu_s: float = 600.0
    start_s: float = 60.0
    memory_bytes: int = 4096 * MIB
    tmp_bytes: int = 512 * MIB
    file_bytes: int = 256 * MIB
    output_bytes: int = 16 * MIB
    cpus: float = 2.0
    processes: int = 512


@dataclass(frozen=True)
class Cell:
    """A code cell of the submission as it will be run: its id, kind and points are the course's, not its own.

    `measure` marks a measurement that no test depends on: only the display pass runs it. `keeps` names what this
    cell of the course's defines and tests call: a learner's cell that defines it again does not take its place.
    """

    source: str
    grade_id: str = ""
    kind: Kind = Kind.CODE
    points: float = 0.0
    measure: bool = False
    keeps: tuple[str, ...] = ()

    @property
    def is_test(self) -> bool:
        return self.kind != Kind.CODE


@dataclass(frozen=True)
class Work:
    """One submission to grade.

    `names` are the learner's names that the lab lets tests use. `files` lie beside the notebook: name to
    base64. `seed` is the tests' own randomness (`random`, numpy, torch). A `timed` submission is graded alone;
    where it has a `baseline`, these cells of the course run in a sandbox of their own, for tests to compare with.
    `display=False` leaves out the pass that only makes outputs.
    """

    lab: str
    cells: tuple[Cell, ...]
    names: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    timed: bool = False
    baseline: tuple[str, ...] = ()
    display: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Work:
        """Raises TypeError or ValueError where `raw` is not what `to_json` made."""
        cells = tuple(
            Cell(**{**cell, "kind": Kind(cell["kind"]), "keeps": tuple(cell.get("keeps", ()))})
            for cell in raw["cells"]
        )
        limits = Limits(**raw.get("limits", {}))
        texts = {name: tuple(raw.get(name, ())) for name in ("names", "baseline")}
        return cls(**{**raw, **texts, "cells": cells, "limits": limits})


@dataclass(frozen=True)
class Graded:
    """What one test came to. `message` is the course's own sentence, never text of the learner's process."""

    grade_id: str
    verdict: Verdict
    points: float
    max_points: float
    message: str = ""


@dataclass(frozen=True)
class Shown:
    """What the display pass left of one code cell: `outputs` as in nbformat, cleaned. Hidden tests have none."""

    outputs: tuple[Mapping[str, Any], ...] = ()
    execution_count: int | None = None


@dataclass(frozen=True)
class Result:
    """`cells` holds the tests in notebook order, `shown` an entry for each code cell of the work.

    `verdict` is of the whole: `passed` if each test passed, else the gravest of what stopped the run, else
    `failed`. `provenance` says what was graded, with what, where.
    """

    lab: str
    verdict: Verdict
    message: str
    cells: tuple[Graded, ...]
    shown: tuple[Shown, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def points(self) -> float:
        return sum(cell.points for cell in self.cells)

    @property
    def max_points(self) -> float:
        return sum(cell.max_points for cell in self.cells)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "points": self.points, "max_points": self.max_points}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Result:
        """Raises TypeError or ValueError where `raw` is not what `to_json` made."""
        known = {name: raw[name] for name in ("lab", "message", "provenance")}
        cells = tuple(Graded(**{**cell, "verdict": Verdict(cell["verdict"])}) for cell in raw["cells"])
        shown = tuple(Shown(tuple(cell["outputs"]), cell["execution_count"]) for cell in raw["shown"])
        return cls(**known, verdict=Verdict(raw["verdict"]), cells=cells, shown=shown)
