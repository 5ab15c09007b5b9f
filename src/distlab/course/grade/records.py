"""What is kept of one graded submission, and how two gradings of it differ.

A record goes into the queue's row as JSON, and from there into the gradebook.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from nbformat.notebooknode import NotebookNode
from nbgrader import utils  # type: ignore[import-untyped]

import distlab
from distlab.course.grade.collected import Collected
from distlab.course.grade.queue import Job, State
from distlab.course.grade.work import Graded, Result, Verdict, Work

NO_RESPONSE = "No response."
"""nbgrader's comment on an answer that was left as it was."""


@dataclass(frozen=True)
class Record:
    """A result as the gradebook gets it.

    `auto`: a score for each graded cell, None where a person has to look. `comments`: for each answer, the
    automatic one. `result` is without outputs, which are in the autograded notebook.
    """

    result: Result
    auto: Mapping[str, float | None]
    comments: Mapping[str, str | None]
    timestamp: str
    repaired: Mapping[str, str]

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "result": self.result.to_json()})

    @classmethod
    def from_json(cls, text: str) -> Record:
        raw = json.loads(text)
        return cls(**{**raw, "result": Result.from_json(raw["result"])})


def record_of(collected: Collected, result: Result) -> Record:
    """What the gradebook gets of `result`, which must answer every test of the work with points in its range.

    Raises `ValueError` where it does not: that is a fault of the grader, not of the submission.
    """
    tests = {cell.grade_id: cell for cell in collected.work.cells if cell.is_test}
    answers = {graded.grade_id: graded for graded in result.cells}
    if list(answers) != list(tests) or len(result.cells) != len(tests):
        raise ValueError(f"the grader answered for the tests {list(answers)}, not {list(tests)}")
    auto: dict[str, float | None] = {}
    for name, graded in answers.items():
        if not 0 <= graded.points <= tests[name].points:
            raise ValueError(f"the grader gave {graded.points} of {tests[name].points} points for {name}")
        auto[name] = None if graded.verdict == Verdict.NOT_GRADABLE else graded.points
    comments: dict[str, str | None] = {}
    for cell in collected.notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name is None:
            continue
        if utils.is_grade(cell) and name not in auto:
            auto[name] = utils.determine_grade(cell)[0]
        if utils.is_task(cell):
            comments[name] = None
        elif utils.is_solution(cell):
            comments[name] = NO_RESPONSE if _untouched(cell) else None
    provenance = {
        **result.provenance,
        "notebook_sha256": collected.notebook_sha256,
        "submission_sha256": collected.sha256,
        "tests_sha256": collected.tests_sha256,
        "seed": collected.work.seed,
        "distlab": distlab.__version__,
    }
    kept = replace(result, shown=(), provenance=provenance)
    return Record(kept, auto, comments, collected.timestamp, dict(collected.repaired))


def _untouched(cell: NotebookNode) -> bool:
    checksum = cell.metadata.nbgrader.get("checksum")
    return bool(checksum == utils.compute_checksum(cell))


def same_for_all(work: Work, verdict: Verdict, message: str) -> Result:
    """The result of a work that was not run."""
    cells = tuple(
        Graded(cell.grade_id, verdict, 0.0, cell.points, message) for cell in work.cells if cell.is_test
    )
    return Result(work.lab, verdict, message, cells)


@dataclass(frozen=True)
class Difference:
    """A test whose verdict or points a later grading changed. Empty and None: it was not graded before."""

    assignment: str
    student: str
    grade_id: str
    verdict_before: str
    points_before: float | None
    verdict: str
    points: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def differences(jobs: Sequence[Job], keys: Iterable[str]) -> list[Difference]:
    """How the jobs named by `keys` differ from what their student's submission had before.

    `jobs` are all of the queue, the oldest first.
    """
    chosen = set(keys)
    last: dict[tuple[str, str], dict[str, Graded]] = {}
    found = []
    for job in jobs:
        if job.record is None or job.state not in (State.DONE, State.FAILED):
            continue
        cells = {cell.grade_id: cell for cell in Record.from_json(job.record).result.cells}
        before = last.get((job.assignment, job.student), {})
        if job.question:
            cells = {name: cell for name, cell in cells.items() if name == job.question}
        if job.key in chosen:
            for name, cell in cells.items():
                old = before.get(name)
                if old is None or (old.verdict, old.points) != (cell.verdict, cell.points):
                    found.append(
                        Difference(
                            job.assignment, job.student, name, old.verdict if old else "",
                            old.points if old else None, cell.verdict, cell.points,
                        )
                    )  # fmt: skip
        last[job.assignment, job.student] = {**before, **cells}
    return found
