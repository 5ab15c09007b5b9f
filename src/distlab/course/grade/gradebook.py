"""Write results into nbgrader's gradebook, each exactly once, and keep a log of every change of a mark.

Two tables of ours lie beside nbgrader's in `gradebook.db`, so that they change in the same transaction as the
marks: `distlab_applied` holds the jobs whose result is in, `distlab_mark_change` who changed which mark. The
log is written by triggers: a mark that formgrader or a script of nbgrader changes is in it too. Whoever may write
the gradebook may write the log: it helps to find out, and proves nothing against an instructor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbgrader.api import (  # type: ignore[import-untyped]
    Assignment,
    Comment,
    Grade,
    GradeCell,
    Notebook,
    SolutionCell,
    Student,
    SubmittedAssignment,
    SubmittedNotebook,
    TaskCell,
    new_uuid,
)
from nbgrader.utils import parse_utc  # type: ignore[import-untyped]
from sqlalchemy import Connection, create_engine, event, insert, inspect, select, text, update
from sqlalchemy.orm import Session

from distlab.course.grade.queue import BUSY_S, Job, State, now
from distlab.course.grade.records import Record
from distlab.errors import SettingError

LatePenalty = Callable[[str, float, float], float | None]
"""Student, score and seconds late to the points taken off, or None (nbgrader's LateSubmissionPlugin)."""

MARKS = ("auto_score", "manual_score", "extra_credit")
"""The columns of nbgrader's `grade` that are marks."""

TABLES = """
CREATE TABLE IF NOT EXISTS distlab_applied (
    job TEXT PRIMARY KEY, assignment TEXT NOT NULL, student TEXT NOT NULL, submission TEXT NOT NULL,
    state TEXT NOT NULL, at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS distlab_applied_of ON distlab_applied (assignment, student);
CREATE TABLE IF NOT EXISTS distlab_writer (actor TEXT NOT NULL, reason TEXT NOT NULL, job TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS distlab_mark_change (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, actor TEXT NOT NULL, reason TEXT NOT NULL, job TEXT NOT NULL,
    assignment TEXT NOT NULL, student TEXT NOT NULL, grade_id TEXT NOT NULL, mark TEXT NOT NULL,
    before REAL, after REAL
);
CREATE INDEX IF NOT EXISTS distlab_mark_change_of ON distlab_mark_change (assignment, student);
CREATE INDEX IF NOT EXISTS distlab_grade_of ON grade (notebook_id);
CREATE INDEX IF NOT EXISTS distlab_comment_of ON comment (notebook_id);
CREATE INDEX IF NOT EXISTS distlab_submitted_notebook_of ON submitted_notebook (assignment_id);
CREATE INDEX IF NOT EXISTS distlab_base_cell_of ON base_cell (notebook_id)
"""
"""What stands beside nbgrader's tables, and indexes that those lack: without them each submission is found by
reading the marks of all others, in formgrader too.

`distlab_writer` has a row only inside a transaction of `Marks`: it tells the triggers who writes, and why."""

TRIGGER = """
CREATE TRIGGER IF NOT EXISTS distlab_{mark}_{verb} AFTER {event} ON grade
WHEN {before} IS NOT {after}
BEGIN
    INSERT INTO distlab_mark_change
        (at, actor, reason, job, assignment, student, grade_id, mark, before, after)
    SELECT strftime('%Y-%m-%d %H:%M:%f', 'now'),
        coalesce((SELECT actor FROM distlab_writer), 'nbgrader'),
        coalesce((SELECT reason FROM distlab_writer), ''),
        coalesce((SELECT job FROM distlab_writer), ''),
        assignment.name, submitted_assignment.student_id, base_cell.name, '{mark}', {before}, {after}
    FROM submitted_notebook
    JOIN submitted_assignment ON submitted_assignment.id = submitted_notebook.assignment_id
    JOIN assignment ON assignment.id = submitted_assignment.assignment_id
    JOIN base_cell ON base_cell.id = {row}.cell_id
    WHERE submitted_notebook.id = {row}.notebook_id;
END
"""


@dataclass(frozen=True)
class Change:
    """One change of a mark: `before` or `after` is None where there was or is none. `at` is UTC.

    `job` is the grading that wrote it, or empty.
    """

    at: str
    actor: str
    reason: str
    assignment: str
    student: str
    grade_id: str
    mark: str
    before: float | None
    after: float | None
    job: str

    @property
    def is_first(self) -> bool:
        """Is this no change, but the first result of a test?"""
        return self.mark == "auto_score" and self.before is None and bool(self.job)

    @property
    def why(self) -> str:
        """The reason; who gives a mark by hand is asked for none."""
        return self.reason or ("given by hand" if self.mark != "auto_score" else "")


@dataclass(frozen=True)
class _Ids:
    """nbgrader's ids of an assignment that has one notebook, named like it."""

    assignment: str
    notebook: str
    duedate: Any
    grades: dict[str, str]
    """Of cells with points, tasks among them: name to id."""
    comments: dict[str, str]


class Marks:
    """nbgrader's gradebook of a course directory, open for writing results."""

    def __init__(self, course: Path, late_penalty: LatePenalty | None = None) -> None:
        path = course / "gradebook.db"
        if not path.is_file():
            raise SettingError(f"{path} does not exist: `distlab course up` releases the labs and makes it.")
        self._late_penalty = late_penalty
        self._engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_S})
        event.listen(self._engine, "connect", _no_implicit_begin)
        event.listen(self._engine, "begin", _begin_immediate)
        self._known: dict[str, _Ids] = {}
        with self._engine.begin() as db:
            _prepare(db)

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Marks:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def apply(self, jobs: Sequence[Job]) -> None:
        """Write the results of `jobs`, in one transaction; those that are in already change nothing.

        A job that left no result is not in: the marks stay what they were, an earlier submission's are flagged.
        Marks given by hand stay. Who has to look at a cell again is as in nbgrader, but where neither the
        submission nor the automatic score changed, a mark given by hand needs no second look.
        """
        with self._engine.begin() as db:
            for job in jobs:
                if job.record is None:
                    self._flag_earlier(db, job)
                    continue
                first = db.execute(
                    text("INSERT OR IGNORE INTO distlab_applied VALUES (:job, :a, :s, :sub, :state, :at)"),
                    {
                        "job": job.key, "a": job.assignment, "s": job.student,
                        "sub": job.submission, "state": job.state, "at": now(),
                    },
                )  # fmt: skip
                if first.rowcount == 1:
                    with _writing_as(db, job.asked_by, job.reason, job.key):
                        self._write(db, job, Record.from_json(job.record))

    def keep(self, job: Job) -> bool:
        """Are the marks that this very submission has better than those of a job that failed?"""
        if job.state != State.FAILED:
            return False
        with self._engine.begin() as db:
            return _last_submission(db, job) == job.submission

    def changes(self, assignment: str | None = None, student: str | None = None) -> list[Change]:
        """The log, the oldest change first."""
        columns = ", ".join(Change.__dataclass_fields__)
        with self._engine.begin() as db:
            rows = db.execute(
                text(
                    f"SELECT {columns} FROM distlab_mark_change WHERE (:a IS NULL OR assignment = :a)"
                    " AND (:s IS NULL OR student = :s) ORDER BY id"
                ),
                {"a": assignment, "s": student},
            )
            return [Change(*row) for row in rows]

    def _write(self, db: Connection, job: Job, record: Record) -> None:
        ids = self._ids(db, job.assignment)
        if ids is None:
            return  # removed since: its marks have no place any more
        new_submission = _last_submission(db, job) != job.submission
        if job.state == State.FAILED and not new_submission:
            return
        submitted, notebook = self._submission(db, ids, job.student, record)
        rows = db.execute(
            select(Grade.id, Grade.cell_id, Grade.auto_score, Grade.manual_score, Grade.needs_manual_grade)
            .where(Grade.notebook_id == notebook)
        ).all()  # fmt: skip
        by_cell = {row.cell_id: row for row in rows}
        for name, score in record.auto.items():
            if job.question and name != job.question:
                continue
            row = by_cell.get(ids.grades.get(name))
            if row is None:
                continue
            look = score is None or row.manual_score is not None
            if row.manual_score is not None and not new_submission and row.auto_score == score:
                look = row.needs_manual_grade
            if (row.auto_score, row.needs_manual_grade) != (score, look):
                db.execute(
                    update(Grade.__table__)
                    .where(Grade.__table__.c.id == row.id)
                    .values(auto_score=score, needs_manual_grade=look)
                )
        if not job.question:
            self._write_comments(db, ids, notebook, record)
        self._write_penalty(db, ids, submitted, notebook, job.student)

    def _flag_earlier(self, db: Connection, job: Job) -> None:
        """Have a person look at the student's marks, where they are of another submission than the job's."""
        ids = self._ids(db, job.assignment)
        if ids is None or _last_submission(db, job) == job.submission:
            return
        notebook = (
            select(SubmittedNotebook.id)
            .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
            .where(SubmittedAssignment.assignment_id == ids.assignment)
            .where(SubmittedAssignment.student_id == job.student)
        )
        grades = Grade.__table__
        db.execute(update(grades).where(grades.c.notebook_id.in_(notebook)).values(needs_manual_grade=True))

    def _write_comments(self, db: Connection, ids: _Ids, notebook: str, record: Record) -> None:
        table = Comment.__table__
        old = db.execute(
            select(table.c.cell_id, table.c.id, table.c.auto_comment).where(table.c.notebook_id == notebook)
        )
        by_cell = {row.cell_id: row for row in old}
        for name, comment in record.comments.items():
            row = by_cell.get(ids.comments.get(name))
            if row is not None and row.auto_comment != comment:
                db.execute(update(table).where(table.c.id == row.id).values(auto_comment=comment))

    def _write_penalty(self, db: Connection, ids: _Ids, submitted: Any, notebook: str, student: str) -> None:
        """As nbgrader's AssignLatePenalties: none, or between nothing and the score."""
        duedate = ids.duedate
        if duedate is not None and submitted.extension is not None:
            duedate += submitted.extension
        late_s = 0.0
        if duedate is not None and submitted.timestamp is not None:
            late_s = max(0.0, (submitted.timestamp - duedate).total_seconds())
        penalty = None
        if late_s > 0 and self._late_penalty is not None:
            score = db.execute(
                select(SubmittedNotebook.score).where(SubmittedNotebook.id == notebook)
            ).scalar_one()
            penalty = self._late_penalty(student, score, late_s)
            penalty = None if penalty is None else min(max(0.0, penalty), score)
        table = SubmittedNotebook.__table__
        db.execute(update(table).where(table.c.id == notebook).values(late_submission_penalty=penalty))

    def _submission(self, db: Connection, ids: _Ids, student: str, record: Record) -> tuple[Any, str]:
        """The student's rows for this assignment, made where they are missing; its timestamp brought up to date."""
        table, notebooks = SubmittedAssignment.__table__, SubmittedNotebook.__table__
        wanted = select(table.c.id, table.c.timestamp, table.c.extension).where(
            table.c.assignment_id == ids.assignment, table.c.student_id == student
        )
        row = db.execute(wanted).one_or_none()
        timestamp = _timestamp(record.timestamp)
        if row is None:
            if db.execute(select(Student.id).where(Student.id == student)).first() is None:
                db.execute(insert(Student.__table__).values(id=student))
            number = new_uuid()
            db.execute(
                insert(table).values(
                    id=number, assignment_id=ids.assignment, student_id=student, timestamp=timestamp
                )
            )
            db.execute(
                insert(notebooks).values(
                    id=new_uuid(), assignment_id=number, notebook_id=ids.notebook, flagged=False
                )
            )
            row = db.execute(wanted).one()
        elif timestamp is not None and row.timestamp != timestamp:
            db.execute(update(table).where(table.c.id == row.id).values(timestamp=timestamp))
            row = db.execute(wanted).one()
        notebook: str = db.execute(
            select(notebooks.c.id).where(
                notebooks.c.assignment_id == row.id, notebooks.c.notebook_id == ids.notebook
            )
        ).scalar_one()
        # Cells that a later release added are missing in an older submission.
        for model, cells, more in (
            (Grade, ids.grades, {"needs_manual_grade": True}),
            (Comment, ids.comments, {}),
        ):
            rows = model.__table__
            there = set(db.execute(select(rows.c.cell_id).where(rows.c.notebook_id == notebook)).scalars())
            missing = [cell for cell in cells.values() if cell not in there]
            if missing:
                db.execute(
                    insert(rows),
                    [
                        {"id": new_uuid(), "cell_id": cell, "notebook_id": notebook, **more}
                        for cell in missing
                    ],
                )
        return row, notebook

    def _ids(self, db: Connection, assignment: str) -> _Ids | None:
        if assignment not in self._known:
            row = db.execute(
                select(Assignment.id, Assignment.duedate, Notebook.id)
                .join(Notebook, Notebook.assignment_id == Assignment.id)
                .where(Assignment.name == assignment, Notebook.name == assignment)
            ).one_or_none()
            if row is None:
                return None

            def cells(*models: Any) -> dict[str, str]:
                wanted = [select(model.name, model.id).where(model.notebook_id == row[2]) for model in models]
                return {name: number for one in wanted for name, number in db.execute(one)}

            self._known[assignment] = _Ids(
                row[0], row[2], row[1], cells(GradeCell, TaskCell), cells(SolutionCell, TaskCell)
            )
        return self._known[assignment]


def _last_submission(db: Connection, job: Job) -> str | None:
    """The digest of the submission whose marks the gradebook has, before this job."""
    row = db.execute(
        text(
            "SELECT submission FROM distlab_applied WHERE assignment = :a AND student = :s AND job != :job"
            " ORDER BY rowid DESC LIMIT 1"
        ),
        {"a": job.assignment, "s": job.student, "job": job.key},
    ).first()
    return row[0] if row else None


def _timestamp(value: str) -> Any:
    try:
        return parse_utc(value) if value else None
    except (ValueError, OverflowError):
        return None  # text from outside: a submission is graded all the same


def sign_changes(actor: str) -> None:
    """Name `actor` in the log for what nbgrader's own code changes in this process from now on (formgrader).

    Listens on the sessions of nbgrader's Gradebook: a process that has others must not call this.
    """

    def begin(session: Any, *_arguments: Any) -> None:
        connection = session.connection()
        if session.info.get("signed") or not _has_log(connection):
            return
        session.info["signed"] = True
        connection.execute(text("INSERT INTO distlab_writer VALUES (:actor, '', '')"), {"actor": actor})

    def end(session: Any) -> None:
        session.flush()  # else the commit would do it, after the name is gone
        if session.info.pop("signed", False):
            session.connection().execute(text("DELETE FROM distlab_writer"))

    event.listen(Session, "before_flush", begin)
    event.listen(Session, "before_commit", end)
    event.listen(Session, "after_rollback", lambda session: session.info.pop("signed", None))


def _has_log(connection: Connection) -> bool:
    """A gradebook that nothing was graded in has none."""
    return inspect(connection).has_table("distlab_writer")


@contextmanager
def _writing_as(db: Connection, actor: str, reason: str, job: str) -> Iterator[None]:
    db.execute(
        text("INSERT INTO distlab_writer VALUES (:actor, :reason, :job)"),
        {"actor": actor, "reason": reason, "job": job},
    )
    yield
    db.execute(text("DELETE FROM distlab_writer"))


def _prepare(db: Connection) -> None:
    for statement in TABLES.split(";\n"):
        db.execute(text(statement))
    for mark in MARKS:
        for verb, happens, before, after, row in (
            ("insert", "INSERT", "NULL", f"NEW.{mark}", "NEW"),
            ("update", f"UPDATE OF {mark}", f"OLD.{mark}", f"NEW.{mark}", "NEW"),
            ("delete", "DELETE", f"OLD.{mark}", "NULL", "OLD"),
        ):
            trigger = TRIGGER.format(mark=mark, verb=verb, event=happens, before=before, after=after, row=row)
            db.connection.cursor().execute(trigger)  # text() would take the time format's colons for names


def _no_implicit_begin(connection: Any, _record: Any) -> None:
    connection.isolation_level = None


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at once: a transaction that read first could not get it any more."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
