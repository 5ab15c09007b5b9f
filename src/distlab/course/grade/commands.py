"""The instructors' commands about grading.

distlab course grade mod-107-lab-3 [--student ann ben] [--workers 2] [--json]
distlab course regrade mod-107-lab-3 [--student ann] [--question hidden-sum] --why "the test was wrong"
distlab course grading status | cancel [mod-107-lab-3] | drain | resume
distlab course grades [--assignment mod-107-lab-3] [--output grades.csv]
distlab course mark-changes [--assignment mod-107-lab-3] [--student ann]
distlab course similar mod-107-lab-3

They work in an instructor's server and, for an operator, outside of it; a batch that was killed goes on with
`distlab course grading resume`.
"""

from __future__ import annotations

import gc
import getpass
import json as jsonlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from distlab.course.grade.queue import Job, Queue, State
from distlab.course.site import COURSE_ENV, INSIDE_COURSE, Site
from distlab.errors import SettingError, printable

if TYPE_CHECKING:
    from distlab.course.grade.batch import Batch, Progress

PIPED_COLUMNS = 200
"""How wide a table is where no terminal says how wide it may be."""

STOPS = (signal.SIGINT, signal.SIGTERM)


def grade(
    assignment: Positional[str],
    student: tuple[str, ...] = (),
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Grade what was collected and is not graded yet.

    Args:
        assignment: the lab's id.
        student: only these; else all who submitted.
        workers: submissions at a time; else one for each processor.
        json: print results as JSON.
    """
    return _grade(assignment, student, workers, json, why="graded", again=False, question="")


def regrade(
    assignment: Positional[str],
    why: str,
    student: tuple[str, ...] = (),
    question: str = "",
    workers: int | None = None,
    json: bool = False,
) -> int:
    """Grade again, and list what differs. Marks given by hand stay.

    Args:
        assignment: the lab's id.
        why: the reason, for the log of changed marks.
        student: only these; else all who submitted.
        question: change the mark of this test alone.
        workers: submissions at a time; else one for each processor.
        json: print differences as JSON.
    """
    if not why.strip():
        raise SettingError(
            "--why is empty; say in a few words why marks may change, such as 'the test was wrong'."
        )
    return _grade(assignment, student, workers, json, why=why, again=True, question=question)


def _grade(
    assignment: str,
    students: Sequence[str],
    workers: int | None,
    json: bool,
    *,
    why: str,
    again: bool,
    question: str,
) -> int:
    with _open(workers) as (queue, make_batch):
        from distlab.course.grade.records import differences
        from distlab.course.grade.uncollected import uncollected

        batch = make_batch(assignment)
        lab = batch.lab(assignment)
        _check_known("--student", students, lab.students(), f"was collected for {assignment}")
        tests = [cell.metadata.nbgrader.grade_id for cell in lab.cells if cell.metadata.nbgrader.grade]
        _check_known("--question", [question] if question else [], tests, f"is a test of {assignment}")
        keys = batch.ask(
            assignment, students or lab.students(), by=actor(), reason=why, again=again, question=question
        )
        _run(batch, json)
        jobs = queue.jobs(assignment)
        chosen = [job for job in jobs if job.key in set(keys)]
        if again:
            found = [difference.to_json() for difference in differences(jobs, keys)]
            _print_differences(found, json)
        else:
            graded = "Everything that was collected is graded."
            _print_results(chosen, json, graded if lab.students() else "Nothing was collected yet.")
            waiting = uncollected(batch.course, assignment)
            _say_uncollected(assignment, [name for name in waiting if name in students or not students])
    return 0 if all(job.state == State.DONE for job in chosen) else 1


def _say_uncollected(assignment: str, students: Sequence[str]) -> None:
    if students:
        count = f"{len(students)} submission{'s' * (len(students) != 1)}"
        print(
            f"Not collected and not graded: {count} ({', '.join(students)}). "
            f"`nbgrader collect {assignment} --update` brings what lies at the exchange; then grade again.",
            file=sys.stderr,
        )


def status(json: bool = False) -> int:
    """Say what waits, runs and is done, and what could not be graded.

    Args:
        json: print it as JSON.
    """
    with Queue(course_directory()) as queue:
        counts = queue.counts()
        failed = queue.not_gradable()
        draining = queue.draining
    if json:
        raw = {"draining": draining, "assignments": counts, "failed": [_summary(job) for job in failed]}
        print(jsonlib.dumps(raw, indent=1))
        return 0
    if not counts:
        print("Nothing was graded yet.")
        return 0
    _table(
        ("Assignment", *map(str, State)),
        [
            (name, *(str(numbers.get(state, 0)) for state in State))
            for name, numbers in sorted(counts.items())
        ],
    )
    for job in failed:
        print(f"{job.assignment}, {job.student}: not gradable now: {printable(job.message)}")
    if draining:
        print("No work is taken: `distlab course grading resume` goes on.")
    return 0


def cancel(assignment: Positional[str | None] = None, student: tuple[str, ...] = ()) -> int:
    """Cancel what waits or runs; marks stay as they are.

    Args:
        assignment: only of this lab; else of all.
        student: only of these.
    """
    with Queue(course_directory()) as queue:
        print(f"{queue.cancel(assignment, student)} cancelled.")
    return 0


def drain() -> int:
    """Let what runs finish, and take no more until `distlab course grading resume`."""
    with Queue(course_directory()) as queue:
        queue.draining = True
        print(f"No more work is taken; {queue.left()} submissions wait or run.")
    return 0


def resume(workers: int | None = None, json: bool = False) -> int:
    """Grade whatever waits, after a drain or a crash.

    Args:
        workers: submissions at a time; else one for each processor.
        json: print results as JSON.
    """
    with _open(workers) as (queue, make_batch):
        queue.draining = False
        waiting = {job.key for job in queue.jobs() if job.state in (State.QUEUED, State.LEASED)}
        _run(make_batch(None), json)
        chosen = [job for job in queue.jobs() if job.key in waiting]
    _print_results(chosen, json, "Nothing waits.")
    return 0 if all(job.state in (State.DONE, State.CANCELLED) for job in chosen) else 1


def grades(assignment: str | None = None, output: Path | None = None) -> int:
    """Write marks as CSV, a row for each student and assignment.

    Args:
        assignment: only of this lab.
        output: the file; else standard output.
    """
    from distlab.course.grade.gradescsv import write_grades

    course = course_directory()
    if output is None:
        write_grades(course, sys.stdout, assignment)
        return 0
    try:
        with output.open("w", encoding="utf-8", newline="") as file:
            rows = write_grades(course, file, assignment)
    except OSError as error:
        raise SettingError(
            f"--output {output} cannot be written ({error.strerror}); name a file in a folder that exists."
        ) from error
    print(f"{rows} rows in {output}")
    return 0


def mark_changes(
    assignment: str | None = None, student: str | None = None, first: bool = False, json: bool = False
) -> int:
    """Say who changed which mark, when, from what to what, and why.

    Args:
        assignment: only of this lab.
        student: only of this student.
        first: list the first result of each test, too.
        json: print changes as JSON.
    """
    from distlab.course.grade.gradebook import Marks

    course = course_directory()
    with Marks(course) as marks:
        logged = marks.changes(assignment, student)
    changes = [change for change in logged if first or not change.is_first]
    if json:
        print(jsonlib.dumps([asdict(change) for change in changes], indent=1))
        return 0
    if changes:
        _table(
            ("When (UTC)", "Who", "Assignment", "Student", "Question", "Mark", "From", "To", "Why"),
            [
                (
                    change.at[:19], change.actor, change.assignment, change.student, change.grade_id,
                    change.mark, _points(change.before), _points(change.after), change.why,
                )
                for change in changes
            ],
        )  # fmt: skip
    else:
        print("No mark was changed.")
    for line in _regrades_without_change(course, {change.job for change in logged}, assignment, student):
        print(line)
    left_out = len(logged) - len(changes)
    if left_out:
        print(f"{left_out} first result{'s' * (left_out != 1)} of a test not listed; --first lists them.")
    return 0


def _regrades_without_change(
    course: Path, changed: set[str], assignment: str | None, student: str | None
) -> Iterator[str]:
    """A line for each regrade, with its reason, that left the marks of some submissions as they were."""
    with Queue(course) as queue:
        jobs = queue.jobs(assignment)
    kept: dict[tuple[str, str, str], list[str]] = {}
    for job in jobs:
        again = job.round > 1 and job.state == State.DONE and job.key not in changed
        if again and student in (None, job.student):
            kept.setdefault((job.assignment, job.asked_by, job.reason), []).append(job.student)
    for (lab, by, reason), students in kept.items():
        listed = ", ".join(dict.fromkeys(students))
        yield printable(f"Graded again by {by} ({reason}), no mark changed: {lab}, {listed}.")


def similar(assignment: Positional[str], least: float = 0.5, json: bool = False) -> int:
    """List submissions that resemble each other: a hint where to look, never a verdict.

    Args:
        assignment: the lab's id.
        least: the least similarity to list, from 0 to 1.
        json: print pairs as JSON.
    """
    from distlab.course.grade.collected import Lab
    from distlab.course.grade.similarity import resembling, written_by_learner

    if not 0 < least <= 1:
        raise SettingError(f"--least is {least:g}; choose above 0 and up to 1.")
    lab = Lab(course_directory(), assignment)
    answers = {name: written_by_learner(lab.collect(name).notebook.cells) for name in lab.students()}
    pairs = resembling(answers, [cell.source for cell in lab.cells if cell.cell_type == "code"], least)
    if json:
        print(jsonlib.dumps([pair.to_json() for pair in pairs], indent=1))
        return 0
    if not pairs:
        print(f"No two of {len(answers)} submissions score {least:g} or more.")
        return 0
    _table(
        ("Student", "Student", "Similarity", "Shared fingerprints"),
        [(pair.one, pair.other, f"{pair.similarity:.0%}", str(pair.common)) for pair in pairs],
    )
    print("A hint where to look, not a verdict: short answers resemble each other by themselves.")
    return 0


def course_directory() -> Path:
    """nbgrader's course directory: named by the environment, mounted in an instructor's server, or the site's."""
    if COURSE_ENV in os.environ:
        return Path(os.environ[COURSE_ENV])
    course = INSIDE_COURSE if INSIDE_COURSE.is_dir() else Site.from_env().course
    if not course.is_dir():
        raise SettingError(f"{course} does not exist: `distlab course up` releases the labs and makes it.")
    return course


def actor() -> str:
    """Who is at work, for the log: the Hub's user, else the system's."""
    return os.environ.get("JUPYTERHUB_USER") or getpass.getuser()


class _open(ExitStack):  # noqa: N801 - used like a function
    """The queue, and how to make a batch of it with the grader that this machine has."""

    def __init__(self, workers: int | None) -> None:
        super().__init__()
        if workers is not None and workers < 1:
            raise SettingError(f"--workers is {workers}; choose 1 or more.")
        self._workers = workers

    def __enter__(self) -> tuple[Queue, Callable[[str | None], Batch]]:  # type: ignore[override]
        with _imports():
            from distlab.course.grade.batch import Batch
            from distlab.course.grade.graders import open_grader, workers_by_default
            from distlab.course.grade.late import late_penalty

        course = course_directory()
        queue = self.enter_context(Queue(course))
        grader = self.enter_context(open_grader())
        workers = self._workers or workers_by_default()

        def make_batch(assignment: str | None) -> Batch:
            return Batch(
                course, queue, grader, assignment=assignment, workers=workers, late_penalty=late_penalty()
            )

        return queue, make_batch


@contextmanager
def _imports() -> Iterator[None]:
    """Half the time that grading's imports take, which is more than a tenth of what 30 submissions do.

    jsonschema's check of internationalised addresses, which no notebook's schema asks for, compiles a grammar when
    it is imported. And none of the objects that an import makes is garbage.
    """
    sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # "cannot be imported", to Python
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _run(batch: Batch, quiet: bool) -> None:
    """Run with a progress bar where a person looks on. Ctrl-C lets what runs finish, a second one ends at once."""

    def stop(_signum: int, _frame: object) -> None:
        batch.stop()
        for each in STOPS:
            signal.signal(each, signal.default_int_handler)
        print("Finishing what runs; Ctrl-C again ends at once.", file=sys.stderr)

    before = {each: signal.signal(each, stop) for each in STOPS}
    try:
        if quiet or not sys.stderr.isatty():
            batch.run()
        else:
            _run_with_bar(batch)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    left = batch.queue.left(batch.assignment)
    if left:
        print(f"{left} submissions wait: `distlab course grading resume` goes on.", file=sys.stderr)


def _run_with_bar(batch: Batch) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("Grading"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total)

        batch.report = report
        batch.run()


def _print_results(jobs: Sequence[Job], json: bool, nothing: str) -> None:
    rows = [_summary(job) for job in jobs]
    if json:
        print(jsonlib.dumps(rows, indent=1))
    elif not rows:
        print(nothing)
    else:
        _table(
            ("Student", "Verdict", "Points", "Repaired"),
            [
                (
                    row["student"], row["verdict"], f"{row['points']:g} of {row['max_points']:g}",
                    ", ".join(row["repaired"]),
                )
                for row in rows
            ],
        )  # fmt: skip
        for row in rows:
            if row["message"]:
                print(f"{row['student']}: {printable(row['message'])}")


def _summary(job: Job) -> dict[str, Any]:
    from distlab.course.grade.records import Record

    summary: dict[str, Any] = {
        "assignment": job.assignment, "student": job.student, "state": str(job.state), "verdict": "",
        "points": 0.0, "max_points": 0.0, "message": job.message, "repaired": {}, "cells": [], "provenance": {},
    }  # fmt: skip
    if job.record is not None:
        record = Record.from_json(job.record)
        raw = record.result.to_json()
        names = ("verdict", "points", "max_points", "cells", "provenance")
        summary |= {name: raw[name] for name in names}
        summary |= {"message": job.message or record.result.message, "repaired": dict(record.repaired)}
    else:
        summary["verdict"] = str(job.state)
    return summary


def _print_differences(found: Sequence[dict[str, Any]], json: bool) -> None:
    if json:
        print(jsonlib.dumps(found, indent=1))
    elif not found:
        print("No verdict differs.")
    else:
        _table(
            ("Student", "Question", "Before", "Points", "Now", "Points"),
            [
                (
                    row["student"], row["grade_id"], row["verdict_before"] or "not graded",
                    _points(row["points_before"]), row["verdict"], _points(row["points"]),
                )
                for row in found
            ],
        )  # fmt: skip


def _points(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # nothing is cut off
    for row in rows:
        table.add_row(*(printable(cell) for cell in row))
    # Names are strangers' words: never read as markup of the terminal's colours.
    width = None if sys.stdout.isatty() else PIPED_COLUMNS
    Console(markup=False, highlight=False, width=width).print(table)


def _check_known(option: str, given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "nobody"
            raise SettingError(f"{option} names {name!r}, which is not among what {what}: {listed}.")
