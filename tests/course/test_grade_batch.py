"""Grading in batches: the queue, the gradebook, retries, cancelling, draining, regrades; with nbgrader's own rules."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from nbgrader.utils import determine_grade, is_grade
from sqlalchemy import event
from sqlalchemy.engine import Engine

from distlab.course.grade.batch import GraderUnavailable
from distlab.course.grade.collected import Collected, Lab
from distlab.course.grade.gradebook import Marks
from distlab.course.grade.grader import _provenance
from distlab.course.grade.queue import MAX_FAULTS, Queue, State
from distlab.course.grade.records import Record
from distlab.course.grade.work import Graded, Result, Verdict, Work
from distlab.errors import SettingError
from tests.course.batch_rig import (
    FULL,
    autograded,
    batch,
    grade_all,
    gradebook,
    scores,
    starter,
    submit,
    word_grader,
)
from tests.course.small_lab import HIDDEN_CANARY, LAB_ID

NONE = dict.fromkeys(FULL, None)
ZERO = {"test_double": 0.0, "hidden_double": 0.0, "hidden_triple": 0.0, "explain": 0.0}


def broken(work: Work) -> Result:
    raise RuntimeError("no sandbox")


# What the gradebook gets


def test_marks_are_what_the_grader_said_and_what_nbgrader_would_read(course: Path) -> None:
    submit(course, "ann")
    starter(course).submit(course, "ben")
    submit(course, "cat", lambda s: s.answer("double", "def double(x):\n    return 0  # half"))
    grade_all(course)
    assert scores(course, "ann") == FULL
    assert scores(course, "ben") == ZERO
    assert scores(course, "cat") == {**FULL, "test_double": 1.0, "hidden_double": 1.5}
    for student in ("ann", "ben", "cat"):
        cells = [cell for cell in autograded(course, student).cells if is_grade(cell)]
        by_nbgrader = {cell.metadata.nbgrader.grade_id: determine_grade(cell)[0] for cell in cells}
        assert by_nbgrader == scores(course, student)


def test_formgrader_sees_comments_timestamps_and_what_needs_a_person(course: Path) -> None:
    submit(course, "ann")
    starter(course).submit(course, "ben")
    grade_all(course)
    with gradebook(course) as book:
        ann, ben = (book.find_submission(LAB_ID, student) for student in ("ann", "ben"))
        assert ann.timestamp == datetime(2026, 11, 20, 12)
        assert (ann.score, ann.max_score) == (10.0, 14.0)
        assert ann.needs_manual_grade
        assert not ben.needs_manual_grade
        comments = {comment.name: comment.auto_comment for comment in ben.notebooks[0].comments}
        assert comments == dict.fromkeys(("double", "triple", "explain"), "No response.")
        assert {comment.auto_comment for comment in ann.notebooks[0].comments} == {None}


def test_late_penalties_are_the_plugins_within_the_score(course: Path) -> None:
    submit(course, "ann")
    with gradebook(course) as book:
        book.update_or_create_assignment(LAB_ID, duedate="2026-11-20 11:59:00 UTC")
    asked = []

    def penalty(student: str, score: float, late_s: float) -> float:
        asked.append((student, score, late_s))
        return 99.0

    grade_all(course, late_penalty=penalty)
    assert asked == [("ann", 10.0, 60.0)]
    with gradebook(course) as book:
        assert book.find_submission(LAB_ID, "ann").late_submission_penalty == 10.0


def test_the_graded_notebook_notes_what_was_repaired(course: Path) -> None:
    def change(submission: object) -> None:
        submission.delete("hidden_triple")  # type: ignore[attr-defined]
        copied = {
            "grade_id": "double",
            "solution": True,
            "grade": False,
            "locked": False,
            "schema_version": 3,
        }
        submission.add("def double(x):\n    pass", at=1, nbgrader=copied)  # type: ignore[attr-defined]

    submit(course, "ann", change)
    grade_all(course)
    assert scores(course, "ann") == FULL
    with Queue(course) as queue:
        record = Record.from_json(str(queue.jobs()[0].record))
    assert record.repaired == {"double": "duplicated", "hidden_triple": "missing"}
    notes = [cell.source for cell in autograded(course, "ann").cells if cell.cell_type == "markdown"]
    assert any("`hidden_triple` was missing" in note for note in notes)
    assert any("several cells with the id `double`" in note for note in notes)


def test_provenance_says_what_was_graded_with_what(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)
    with Queue(course) as queue:
        job = queue.jobs()[0]
    provenance = Record.from_json(str(job.record)).result.provenance
    assert provenance["machine"] == "none"
    assert provenance["submission_sha256"] == job.submission
    assert provenance["tests_sha256"] == job.tests
    assert {"notebook_sha256", "seed", "distlab"} <= set(provenance)
    # What the grader itself adds is not named like something else.
    ran = {name for name, value in _provenance(Work(LAB_ID, ())).items() if len(str(value)) == 64}
    assert ran == {"code_run_sha256", "tests_run_sha256", "environment"}
    assert HIDDEN_CANARY not in str(job.record)


def test_files_beside_the_notebook_come_along_and_links_do_not(course: Path) -> None:
    submit(course, "ann")
    folder = course / "submitted" / "ann" / LAB_ID
    (folder / "mine.txt").write_text("mine")
    (folder / "secret.txt").symlink_to(course / "gradebook.db")
    (course / "source" / LAB_ID / "data.txt").write_text("the course's")
    (folder / "data.txt").write_text("forged")
    seen: dict[str, str] = {}

    def grader(work: Work) -> Result:
        seen.update(work.files)
        return word_grader(work)

    grade_all(course, grader=grader)
    assert sorted(seen) == ["data.txt", "mine.txt"]
    assert (course / "autograded" / "ann" / LAB_ID / "data.txt").read_text() == "the course's"
    assert not (course / "autograded" / "ann" / LAB_ID / "secret.txt").exists()


def test_names_of_files_that_clash_hold_up_nobody(course: Path) -> None:
    (course / "source" / LAB_ID / "data").mkdir()
    (course / "source" / LAB_ID / "data" / "points.txt").write_text("the course's")
    (course / "source" / LAB_ID / "table").write_text("the course's")
    submit(course, "ann")
    submit(course, "ben")
    folder = course / "submitted" / "ann" / LAB_ID
    (folder / "data").write_text("a file where the course has a folder")
    (folder / "table").mkdir()
    (folder / "table" / "x").write_text("a folder where the course has a file")
    (folder / f"{LAB_ID}.ipynb").unlink()
    (folder / f"{LAB_ID}.ipynb").mkdir()
    (folder / f"{LAB_ID}.ipynb" / "x").write_text("a folder where the notebook belongs")
    (folder / os.fsdecode(b"no\xfftext")).write_text("a name that is no text")
    grade_all(course)
    assert (scores(course, "ann"), scores(course, "ben")) == (ZERO, FULL)
    graded = course / "autograded" / "ann" / LAB_ID
    assert (graded / "data" / "points.txt").read_text() == (graded / "table").read_text() == "the course's"


def test_what_nobody_thought_of_costs_one_submission_alone(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for student in ("ann", "ben"):
        submit(course, student)
    restored = Lab.collect

    def collect(lab: Lab, student: str) -> Collected:
        if student == "ann":
            raise RecursionError("a notebook like no other")
        return restored(lab, student)

    monkeypatch.setattr(Lab, "collect", collect)
    grade_all(course)
    assert scores(course, "ben") == FULL
    with Queue(course) as queue:
        [job] = queue.not_gradable()
    assert (job.student, job.message) == ("ann", "RecursionError: a notebook like no other")


def test_a_full_disk_stops_the_batch_and_blames_nobody(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submit(course, "ann")

    def collect(_lab: Lab, _student: str) -> Collected:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Lab, "collect", collect)
    with pytest.raises(OSError, match="No space left"):
        grade_all(course)
    with Queue(course) as queue:
        [job] = queue.jobs()
    assert (job.state, job.faults) == (State.QUEUED, 0)


@pytest.mark.parametrize("content", [b"{not a notebook", b"[]", b"\xff" * 100])
def test_an_unreadable_notebook_is_graded_as_an_empty_one(course: Path, content: bytes) -> None:
    submit(course, "ann")
    (course / "submitted" / "ann" / LAB_ID / f"{LAB_ID}.ipynb").write_bytes(content)
    grade_all(course)
    assert scores(course, "ann") == ZERO
    assert "could not be read" in autograded(course, "ann").cells[-1].source


# Faults of the machine


def test_a_fault_of_the_machine_is_retried_and_is_not_zero_points(course: Path) -> None:
    submit(course, "ann")
    calls = []

    def grader(work: Work) -> Result:
        calls.append(work.lab)
        return broken(work)

    grade_all(course, grader=grader)
    assert len(calls) == MAX_FAULTS
    assert scores(course, "ann") == NONE
    with gradebook(course) as book:
        assert all(
            grade.needs_manual_grade for grade in book.find_submission(LAB_ID, "ann").notebooks[0].grades
        )
    with Queue(course) as queue:
        [job] = queue.jobs()
    assert (job.state, job.message) == (State.FAILED, "The grader failed: RuntimeError: no sandbox")
    grade_all(course)  # once the machine is well
    assert scores(course, "ann") == FULL


def test_a_fault_that_passes_costs_nothing(course: Path) -> None:
    submit(course, "ann")
    calls = []

    def grader(work: Work) -> Result:
        calls.append(work.lab)
        return word_grader(work) if len(calls) == 2 else broken(work)

    grade_all(course, grader=grader)
    assert scores(course, "ann") == FULL


def test_a_regrade_on_a_broken_machine_keeps_the_marks_that_are_there(course: Path) -> None:
    submit(course, "ann")
    grade_all(course)
    before = autograded(course, "ann")
    grade_all(course, grader=broken, again=True)
    assert scores(course, "ann") == FULL
    assert autograded(course, "ann") == before


def test_a_test_that_cannot_be_run_needs_a_person_and_the_others_count(course: Path) -> None:
    submit(course, "ann")

    def grader(work: Work) -> Result:
        result = word_grader(work)
        cells = tuple(
            Graded(cell.grade_id, Verdict.NOT_GRADABLE, 0.0, cell.max_points, "the test is broken")
            if cell.grade_id == "hidden_double"
            else cell
            for cell in result.cells
        )
        return Result(result.lab, Verdict.NOT_GRADABLE, "", cells, result.shown, {})

    grade_all(course, grader=grader)
    assert scores(course, "ann") == {**FULL, "hidden_double": None}


def test_a_gradebook_that_cannot_be_written_loses_no_result(
    course: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(course, "ann")

    def locked(_marks: Marks, _jobs: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(Marks, "apply", locked)
        with pytest.raises(sqlite3.OperationalError):
            grade_all(course)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grade-")]
    assert grade_all(course, grader=broken) == []  # nothing is graded again
    assert scores(course, "ann") == FULL


@pytest.mark.parametrize("points", [float("nan"), 4.0, -1.0])
def test_an_answer_of_the_grader_that_is_none_gives_no_points(course: Path, points: float) -> None:
    submit(course, "ann")

    def grader(work: Work) -> Result:
        result = word_grader(work)
        cells = tuple(Graded(c.grade_id, c.verdict, points, c.max_points) for c in result.cells[:2])
        return Result(result.lab, result.verdict, "", (*cells, *result.cells[2:]), result.shown, {})

    grade_all(course, grader=grader)
    assert scores(course, "ann") == {**NONE}


def test_where_nothing_can_be_graded_nothing_counts_as_tried(course: Path) -> None:
    submit(course, "ann")

    def grader(work: Work) -> Result:
        raise GraderUnavailable("the grading service does not answer")

    with pytest.raises(GraderUnavailable):
        grade_all(course, grader=grader)
    with Queue(course) as queue:
        [job] = queue.jobs()
    assert (job.state, job.faults) == (State.QUEUED, 0)


# The queue


def test_what_is_graded_is_not_graded_again_until_it_changes(course: Path) -> None:
    submit(course, "ann")
    assert len(grade_all(course)) == 1
    assert grade_all(course) == []
    (course / "submitted" / "ann" / LAB_ID / "timestamp.txt").write_text("2026-11-21 12:00:00 UTC")
    assert len(grade_all(course)) == 1
    with gradebook(course) as book:
        assert book.find_submission(LAB_ID, "ann").timestamp == datetime(2026, 11, 21, 12)


def test_a_newer_submission_replaces_one_that_waits(course: Path) -> None:
    submit(course, "ann")
    with Queue(course) as queue:
        work = batch(course, queue)
        [first] = work.ask(LAB_ID, ["ann"], by="t", reason="")
        assert work.ask(LAB_ID, ["ann"], by="t", reason="") == [first]
        (course / "submitted" / "ann" / LAB_ID / "more.txt").write_text("more")
        [second] = work.ask(LAB_ID, ["ann"], by="t", reason="")
        assert {job.key: job.state for job in queue.jobs()} == {first: State.CANCELLED, second: State.QUEUED}


def test_a_submission_that_changed_while_it_waited_is_graded_as_it_is_now(course: Path) -> None:
    submit(course, "ann", lambda s: s.answer("triple", "def triple(x):\n    pass"))
    with Queue(course) as queue:
        work = batch(course, queue)
        work.ask(LAB_ID, ["ann"], by="t", reason="")
        shutil.rmtree(course / "submitted" / "ann")
        submit(course, "ann")
        work.run()
        assert [job.state for job in queue.jobs()] == [State.CANCELLED, State.DONE]
    assert scores(course, "ann") == FULL


def test_cancelling_drops_what_waits_and_what_runs(course: Path) -> None:
    for student in ("ann", "ben"):
        submit(course, student)
    with Queue(course) as queue:

        def grader(work: Work) -> Result:
            assert queue.cancel(LAB_ID) == 2
            return word_grader(work)

        work = batch(course, queue, grader=grader, workers=1)
        work.ask(LAB_ID, ["ann", "ben"], by="t", reason="")
        work.run()
        assert {job.state for job in queue.jobs()} == {State.CANCELLED}
    assert not (course / "autograded").exists()
    assert not list((course / "grading" / "stage").glob("*"))


def test_draining_finishes_what_runs_and_takes_no_more_until_resumed(course: Path) -> None:
    for student in ("ann", "ben"):
        submit(course, student)
    with Queue(course) as queue:

        def grader(work: Work) -> Result:
            queue.draining = True
            return word_grader(work)

        work = batch(course, queue, grader=grader, workers=1)
        work.ask(LAB_ID, ["ann", "ben"], by="t", reason="")
        work.run()
        assert [job.state for job in queue.jobs()] == [State.DONE, State.QUEUED]
        queue.draining = False
        batch(course, queue, assignment=None).run()
        assert {job.state for job in queue.jobs()} == {State.DONE}


def test_a_timed_submission_is_graded_alone(course: Path) -> None:
    for student in ("ann", "ben", "cat", "dan"):
        submit(course, student)
    source = course / "source" / LAB_ID / f"{LAB_ID}.ipynb"
    raw = json.loads(source.read_text())
    raw["metadata"].setdefault("distlab", {})["timed"] = True
    source.write_text(json.dumps(raw))
    running, most = threading.Semaphore(1), []

    def grader(work: Work) -> Result:
        assert work.timed
        most.append(running.acquire(blocking=False))
        result = word_grader(work)
        running.release()
        return result

    grade_all(course, grader=grader, workers=4)
    assert most == [True] * 4


def test_two_coordinators_share_a_queue(course: Path) -> None:
    students = [f"s{number}" for number in range(8)]
    for student in students:
        submit(course, student)
    graded: list[str] = []
    meet = threading.Barrier(2)

    def grader(work: Work) -> Result:
        graded.append(work.lab)
        if len(graded) <= 2:
            meet.wait(30)
        return word_grader(work)

    with Queue(course) as one, Queue(course) as two:
        batches = [batch(course, queue, grader=grader, workers=1) for queue in (one, two)]
        batches[0].ask(LAB_ID, students, by="t", reason="")
        threads = [threading.Thread(target=each.run) for each in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(graded) == 8
    assert all(scores(course, student) == FULL for student in students)


def test_an_assignment_that_is_not_released_is_named(course: Path) -> None:
    with Queue(course) as queue, pytest.raises(SettingError, match="'mod-9-lab-9' is not released"):
        batch(course, queue).ask("mod-9-lab-9", ["ann"], by="t", reason="")


def test_no_submission_costs_more_for_those_that_are_there_already(course: Path) -> None:
    """No statement of grading reads a table from end to end."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        asked.append((statement, parameters))

    for student in ("ann", "ben"):
        submit(course, student)
    with Queue(course) as queue:
        work = batch(course, queue)
        work.ask(LAB_ID, ["ann", "ben"], by="t", reason="")
        of_queue: list[str] = []
        queue._db.set_trace_callback(of_queue.append)
        event.listen(Engine, "before_cursor_execute", note)
        try:
            work.run()
        finally:
            event.remove(Engine, "before_cursor_execute", note)
            queue._db.set_trace_callback(None)
    writing = next(
        at for at, (statement, _) in enumerate(asked) if "INTO distlab_applied VALUES" in statement
    )
    assert len(asked) - writing > 20
    assert len(of_queue) > 20
    for file, statements in (
        ("gradebook.db", asked[writing:]),
        ("grading.db", [(one, ()) for one in of_queue]),
    ):
        with closing(sqlite3.connect(course / file)) as db:
            for statement, parameters in statements:
                if not statement.startswith(("SELECT", "UPDATE", "DELETE FROM distlab_applied")):
                    continue
                for *_, step in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
                    assert not step.startswith("SCAN") or "USING" in step or "CONSTANT" in step, (
                        step,
                        statement,
                    )
