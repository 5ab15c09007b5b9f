"""nbgrader's exchange, spoken over HTTP: its commands and buttons work unchanged.

In a config file:

    from distlab.course.exchange import plugin
    plugin.configure(c)
"""

from __future__ import annotations

import glob
import hashlib
import os
from pathlib import Path
from typing import Any, NoReturn

from nbgrader.api import Gradebook, MissingEntry  # type: ignore[import-untyped]
from nbgrader.exchange import abc  # type: ignore[import-untyped]
from nbgrader.utils import ignore_patterns, parse_utc  # type: ignore[import-untyped]

from distlab.course.exchange.bundle import find_files
from distlab.course.exchange.client import Client, ClientError
from distlab.course.site import ASSIGNMENT_ID, COURSE_ID


def configure(c: Any) -> None:
    """Make this the exchange of an nbgrader config, and this site's course its course."""
    c.CourseDirectory.course_id = COURSE_ID
    c.ExchangeFactory.exchange = Exchange
    c.ExchangeFactory.fetch_assignment = ExchangeFetchAssignment
    c.ExchangeFactory.fetch_feedback = ExchangeFetchFeedback
    c.ExchangeFactory.release_assignment = ExchangeReleaseAssignment
    c.ExchangeFactory.release_feedback = ExchangeReleaseFeedback
    c.ExchangeFactory.list = ExchangeList
    c.ExchangeFactory.submit = ExchangeSubmit
    c.ExchangeFactory.collect = ExchangeCollect


class Exchange(abc.Exchange):  # type: ignore[misc]
    """What the verbs share: the client, the course, and errors of one sentence."""

    last_failure = ""
    """The newest failure's message, for those whom nbgrader gives a text of its own (`assignment_list`)."""

    def start(self) -> Any:
        if self.coursedir.course_id not in ("", COURSE_ID):
            self.fail(f'This exchange serves the course "{COURSE_ID}", not "{self.coursedir.course_id}".')
        try:
            self.client = Client.from_env()
            return super().start()
        except ClientError as error:
            self.fail(str(error))

    def fail(self, msg: str) -> NoReturn:
        Exchange.last_failure = msg
        super().fail(msg)
        raise AssertionError  # nbgrader's own always raises

    def init_src(self) -> None:
        pass

    def init_dest(self) -> None:
        pass

    def assignment_id(self) -> str:
        assignment: str = self.coursedir.assignment_id
        if not ASSIGNMENT_ID.fullmatch(assignment):
            self.fail(f'"{assignment}" is no lab; a lab\'s id looks like mod-107-lab-3.')
        return assignment

    def local(self, assignment: str) -> Path:
        """Where a learner has (or would have) an assignment."""
        return Path(self.assignment_dir, assignment).absolute()

    def one_student(self) -> str | None:
        """The student that the command names, if it names one."""
        student: str = self.coursedir.student_id
        return None if student in ("", "*") else student

    def files_of(self, folder: Path) -> list[tuple[str, Path]]:
        """The files to send, by nbgrader's rules of what to ignore; says what stays behind."""
        course = self.coursedir
        ignored = ignore_patterns(
            exclude=course.ignore, include=course.include, max_file_size=course.max_file_size, log=self.log
        )
        files, left_out = find_files(folder, ignored)
        for path in left_out:
            self.log.warning('"%s" is no ordinary file and is not sent', path)
        return files


class ExchangeFetchAssignment(Exchange, abc.ExchangeFetchAssignment):  # type: ignore[misc]
    def copy_files(self) -> None:
        assignment = self.assignment_id()
        target = self.local(assignment)
        if target.exists() and not self.replace_missing_files:
            self.fail(f"You already have a copy of the assignment in this directory: {assignment}")
        self.client.fetch_assignment(assignment, target.parent)
        self.log.info("Fetched as: %s %s", COURSE_ID, assignment)


class ExchangeSubmit(Exchange, abc.ExchangeSubmit):  # type: ignore[misc]
    def init_src(self) -> None:
        # As in nbgrader, a path to the assignment's folder serves as well as its name.
        self.source = Path(self.assignment_dir, self.coursedir.assignment_id).absolute()
        self.coursedir.assignment_id = self.source.name
        if not self.source.is_dir():
            self.fail(f"Assignment not found at: {self.source}")

    def copy_files(self) -> None:
        assignment = self.assignment_id()
        files = self.files_of(self.source)
        self.compare_notebooks(assignment, {path for path, _ in files})
        receipt = self.client.submit(assignment, files, self.one_student())
        self.log.info("Submitted as: %s %s %s", COURSE_ID, assignment, receipt["timestamp"])
        self.log.info("Receipt: %d file(s), sha256 %s", receipt["files"], receipt["sha256"])

    def compare_notebooks(self, assignment: str, sent: set[str]) -> None:
        """Warn about notebooks that were released and are missing; with `strict`, refuse."""
        released = [known for known in self.client.assignments() if known["assignment_id"] == assignment]
        if not released:
            self.fail(f'"{assignment}" is not released.')
        missing = [name for name in released[0]["notebooks"] if f"{name}.ipynb" not in sent]
        if not missing:
            return
        message = f"Assignment {assignment} lacks the notebook(s) {', '.join(missing)}"
        if self.strict:
            self.fail(f"{message}; it was not submitted.")
        self.log.warning(message)


class ExchangeReleaseAssignment(Exchange, abc.ExchangeReleaseAssignment):  # type: ignore[misc]
    def copy_files(self) -> None:
        assignment, course = self.assignment_id(), self.coursedir
        folder = Path(course.format_path(course.release_directory, ".", assignment))
        if not folder.is_dir():
            self.fail(f"{folder} is not there, run `nbgrader generate_assignment {assignment}` first.")
        self.client.release(assignment, self.files_of(folder), replace=self.force)
        self.log.info("Released as: %s %s", COURSE_ID, assignment)


class ExchangeReleaseFeedback(Exchange, abc.ExchangeReleaseFeedback):  # type: ignore[misc]
    def copy_files(self) -> None:
        assignment, course = self.assignment_id(), self.coursedir
        excluded = set(course.student_id_exclude.split(","))
        everyone = glob.glob(course.format_path(course.feedback_directory, "*", assignment))
        failed = []
        for folder in sorted(map(Path, everyone)):
            student = folder.parent.name
            if student in excluded or self.one_student() not in (None, student):
                continue
            submitted = Path(course.format_path(course.submitted_directory, student, assignment))
            for html in sorted(folder.glob("*.html")):
                if (submitted / html.name).exists() and not (submitted / f"{html.stem}.ipynb").exists():
                    continue  # a page that the learner handed in, which nbgrader copies along
                try:
                    time = (folder / "timestamp.txt").read_text().strip()
                    self.client.put_feedback(assignment, student, time, html.stem, html)
                except (OSError, ClientError) as error:
                    self.log.error("Feedback on %s of %s: %s", html.stem, student, error)
                    failed.append(student)
                else:
                    self.log.info("Feedback released to %s: %s/%s (%s)", student, assignment, html.stem, time)
        if failed:
            self.fail(f"Feedback could not be released to {', '.join(failed)}; the log above says why.")


class ExchangeFetchFeedback(Exchange, abc.ExchangeFetchFeedback):  # type: ignore[misc]
    def copy_files(self) -> None:
        assignment = self.assignment_id()
        for receipt in self.client.submissions(os.environ.get("JUPYTERHUB_USER"), assignment):
            for notebook in receipt["notebooks"]:
                if notebook not in receipt["feedback"]:
                    self.log.warning("No feedback on %s submitted at %s yet", notebook, receipt["timestamp"])
                    continue
                target = self.local(assignment) / "feedback" / receipt["timestamp"] / f"{notebook}.html"
                self.client.fetch_feedback(receipt, notebook, target)
                self.log.info("Fetched feedback: %s", target)


class ExchangeCollect(Exchange, abc.ExchangeCollect):  # type: ignore[misc]
    def copy_files(self) -> None:
        assignment, course = self.assignment_id(), self.coursedir
        by_student: dict[str, list[dict[str, Any]]] = {}
        for receipt in self.client.submissions(self.one_student(), assignment):
            by_student.setdefault(receipt["user"], []).append(receipt)
        self.log.info("Processing %d submissions of %s", len(by_student), assignment)
        due = self.due_date(assignment) if self.before_duedate else None
        for student, receipts in by_student.items():
            receipt = receipts[-1]
            if due is not None:
                in_time = [early for early in receipts if parse_utc(early["timestamp"]) <= due]
                receipt = in_time[-1] if in_time else receipts[0]
            target = Path(course.format_path(course.submitted_directory, student, assignment))
            time, there = parse_utc(receipt["timestamp"]), course.get_existing_timestamp(str(target))
            newer = self.update and (there is None or time > there)
            if target.is_dir() and not newer and not (self.before_duedate and time != there):
                hint = "no newer one" if self.update else "use --update to update"
                self.log.info("Submission already collected, %s: %s %s", hint, student, assignment)
                continue
            self.client.collect(receipt, target)
            self.log.info("Collected: %s %s (%s)", student, assignment, receipt["timestamp"])

    def due_date(self, assignment: str) -> Any:
        with Gradebook(self.coursedir.db_url, COURSE_ID) as gradebook:
            try:
                return gradebook.find_assignment(assignment).duedate
            except MissingEntry:
                return None


class ExchangeList(Exchange, abc.ExchangeList):  # type: ignore[misc]
    """Released assignments, or (`inbound`, `cached`) submissions, in the form the Assignment List reads."""

    def copy_files(self) -> None:
        pass

    def asked_for(self) -> str | None:
        assignment: str = self.coursedir.assignment_id
        return None if assignment in ("", "*") else assignment

    def list_files(self) -> list[dict[str, Any]]:
        return self.list_submitted() if self.inbound or self.cached else self.list_released()

    def remove_files(self) -> list[dict[str, Any]]:
        if self.inbound or self.cached:
            self.fail("The exchange keeps every submission; --remove is for released assignments.")
        listed = self.list_released()
        for item in listed:
            self.client.unrelease(item["assignment_id"])
            item["status"] = "removed"
            self.log.info("Removed: %s %s", COURSE_ID, item["assignment_id"])
        return listed

    def list_released(self) -> list[dict[str, Any]]:
        listed = []
        self.log.info("Released assignments:")
        for known in self.client.assignments():
            assignment = known["assignment_id"]
            if self.asked_for() not in (None, assignment):
                continue
            folder = self.local(assignment)
            fetched = folder.is_dir()
            names = sorted(path.stem for path in folder.glob("*.ipynb")) if fetched else known["notebooks"]
            listed.append(
                {
                    "course_id": COURSE_ID,
                    "assignment_id": assignment,
                    "status": "fetched" if fetched else "released",
                    "path": str(folder),
                    "notebooks": [
                        {"notebook_id": name, "path": str(folder / f"{name}.ipynb")} for name in names
                    ],
                }
            )
            self.log.info("%s %s%s", COURSE_ID, assignment, " (already downloaded)" if fetched else "")
        return listed

    def list_submitted(self) -> list[dict[str, Any]]:
        student = os.environ.get("JUPYTERHUB_USER") if self.cached else self.one_student()
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.log.info("Submitted assignments:")
        for receipt in self.client.submissions(student, self.asked_for()):
            info = self.describe(receipt)
            groups.setdefault((info["student_id"], info["assignment_id"]), []).append(info)
            word = "ready to be fetched" if info["has_exchange_feedback"] else "not available yet"
            if info["has_local_feedback"] and not info["feedback_updated"]:
                word = "already fetched"
            who = (COURSE_ID, info["student_id"], info["assignment_id"], info["timestamp"])
            self.log.info("%s %s %s %s (feedback %s)", *who, word)
        return [
            {
                "course_id": COURSE_ID,
                "student_id": student,
                "assignment_id": assignment,
                "status": "submitted",
                "submissions": submissions,
            }
            for (student, assignment), submissions in sorted(groups.items())
        ]

    def describe(self, receipt: dict[str, Any]) -> dict[str, Any]:
        """One submission, with what feedback there is on it here and at the exchange."""
        folder = self.local(receipt["assignment"]) / "feedback" / receipt["timestamp"]
        described = []
        for name in receipt["notebooks"]:
            local = folder / f"{name}.html"
            has_local, remote = local.is_file(), receipt["feedback"].get(name)
            described.append(
                {
                    "notebook_id": name,
                    "path": str(self.local(receipt["assignment"]) / f"{name}.ipynb"),
                    "has_local_feedback": has_local,
                    "has_exchange_feedback": remote is not None,
                    "local_feedback_path": str(local) if has_local else None,
                    "feedback_updated": bool(
                        has_local and remote and hashlib.sha256(local.read_bytes()).hexdigest() != remote
                    ),
                }
            )
        has_local = all(notebook["has_local_feedback"] for notebook in described)
        return {
            "course_id": COURSE_ID,
            "student_id": receipt["user"],
            "assignment_id": receipt["assignment"],
            "timestamp": receipt["timestamp"],
            "sha256": receipt["sha256"],
            "status": "submitted",
            "path": str(self.local(receipt["assignment"])),
            "notebooks": described,
            "has_local_feedback": has_local,
            "has_exchange_feedback": all(notebook["has_exchange_feedback"] for notebook in described),
            "feedback_updated": any(notebook["feedback_updated"] for notebook in described),
            "local_feedback_path": str(folder) if has_local else None,
        }
