"""Regrades list what differs, marks given by hand stay, and the log knows who changed which mark."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbgrader.utils import determine_grade, is_grade

from distlab.course.grade import batch
from distlab.course.grade.gradebook import Marks
from distlab.course.grade.queue import Queue
from distlab.course.grade.records import differences
from distlab.course.grade.work import Graded, Result, Verdict, Work
from tests.course.batch_rig import FULL, autograded, grade_all, gradebook, scores, submit, word_grader
from tests.course.small_lab import LAB_ID


def give_by_hand(course: Path, student: str, test: str, score: float) -> None:
    """As formgrader does."""
    with gradebook(course) as book:
        grade = book.find_grade(test, LAB_ID, LAB_ID, student)
        grade.manual_score, grade.needs_manual_grade = score, False
        book.db.commit()


def test_marks_given_by_hand_stay_and_are_looked_at_again_only_if_something_changed(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)
    give_by_hand(course, "ann", "hidden_triple", 4.5)
    give_by_hand(course, "ann", "explain", 3.0)

    def look() -> dict[str, tuple[float | None, bool]]:
        with gradebook(course) as book:
            grades = book.find_submission_notebook(LAB_ID, LAB_ID, "ann").grades
            return {grade.name: (grade.manual_score, grade.needs_manual_grade) for grade in grades}

    grade_all(course, again=True)
    assert look()["hidden_triple"] == (4.5, False)
    assert look()["explain"] == (3.0, False)
    shutil.rmtree(course / "submitted" / "ann")
    submit(course, "ann", lambda s: s.answer("triple", "def triple(x):\n    pass"))
    grade_all(course)
    assert look()["hidden_triple"] == (4.5, True)
    assert look()["explain"] == (3.0, True)
    assert scores(course, "ann")["hidden_triple"] == 0.0


def test_marks_are_looked_at_where_a_newer_submission_left_no_result(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look() -> tuple[float | None, set[bool]]:
        with gradebook(course) as book:
            grades = book.find_submission_notebook(LAB_ID, LAB_ID, "ann").grades
            by_hand = next(grade.manual_score for grade in grades if grade.name == "hidden_triple")
            return by_hand, {grade.needs_manual_grade for grade in grades}

    def write_half(stage: Path, *_more: object) -> None:
        stage.mkdir()
        raise RecursionError("a notebook like no other")

    submit(course, "ann")
    grade_all(course)
    give_by_hand(course, "ann", "hidden_triple", 4.5)
    give_by_hand(course, "ann", "explain", 3.0)
    before = autograded(course, "ann")
    with monkeypatch.context() as broken:
        broken.setattr(batch, "write_stage", write_half)
        grade_all(course, again=True)
        assert look() == (4.5, {False}), "the marks are this very submission's"
        (course / "submitted" / "ann" / LAB_ID / "more.txt").write_text("more")
        grade_all(course)
    assert look() == (4.5, {True})
    assert (scores(course, "ann"), autograded(course, "ann")) == (FULL, before)
    assert not list((course / "grading" / "stage").iterdir())
    give_by_hand(course, "ann", "hidden_triple", 4.0)
    grade_all(course)
    assert look() == (4.0, {True, False}), "given by hand for the earlier submission"


def test_the_log_says_who_changed_which_mark_from_what_to_what(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)
    give_by_hand(course, "ann", "explain", 3.0)
    with Marks(course) as marks:
        changes = marks.changes(LAB_ID, "ann")
    logged = {(c.actor, c.reason, c.grade_id, c.mark, c.before, c.after) for c in changes}
    assert logged == {
        ("teacher", "test", "test_double", "auto_score", None, 2.0),
        ("teacher", "test", "hidden_double", "auto_score", None, 3.0),
        ("teacher", "test", "hidden_triple", "auto_score", None, 5.0),
        ("nbgrader", "", "explain", "manual_score", None, 3.0),
    }
    with gradebook(course) as book:
        book.remove_submission(LAB_ID, "ann")
    with Marks(course) as marks:
        removed = {(c.grade_id, c.before) for c in marks.changes() if c.after is None}
    assert ("explain", 3.0) in removed
    assert ("hidden_triple", 5.0) in removed


FORMGRADER = """
import sys
from nbgrader.api import Gradebook
from distlab.course.grade.gradebook import sign_changes

sign_changes("grace")
with Gradebook(sys.argv[1], "distlab") as book:
    for score in (1.0, 2.0):
        book.find_grade("explain", sys.argv[2], sys.argv[2], "ann").manual_score = score
        book.db.commit()
    book.find_grade("explain", sys.argv[2], sys.argv[2], "ann").manual_score = 3.0
    book.db.flush()
    book.db.rollback()
"""


def test_the_log_names_the_person_at_formgrader(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)
    url = f"sqlite:///{course / 'gradebook.db'}"
    subprocess.run([sys.executable, "-c", FORMGRADER, url, LAB_ID], check=True)
    give_by_hand(course, "ann", "explain", 4.0)
    with Marks(course) as marks:
        by_hand = [(c.actor, c.before, c.after) for c in marks.changes() if c.mark == "manual_score"]
    assert by_hand == [("grace", None, 1.0), ("grace", 1.0, 2.0), ("nbgrader", 2.0, 4.0)]


def test_a_regrade_lists_what_differs(course: Path) -> None:
    submit(course, "ann")
    submit(course, "ben")

    def harsh(work: Work) -> Result:
        result = word_grader(work)
        cells = tuple(
            Graded(c.grade_id, Verdict.FAILED, 0.0, c.max_points) if c.grade_id == "hidden_triple" else c
            for c in result.cells
        )
        return Result(result.lab, Verdict.FAILED, "", cells, result.shown, {})

    grade_all(course)
    keys = grade_all(course, grader=harsh, again=True, students=["ben"])
    with Queue(course) as queue:
        found = differences(queue.jobs(), keys)
    assert [
        (d.student, d.grade_id, d.verdict_before, d.points_before, d.verdict, d.points) for d in found
    ] == [("ben", "hidden_triple", "passed", 5.0, "failed", 0.0)]
    assert scores(course, "ann") == FULL
    assert scores(course, "ben") == {**FULL, "hidden_triple": 0.0}


def test_a_regrade_of_a_question_changes_that_question_alone(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)

    def zero(work: Work) -> Result:
        result = word_grader(work)
        cells = tuple(Graded(c.grade_id, Verdict.FAILED, 0.0, c.max_points, "no") for c in result.cells)
        return Result(result.lab, Verdict.FAILED, "", cells, result.shown, {})

    grade_all(course, grader=zero, again=True, question="hidden_double")
    assert scores(course, "ann") == {**FULL, "hidden_double": 0.0}
    cells = [cell for cell in autograded(course, "ann").cells if is_grade(cell)]
    assert {c.metadata.nbgrader.grade_id: determine_grade(c)[0] for c in cells} == scores(course, "ann")
