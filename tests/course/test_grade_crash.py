"""kill -9 of the coordinator at 100 random moments: each submission is graded exactly once all the same."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import nbformat

from distlab.course.grade import autograded, batch, collected, gradebook, owner, queue, records
from distlab.course.grade.queue import Queue, State
from tests.course.batch_rig import grade_all, scores, submit
from tests.course.small_lab import LAB_ID, Submission

KILLS = 100
STUDENTS = ("ann", "ben", "cat", "dan")
TRACED = {module.__file__ for module in (autograded, batch, collected, gradebook, owner, queue, records)}
RIGHT = {"test_double": 2.0, "hidden_double": 3.0, "hidden_triple": 5.0, "explain": None}
WRONG = {"test_double": 0.0, "hidden_double": 0.0, "hidden_triple": 0.0, "explain": None}


class Steps:
    """Counts the lines that the coordinator's modules run, in all threads; the `last` one kills the process."""

    def __init__(self, last: int) -> None:
        self.count, self.last = 0, last

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event == "line":
            self.count += 1
            if self.count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.trace

    def install(self) -> None:
        threading.settrace(self.trace)
        sys.settrace(self.trace)


def run_until(course: Path, last: int) -> int | None:
    """Grade in a child that dies at its step `last`; the steps that it took if it ended well, else None."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        steps = Steps(last)
        try:
            steps.install()
            grade_all(course)
            sys.settrace(None)
            os.write(writer, str(steps.count).encode())
        finally:
            os._exit(0)  # the test runner's own clean-up is the parent's
    os.close(writer)
    with open(reader, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert said, "the batch ended with an error, see above"
    return int(said)


def submit_all(course: Path, version: int) -> datetime:
    """Every student submits anew: right and wrong answers by turns, so that each grading changes each mark."""
    when = datetime(2026, 11, 20, 12, 0, version)

    def wrong(submission: Submission) -> None:
        submission.answer("double", "def double(x):\n    pass").answer("triple", "def triple(x):\n    pass")

    for student in STUDENTS:
        folder = course / "submitted" / student / LAB_ID
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()
        submit(course, student, wrong if version % 2 else None)
        (folder / "timestamp.txt").write_text(f"{when:%Y-%m-%d %H:%M:%S} UTC")
    return when


def marks_of(course: Path) -> dict[str, tuple[str, tuple[float | None, ...]]]:
    """By student: when what the gradebook has was submitted, and its automatic scores."""
    with closing(sqlite3.connect(course / "gradebook.db")) as db:
        rows = db.execute(
            "SELECT student_id, timestamp, group_concat(coalesce(auto_score, 'none')) FROM"
            " (SELECT s.student_id, s.timestamp, g.auto_score FROM grade g"
            " JOIN submitted_notebook n ON n.id = g.notebook_id"
            " JOIN submitted_assignment s ON s.id = n.assignment_id"
            " JOIN base_cell c ON c.id = g.cell_id ORDER BY c.name) GROUP BY student_id, timestamp"
        )
        return {student: (when, marks) for student, when, marks in rows}


def check_graded_once(course: Path, when: datetime, right: bool, versions: int) -> None:
    expected = RIGHT if right else WRONG
    with Queue(course) as the_queue:
        jobs = the_queue.jobs()
    assert len(jobs) == len(STUDENTS) * versions
    assert {(job.state, job.applied) for job in jobs} == {(State.DONE, 1)}
    with closing(sqlite3.connect(course / "gradebook.db")) as db:
        applied = {key for (key,) in db.execute("SELECT job FROM distlab_applied")}
        changes = db.execute("SELECT job, count(*) FROM distlab_mark_change GROUP BY job").fetchall()
    assert applied == {job.key for job in jobs}
    assert sorted(changes) == sorted((key, 3) for key in applied)  # once each, and no change without a job
    for student in STUDENTS:
        assert marks_of(course)[student][0].startswith(f"{when:%Y-%m-%d %H:%M:%S}")
        assert scores(course, student) == expected
        notebook = nbformat.read(course / "autograded" / student / LAB_ID / f"{LAB_ID}.ipynb", 4)
        last = next(job for job in reversed(jobs) if job.student == student)
        assert notebook.metadata.distlab.provenance["submission_sha256"] == last.submission
    assert not list((course / "grading" / "stage").iterdir())
    assert not list((course / "grading" / "owners").iterdir())


def test_each_submission_is_graded_exactly_once_whenever_the_grader_is_killed(course: Path) -> None:
    when, versions = submit_all(course, 0), 1
    steps = run_until(course, last=0)
    assert steps is not None
    check_graded_once(course, when, True, versions)
    before = marks_of(course)
    moments = random.Random(20261130)
    kills = 0
    when, versions = submit_all(course, versions), versions + 1
    while kills < KILLS:
        if run_until(course, moments.randint(1, steps)) is None:
            kills += 1
            # Marks and timestamp change together or not at all.
            for student, mark in marks_of(course).items():
                assert mark == before[student] or mark[0].startswith(f"{when:%Y-%m-%d %H:%M:%S}")
                assert (mark[1] == before[student][1]) == (mark[0] == before[student][0])
        else:
            check_graded_once(course, when, versions % 2 == 1, versions)
            before = marks_of(course)
            when, versions = submit_all(course, versions), versions + 1
    assert run_until(course, last=0) is not None
    check_graded_once(course, when, versions % 2 == 1, versions)
    assert versions > 10
