"""Grade what waits in the queue: workers that call the grader, and one writer for the gradebook.

This is the coordinator: it runs neither tests nor learner code. A worker takes a lease, reads and restores the
submission, has it graded, stages the autograded notebook and stores the result, which ends the lease. The
writer then puts the staged folder in place and the marks into the gradebook, in groups: a gradebook's commit
waits for the disk several times, whether it holds one submission or thirty. Every step can be taken again.

On Kubernetes the sandboxes are a Job's (`job.py`), and this is not: works and results cross in a folder of both
(`graders.grade_by_folder`), and the gradebook stays where no learner code runs.
"""

from __future__ import annotations

import errno
import math
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy.exc import SQLAlchemyError

from distlab.course.grade.autograded import fill, keep_others, put_in_place, write_stage
from distlab.course.grade.collected import Collected, Lab
from distlab.course.grade.gradebook import LatePenalty, Marks
from distlab.course.grade.owner import Owner, clock
from distlab.course.grade.queue import MAX_FAULTS, RENEW_S, Asked, Job, Queue, State
from distlab.course.grade.records import record_of, same_for_all
from distlab.course.grade.work import Limits, Result, Verdict, Work
from distlab.errors import SettingError, WorkError

GROUP = 32
"""Submissions whose marks are written in one transaction."""

POLL_S = 0.5
"""How often a worker that must wait looks whether another process has ended something."""


class Grader(Protocol):
    """Grades one submission; called by several threads at once.

    Raises `GraderUnavailable` where nothing was tried. Any other exception, and the verdict "not gradable",
    are faults of the machine: the submission is tried again, a few times.
    """

    def __call__(self, work: Work) -> Result: ...


class GraderUnavailable(WorkError):  # noqa: N818 - a state of the machine
    """Nothing can be graded now: no submission is to blame, and none is counted as tried."""


@dataclass(frozen=True)
class Progress:
    """How far a batch is: submissions with a result, all that it has or had to do, and who was last."""

    done: int
    total: int
    student: str


class Batch:
    """Grades the queue of a course directory until nothing is left, or `stop` is called."""

    def __init__(
        self,
        course: Path,
        queue: Queue,
        grader: Grader,
        *,
        assignment: str | None = None,
        workers: int = 1,
        limits: Limits | None = None,
        late_penalty: LatePenalty | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.course, self.queue, self.grader = course, queue, grader
        self.assignment, self.workers, self.limits = assignment, workers, limits
        self.late_penalty, self.report = late_penalty, report
        self._labs: dict[str, Lab] = {}
        self._labs_lock = threading.Lock()
        self._changed = threading.Condition()
        self._events = 0
        self._stopping = False
        self._ended = 0
        self._last = ""
        self._broken: BaseException | None = None

    def lab(self, assignment: str) -> Lab:
        """The assignment, read once."""
        with self._labs_lock:
            if assignment not in self._labs:
                self._labs[assignment] = Lab(self.course, assignment, self.limits)
            return self._labs[assignment]

    def ask(
        self,
        assignment: str,
        students: Iterable[str],
        *,
        by: str,
        reason: str,
        again: bool = False,
        question: str = "",
    ) -> list[str]:
        """Queue the students' submissions as they are on the disk now; returns the keys of their jobs."""
        lab = self.lab(assignment)
        asked = [
            Asked(student, lab.digest(student), lab.tests(student).sha256, lab.timed) for student in students
        ]
        return self.queue.ask(assignment, asked, by=by, reason=reason, again=again, question=question)

    def run(self) -> None:
        """Work until nothing is left. Raises `GraderUnavailable`, and whatever broke the batch itself."""
        owner = self.queue.owner()
        try:
            with Marks(self.course, self.late_penalty) as marks:
                self._sweep(owner)
                threads = [
                    threading.Thread(target=self._work, args=(owner,), name=f"grade-{n}", daemon=True)
                    for n in range(self.workers)
                ]
                for thread in threads:
                    thread.start()
                try:
                    self._write_until_ended(marks, threads, owner)
                except Exception:
                    self.stop()
                    for thread in threads:
                        thread.join()
                    raise
        finally:
            owner.close()
        if self._broken is not None:
            raise self._broken

    def stop(self) -> None:
        """Take no more work; what runs is finished."""
        self._stopping = True
        self._tell()

    def _tell(self) -> None:
        """Something happened: wake who waits."""
        with self._changed:
            self._events += 1
            self._changed.notify_all()

    def _wait(self, seen: int) -> None:
        """Wait until something happened after `seen` events, here or, for all that is known, elsewhere."""
        with self._changed:
            if self._events == seen:
                self._changed.wait(POLL_S)

    # The writer

    def _write_until_ended(self, marks: Marks, threads: list[threading.Thread], owner: Owner) -> None:
        total = self._ended + self.queue.left(self.assignment)
        reported = -1
        renewed = -math.inf  # workers may have held leases for a while already
        while True:
            seen = self._events
            if clock() > renewed + RENEW_S:
                renewed = clock()
                self.queue.renew(owner)
            alive = any(thread.is_alive() for thread in threads)
            wrote = self._write_group(marks)
            if self._ended != reported:
                reported = self._ended
                self.report(Progress(reported, max(total, reported), self._last))
            if not wrote:
                if not alive:
                    return
                self._wait(seen)

    def _write_group(self, marks: Marks) -> bool:
        """Write some results; False if there were none."""
        if not self.queue.to_apply(1):
            return False
        with self.queue.writer():
            jobs = self.queue.to_apply(GROUP)
            for job in jobs:
                if marks.keep(job):
                    shutil.rmtree(self._stage(job), ignore_errors=True)
                else:
                    put_in_place(self._stage(job), self.course, job.student, job.assignment)
            marks.apply(jobs)
            self.queue.set_applied(jobs)
        return bool(jobs)

    def _stage(self, job: Job) -> Path:
        return self.queue.folder / "stage" / f"{job.key}-{job.attempts}"

    def _sweep(self, owner: Owner) -> None:
        """Remove what killed processes staged and nobody needs."""
        self.queue.renew(owner)
        with self.queue.writer():
            for stage in (self.queue.folder / "stage").glob("*"):
                job = self.queue.find(stage.name.partition("-")[0])
                needed = job is not None and job.state in (State.LEASED, State.DONE, State.FAILED)
                if job is None or not needed or self._stage(job) != stage:
                    shutil.rmtree(stage, ignore_errors=True)

    # The workers

    def _work(self, owner: Owner) -> None:
        try:
            while not self._stopping and self._one(owner):
                pass
        except BaseException as error:
            self._broken = self._broken or error
            self._stopping = True
        finally:
            self._tell()

    def _one(self, owner: Owner) -> bool:
        """Grade one submission, or wait for one; False if there is nothing left to do."""
        seen = self._events
        job = self.queue.lease(owner, self.assignment)
        if job is None:
            if self.queue.draining or not self.queue.left(self.assignment):
                return False
            self._wait(seen)
            return True
        try:
            self._grade(job, owner)
        except Exception as error:
            if _is_everybodys(error):
                self.queue.release(job, owner)
                raise
            # Something in this submission that nobody thought of must not hold up all others.
            shutil.rmtree(self._stage(job), ignore_errors=True)
            self.queue.finish(job, owner, None, fault=f"{type(error).__name__}: {error}")
        self._tell()
        return True

    def _grade(self, job: Job, owner: Owner) -> None:
        lab = self.lab(job.assignment)
        try:
            collected = lab.collect(job.student)
        except FileNotFoundError as error:
            self.queue.drop(job, owner, str(error))
            return
        if (collected.sha256, collected.tests_sha256) != (job.submission, job.tests):
            self.queue.drop(job, owner, "what was submitted, or the tests, changed while it waited")
            asked = [Asked(job.student, collected.sha256, collected.tests_sha256, lab.timed)]
            self.queue.ask(
                job.assignment, asked, by=job.asked_by, reason=job.reason, again=True, question=job.question
            )
            return
        result, fault = self._result(collected)
        try:
            record = record_of(collected, result)
        except ValueError as error:
            fault = f"The grader's answer is none: {error}."
            result = same_for_all(collected.work, Verdict.NOT_GRADABLE, fault)
            record = record_of(collected, result)
        if fault and job.faults + 1 < MAX_FAULTS:
            self.queue.finish(job, owner, None, fault=fault)
            return
        notebook = fill(collected, result, record)
        if job.question:
            keep_others(notebook, job.question, self.course / "autograded" / job.student / job.assignment)
        stage = self._stage(job)
        write_stage(stage, job.assignment, notebook, collected.files)
        if self.queue.finish(job, owner, record.to_json(), fault=fault):
            self._ended, self._last = self._ended + 1, job.student
        else:  # cancelled meanwhile, or taken over by another
            shutil.rmtree(stage, ignore_errors=True)

    def _result(self, collected: Collected) -> tuple[Result, str]:
        """The grader's result, and what was the machine's fault, or nothing."""
        if collected.refusal:
            return same_for_all(collected.work, Verdict.VIOLATION, collected.refusal), ""
        try:
            result = self.grader(collected.work)
        except GraderUnavailable:
            raise
        except Exception as error:
            said = f"The grader failed: {type(error).__name__}: {error}"
            return same_for_all(collected.work, Verdict.NOT_GRADABLE, said), said
        cells = [cell for cell in result.cells if cell.verdict == Verdict.NOT_GRADABLE]
        if result.verdict == Verdict.NOT_GRADABLE or cells:
            message = result.message or next((cell.message for cell in cells), "")
            return result, message or "The grader could not grade it."
        return result, ""


def _is_everybodys(error: Exception) -> bool:
    """Would the next submission meet this, too?"""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENOMEM)
    return isinstance(error, WorkError | SettingError | sqlite3.Error | SQLAlchemyError)
