"""A released small lab with submissions, and a grader that runs nothing: it looks for words in the answers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbgrader.api import Gradebook

from distlab.course.grade.batch import Batch
from distlab.course.grade.queue import Queue
from distlab.course.grade.work import Graded, Kind, Result, Shown, Verdict, Work
from distlab.course.release import release_all
from distlab.course.site import COURSE_ID, Site
from tests.course.small_lab import LAB_ID, Submission, write_lab

FULL = {"test_double": 2.0, "hidden_double": 3.0, "hidden_triple": 5.0, "explain": None}


def word_grader(work: Work) -> Result:
    """A test passes if the answer that it names returns something; `half` in an answer gives half the points."""
    answers = {cell.grade_id: cell.source for cell in work.cells}
    graded = []
    for cell in work.cells:
        if not cell.is_test:
            continue
        answer = answers[cell.grade_id.split("_")[1]]
        if "half" in answer:
            one = Graded(cell.grade_id, Verdict.PARTIAL, cell.points / 2, cell.points, "half of it")
        elif "return" in answer:
            one = Graded(cell.grade_id, Verdict.PASSED, cell.points, cell.points)
        else:
            one = Graded(cell.grade_id, Verdict.FAILED, 0.0, cell.points, "it returns nothing")
        graded.append(one)
    passed = all(one.verdict == Verdict.PASSED for one in graded)
    shown = tuple(
        Shown(({"output_type": "stream", "name": "stdout", "text": f"ran {number}"},), number)
        if cell.kind != Kind.HIDDEN
        else Shown()
        for number, cell in enumerate(work.cells)
    )
    verdict = Verdict.PASSED if passed else Verdict.FAILED
    return Result(work.lab, verdict, "", tuple(graded), shown, {"machine": "none"})


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one: waits for a disk are most of what these tests would take."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def released(folder: Path) -> Site:
    """A site with the small lab released and no submission."""
    site = Site(folder)
    write_lab(site.root)
    release_all(site)
    return site


def starter(course: Path) -> Submission:
    return Submission(course / "release" / LAB_ID / f"{LAB_ID}.ipynb")


def submit(course: Path, student: str, change: Callable[[Submission], object] | None = None) -> None:
    """An honest submission, after `change`."""
    submission = starter(course).honest()
    if change:
        change(submission)
    submission.submit(course, student)


def batch(course: Path, queue: Queue, **options: object) -> Batch:
    return Batch(course, queue, **{"grader": word_grader, "assignment": LAB_ID, "workers": 2, **options})


def grade_all(course: Path, **options: object) -> list[str]:
    """Grade everything that was submitted; returns the jobs' keys."""
    ask = {name: options.pop(name) for name in ("again", "question", "students") if name in options}
    with Queue(course) as queue:
        work = batch(course, queue, **options)
        students = ask.pop("students", None) or work.lab(LAB_ID).students()
        keys = work.ask(LAB_ID, students, by="teacher", reason="test", **ask)
        work.run()
    return keys


def gradebook(course: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{course / 'gradebook.db'}", COURSE_ID)


def scores(course: Path, student: str) -> dict[str, float | None]:
    """The automatic scores in nbgrader's gradebook, by test."""
    with gradebook(course) as book:
        submission = book.find_submission_notebook(LAB_ID, LAB_ID, student)
        return {grade.name: grade.auto_score for grade in submission.grades}


def autograded(course: Path, student: str) -> nbformat.NotebookNode:
    """The graded notebook, as formgrader and feedback get it."""
    return nbformat.read(course / "autograded" / student / LAB_ID / f"{LAB_ID}.ipynb", 4)
