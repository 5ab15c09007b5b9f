"""The durable queue of submissions to grade: `grading.db` in the course directory.

One row per assignment, student, digest of the submission and digest of the tests; a regrade of the same two
is a further round. A row is queued, leased by a coordinator, then done, failed ("not gradable now") or
cancelled. A result is stored in the transaction that ends its lease, so that a process killed at any moment
leaves each submission either still to be graded, or graded.

The journal is SQLite's write-ahead log: a lease or a result then costs no wait for the disk. Whatever kills
processes loses nothing; a power cut may take the last few results, and those submissions are graded again
(the gradebook itself is written with full syncs, and knows which jobs it has). The log needs all processes on
one machine, which holds for a course directory; the lock files below need that too.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from distlab.course.grade.owner import Owner, alive, boot_id, clock, give_like
from distlab.errors import WorkError

MAX_FAULTS = 3
"""How often a submission is tried when the machine fails, before it is left as not gradable now."""

LEASE_S = 3600.0
"""Seconds after which a lease that was not renewed is free although its coordinator lives: one that is stopped.

A coordinator renews its leases however long it waits for a result: a Job on another machine may take hours. Sandboxes
have limits of their own, and a grading service that hangs is noticed by its silence (`graders.SILENCE_S`).
"""

RENEW_S = LEASE_S / 4
"""How often a coordinator renews its leases."""

BUSY_S = 60.0
"""Seconds that a process waits for another's transaction."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    assignment TEXT NOT NULL,
    student TEXT NOT NULL,
    submission TEXT NOT NULL,
    tests TEXT NOT NULL,
    round INTEGER NOT NULL,
    question TEXT NOT NULL,
    timed INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'leased', 'done', 'failed', 'cancelled')),
    attempts INTEGER NOT NULL DEFAULT 0,
    faults INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    boot TEXT,
    lease_until REAL,
    asked_by TEXT NOT NULL,
    reason TEXT NOT NULL,
    asked TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    message TEXT NOT NULL DEFAULT '',
    record TEXT,
    applied INTEGER NOT NULL DEFAULT 0,
    UNIQUE (assignment, student, submission, tests, round)
);
CREATE INDEX IF NOT EXISTS job_next ON job (state, timed, attempts, id);
CREATE INDEX IF NOT EXISTS job_of ON job (assignment, student, id);
CREATE INDEX IF NOT EXISTS job_to_apply ON job (id) WHERE applied = 0 AND state IN ('done', 'failed');
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class State(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Asked:
    """One submission that somebody wants graded: digests of what was submitted and of what tests it."""

    student: str
    submission: str
    tests: str
    timed: bool = False


@dataclass(frozen=True)
class Job:
    """A row of the queue. `attempts` counts leases and tells a late answer from the current one's.

    `question` is the one test whose mark is written, or empty for all. `record` is JSON (`records.Record`).
    """

    id: int
    key: str
    assignment: str
    student: str
    submission: str
    tests: str
    round: int
    question: str
    timed: bool
    state: State
    attempts: int
    faults: int
    asked_by: str
    reason: str
    asked: str
    finished: str | None
    message: str
    record: str | None
    applied: bool

    @classmethod
    def of(cls, row: sqlite3.Row) -> Job:
        values = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "state": State(row["state"]), "timed": bool(row["timed"])})


class Queue:
    """The queue of one course directory. Methods may be called from several threads and processes."""

    def __init__(self, course: Path) -> None:
        self.path = course / "grading.db"
        self.folder = course / "grading"
        for folder in (self.folder, self.folder / "owners", self.folder / "stage"):
            folder.mkdir(mode=0o700, exist_ok=True)
            give_like(course, folder)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        give_like(course, self.path)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            with self._transaction():
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise WorkError(
                f"{self.path} cannot be used as the grading queue ({error}); if it is damaged, move it away: "
                "marks are in gradebook.db, and what waited can be asked for again."
            ) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def owner(self) -> Owner:
        """A new coordinator's proof of life; those of processes that are gone are removed."""
        owner = Owner(self.folder / "owners")
        for lock in (self.folder / "owners").iterdir():
            if lock.name != owner.id:
                alive(lock)
        return owner

    # What is asked for

    def ask(
        self,
        assignment: str,
        asked: Iterable[Asked],
        *,
        by: str,
        reason: str,
        again: bool = False,
        question: str = "",
    ) -> list[str]:
        """Queue submissions, in one transaction; returns the keys of the jobs that are now to be done for it.

        What is graded already is left out unless `again`; what waits already is not queued twice, nor is a student
        who is named twice. Jobs for an older submission of the same student are cancelled. `question` counts for
        those whose submission has marks: of another one all questions are graded.
        """
        keys = []
        with self._transaction():
            latest: dict[str, sqlite3.Row] = {}
            rounds: dict[tuple[str, str, str], int] = {}
            waiting: dict[str, list[sqlite3.Row]] = {}
            for row in self._db.execute(
                "SELECT id, key, student, submission, tests, round, question, state FROM job"
                " WHERE assignment = ? ORDER BY id",
                (assignment,),
            ):
                rounds[row["student"], row["submission"], row["tests"]] = row["round"]
                if row["state"] != State.CANCELLED:
                    latest[row["student"]] = row
                if row["state"] in (State.QUEUED, State.LEASED):
                    waiting.setdefault(row["student"], []).append(row)
            for one in {one.student: one for one in asked}.values():
                same = False
                for row in waiting.get(one.student, ()):
                    if (row["submission"], row["tests"]) != (one.submission, one.tests):
                        self._cancel(row["id"], "replaced by a newer submission or newer tests")
                    elif row["question"] in ("", question):
                        keys.append(row["key"])
                        same = True
                if same:
                    continue
                last = latest.get(one.student)
                unchanged = last and (last["submission"], last["tests"]) == (one.submission, one.tests)
                if unchanged and last and last["state"] == State.DONE and not again:
                    continue
                marked = last and last["submission"] == one.submission and last["state"] == State.DONE
                keys.append(self._insert(assignment, one, rounds, question if marked else "", by, reason))
        return keys

    def _insert(
        self,
        assignment: str,
        one: Asked,
        rounds: dict[tuple[str, str, str], int],
        question: str,
        by: str,
        reason: str,
    ) -> str:
        key = uuid.uuid4().hex
        number = rounds.get((one.student, one.submission, one.tests), 0) + 1
        self._db.execute(
            "INSERT INTO job (key, assignment, student, submission, tests, round, question, timed, state,"
            " asked_by, reason, asked) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?)",
            (
                key, assignment, one.student, one.submission, one.tests, number, question, int(one.timed),
                by, reason, now(),
            ),
        )  # fmt: skip
        return key

    def cancel(self, assignment: str | None = None, students: Iterable[str] = ()) -> int:
        """Cancel what waits or runs; the result of what runs is dropped. Returns how many jobs that were."""
        names = set(students)
        with self._transaction():
            rows = self._db.execute(
                "SELECT id, student FROM job WHERE state IN ('queued', 'leased')"
                " AND (? IS NULL OR assignment = ?)",
                (assignment, assignment),
            ).fetchall()
            chosen = [row["id"] for row in rows if not names or row["student"] in names]
            for job in chosen:
                self._cancel(job, "cancelled")
        return len(chosen)

    def _cancel(self, job: int, why: str) -> None:
        self._db.execute(
            "UPDATE job SET state = 'cancelled', owner = NULL, message = ?, finished = ? WHERE id = ?",
            (why, now(), job),
        )

    @property
    def draining(self) -> bool:
        """Is no more work to be taken?"""
        with self._lock:
            row = self._db.execute("SELECT value FROM setting WHERE name = 'draining'").fetchone()
        return row is not None

    @draining.setter
    def draining(self, value: bool) -> None:
        with self._transaction():
            if value:
                self._db.execute("INSERT OR REPLACE INTO setting VALUES ('draining', ?)", (now(),))
            else:
                self._db.execute("DELETE FROM setting WHERE name = 'draining'")

    # What coordinators do

    def lease(self, owner: Owner, assignment: str | None = None) -> Job | None:
        """Take the next job, or None where none can be had now: see `left`.

        Those that were taken least often come first, so that one on which processes die holds up no other.
        A timed job runs alone: it waits for all others, and all others for it.
        """
        with self._transaction():
            self._renew(owner)
            if self._db.execute("SELECT 1 FROM setting WHERE name = 'draining'").fetchone():
                return None
            leased = self._db.execute("SELECT max(timed) FROM job WHERE state = 'leased'").fetchone()[0]
            if leased == 1:
                return None
            row = self._db.execute(
                "SELECT * FROM job WHERE state = 'queued' AND (? IS NULL OR assignment = ?)"
                " ORDER BY timed, attempts, id LIMIT 1",
                (assignment, assignment),
            ).fetchone()
            if row is None or (row["timed"] and leased is not None):
                return None
            self._db.execute(
                "UPDATE job SET state = 'leased', attempts = attempts + 1, owner = ?, boot = ?,"
                " lease_until = ?, started = ? WHERE id = ?",
                (owner.id, boot_id(), clock() + LEASE_S, now(), row["id"]),
            )
            taken = self._db.execute("SELECT * FROM job WHERE id = ?", (row["id"],)).fetchone()
        return Job.of(taken)

    def renew(self, owner: Owner) -> None:
        """Put off the end of the owner's leases, and free those of processes that are gone (`lease` does it too)."""
        with self._transaction():
            self._renew(owner)

    def _renew(self, owner: Owner) -> None:
        """Renew the owner's; queue again what was leased by a process that is gone, or did not renew it in time."""
        self._db.execute(
            "UPDATE job SET lease_until = ? WHERE state = 'leased' AND owner = ?",
            (clock() + LEASE_S, owner.id),
        )
        lives = {owner.id: True}
        for row in self._db.execute("SELECT id, owner, boot, lease_until FROM job WHERE state = 'leased'"):
            holder = row["owner"]
            if holder not in lives:
                lives[holder] = alive(self.folder / "owners" / holder)
            # The clock counts from the start of the machine: a lease of before is its dead owner's.
            expired = row["boot"] == boot_id() and row["lease_until"] < clock()
            if expired or not lives[holder]:
                self._db.execute("UPDATE job SET state = 'queued', owner = NULL WHERE id = ?", (row["id"],))

    def left(self, assignment: str | None = None) -> int:
        """How many jobs are queued or leased."""
        with self._lock:
            row = self._db.execute(
                "SELECT count(*) FROM job WHERE state IN ('queued', 'leased')"
                " AND (? IS NULL OR assignment = ?)",
                (assignment, assignment),
            ).fetchone()
        return int(row[0])

    def finish(self, job: Job, owner: Owner, record: str | None, *, fault: str = "") -> bool:
        """Store the result and end the lease, in one transaction; False if the lease was not the caller's any more.

        With `fault` (the machine's, in a sentence) the job is queued again; from the third on it is failed.
        """
        failed = job.faults + 1 >= MAX_FAULTS
        state = State.DONE if not fault else State.FAILED if failed else State.QUEUED
        keep = state != State.QUEUED
        return self._end(
            job,
            owner,
            "state = ?, faults = faults + ?, message = ?, record = ?, finished = ?",
            (state, int(bool(fault)), fault, record if keep else None, now() if keep else None),
        )

    def release(self, job: Job, owner: Owner) -> bool:
        """Give a leased job back as it was: nothing was tried."""
        return self._end(job, owner, "state = 'queued'", ())

    def drop(self, job: Job, owner: Owner, why: str) -> bool:
        """Cancel a leased job."""
        return self._end(job, owner, "state = 'cancelled', message = ?, finished = ?", (why, now()))

    def _end(self, job: Job, owner: Owner, changes: str, values: tuple[Any, ...]) -> bool:
        with self._transaction():
            ended = self._db.execute(
                f"UPDATE job SET {changes}, owner = NULL"
                " WHERE id = ? AND state = 'leased' AND owner = ? AND attempts = ?",
                (*values, job.id, owner.id, job.attempts),
            )
            return ended.rowcount == 1

    # What came of it

    def to_apply(self, limit: int) -> list[Job]:
        """Results that the gradebook may not have yet, in the order in which they were asked for."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM job WHERE applied = 0 AND state IN ('done', 'failed') ORDER BY id LIMIT ?",
                (limit,),
            ).fetchall()
        return [Job.of(row) for row in rows]

    def set_applied(self, jobs: Iterable[Job]) -> None:
        """The gradebook has these results."""
        with self._transaction():
            self._db.executemany("UPDATE job SET applied = 1 WHERE id = ?", [(job.id,) for job in jobs])

    def jobs(self, assignment: str | None = None, students: Iterable[str] = ()) -> list[Job]:
        """All jobs, the oldest first."""
        names = set(students)
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM job WHERE (? IS NULL OR assignment = ?) ORDER BY id", (assignment, assignment)
            ).fetchall()
        return [Job.of(row) for row in rows if not names or row["student"] in names]

    def find(self, key: str) -> Job | None:
        """The job of this key."""
        with self._lock:
            row = self._db.execute("SELECT * FROM job WHERE key = ?", (key,)).fetchone()
        return Job.of(row) if row else None

    def not_gradable(self) -> list[Job]:
        """Of each student and assignment the last job, where it failed."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM job WHERE state = 'failed'"
                " AND id IN (SELECT max(id) FROM job GROUP BY assignment, student) ORDER BY id"
            ).fetchall()
        return [Job.of(row) for row in rows]

    def counts(self) -> dict[str, dict[State, int]]:
        """How many jobs are in each state, by assignment."""
        counts: dict[str, dict[State, int]] = {}
        with self._lock:
            rows = self._db.execute("SELECT assignment, state, count(*) FROM job GROUP BY 1, 2").fetchall()
        for assignment, state, number in rows:
            counts.setdefault(assignment, {})[State(state)] = number
        return counts

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """Be the only one that writes results to the gradebook; ends with the process at the latest."""
        path = self.folder / "writer.lock"
        with open(path, "w") as lock:
            give_like(self.folder, path)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def now() -> str:
    """The time of day, UTC, for people."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
