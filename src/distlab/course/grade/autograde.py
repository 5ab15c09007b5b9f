"""`nbgrader autograde`, and formgrader's button for it, done by the coordinator (`batch.py`).

    install()     # in nbgrader's configuration, which nbgrader reads before it needs the class

nbgrader's own runs a submission's cells and its tests in one kernel, one submission after the other.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from nbgrader import converters  # type: ignore[import-untyped]
from nbgrader.apps import api, autogradeapp  # type: ignore[import-untyped]
from nbgrader.converters.base import NbGraderException  # type: ignore[import-untyped]
from traitlets import Float, Int

from distlab.course.grade.batch import Batch
from distlab.course.grade.commands import actor
from distlab.course.grade.graders import open_grader, workers_by_default
from distlab.course.grade.late import late_penalty
from distlab.course.grade.queue import Job, Queue, State
from distlab.course.grade.records import Record
from distlab.course.grade.work import Limits
from distlab.errors import SettingError, WorkError

USUAL = Limits()


class Autograde(converters.Autograde):  # type: ignore[misc]
    """Grades what was submitted, or all of it again with `--force`."""

    cell_s = Float(USUAL.cell_s, help="Seconds that one cell may take.").tag(config=True)
    wall_s = Float(USUAL.wall_s, help="Seconds that the whole notebook may take.").tag(config=True)
    workers = Int(0, help="Submissions at a time; 0 is one for each processor.").tag(config=True)

    def start(self) -> None:
        """Raises NbGraderException where something could not be graded, after all else was."""
        course, assignment = Path(self.coursedir.root), self.coursedir.assignment_id
        try:
            with open_grader() as grader, Queue(course) as queue:
                batch = Batch(
                    course,
                    queue,
                    grader,
                    assignment=assignment,
                    workers=self.workers or workers_by_default(),
                    limits=Limits(cell_s=self.cell_s, wall_s=self.wall_s),
                    late_penalty=late_penalty(),
                )
                students = self._chosen(batch.lab(assignment).students())
                if not students:
                    raise NbGraderException(f"Nobody who was asked for has submitted {assignment}.")
                asked = set(batch.ask(assignment, students, by=actor(), reason="autograde", again=self.force))
                batch.run()
                jobs = [job for job in queue.jobs(assignment) if job.key in asked]
        except (SettingError, WorkError) as error:
            self.log.error("%s", error)
            raise NbGraderException(str(error)) from error
        for job in jobs:
            self._say(job)
        failed = sum(job.state != State.DONE for job in jobs)
        if failed:
            raise NbGraderException(f"{failed} of {len(jobs)} submissions could not be graded now.")

    def _chosen(self, students: list[str]) -> list[str]:
        excluded = self.coursedir.student_id_exclude.split(",")
        wanted = self.coursedir.student_id or "*"
        return [name for name in students if fnmatchcase(name, wanted) and name not in excluded]

    def _say(self, job: Job) -> None:
        if job.state != State.DONE:
            self.log.error("%s was not graded: %s", job.student, job.message or job.state)
            return
        assert job.record is not None
        result = Record.from_json(job.record).result
        self.log.info(
            "%s: %s, %g of %g points", job.student, result.verdict, result.points, result.max_points
        )


def install() -> None:
    """Let nbgrader's command and its API make this class."""
    for module in (autogradeapp, api):
        module.Autograde = Autograde
