"""A collected submission, read from nbgrader's course directory and made into work for the grader.

`submitted/<student>/<assignment>/` is text from strangers: links are not followed, sizes are bounded. What the
cells are, their points and the text of locked ones come from the gradebook and from `source/`.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat.notebooknode import NotebookNode
from nbgrader.api import Gradebook, MissingEntry  # type: ignore[import-untyped]

from distlab.course.exchange.store import OWN_FILES
from distlab.course.grade.labwork import repairs, work_of
from distlab.course.grade.submission import (
    MAX_NOTEBOOK_BYTES,
    assignment_cells,
    parse_notebook,
    restore,
)
from distlab.course.grade.work import Limits, Work
from distlab.course.quiz.own import is_quiz, own_form
from distlab.course.site import COURSE_ID
from distlab.errors import SettingError
from distlab.files import is_text, open_regular

MAX_FILES = 200
MAX_FILES_BYTES = 16 * 2**20
MAX_TIMESTAMP_BYTES = 100


@dataclass(frozen=True)
class Collected:
    """One submission as it will be graded.

    `sha256` is of everything that was submitted, `notebook_sha256` of the notebook's bytes. `cells` are all
    cells of the restored notebook; the code among them is the work's, in order. `refusal` says why it is not
    run at all, or is empty. `repaired`: what `labwork.repairs` says. `files` are all that lay
    beside the notebook, name to base64.
    """

    student: str
    sha256: str
    notebook_sha256: str
    tests_sha256: str
    timestamp: str
    notebook: NotebookNode
    work: Work
    repaired: Mapping[str, str]
    files: Mapping[str, str]
    refusal: str = ""


@dataclass(frozen=True)
class Tests:
    """The assignment's cells, as one student has to answer them, and a digest of all that decides the marks."""

    cells: list[NotebookNode]
    sha256: str

    @property
    def seed(self) -> int:
        """The tests' own randomness: nobody can choose it by what is submitted."""
        return int(self.sha256[:8], 16)


class Lab:
    """An assignment that was released: read once, then used for all its submissions."""

    def __init__(self, course: Path, assignment: str, limits: Limits | None = None) -> None:
        """Raises `SettingError` where the assignment was not released in this course directory."""
        if Path(assignment).name != assignment:
            raise SettingError(f"{assignment!r} is no assignment's id; one looks like mod-107-lab-3.")
        self.course, self.assignment = course, assignment
        self.limits = limits or Limits()
        folder = course / "source" / assignment
        try:
            (course / "gradebook.db").stat()  # nbgrader would make a new one
            self.source: NotebookNode = nbformat.read(folder / f"{assignment}.ipynb", 4)
            with Gradebook(f"sqlite:///{course / 'gradebook.db'}", COURSE_ID) as gradebook:
                self.cells = assignment_cells(gradebook, assignment, assignment)
        except (OSError, MissingEntry) as error:
            raise SettingError(
                f"{assignment!r} is not released in {course}; `distlab course up` releases the labs, "
                "`distlab course grading status` lists what was graded."
            ) from error
        tags = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell for cell in self.source.cells}
        for cell in self.cells:
            original = tags.get(cell.metadata.nbgrader.grade_id)
            if original is not None and "tags" in original.metadata:
                cell.metadata["tags"] = list(original.metadata.tags)
        self.files, refusal = read_files(folder)
        if refusal:
            raise SettingError(f"{folder}: {refusal}")
        self._tests = self._tests_of(self.cells)

    @property
    def timed(self) -> bool:
        return bool(self.source.metadata.get("distlab", {}).get("timed", False))

    def tests(self, student: str) -> Tests:
        """What a student's submission is measured by: the assignment, or of a quiz the student's own questions.

        Raises `quiz.own.QuizUnavailable`.
        """
        if not is_quiz(self.assignment):
            return self._tests
        return self._tests_of(own_form(self.cells, self.assignment, student))

    def _tests_of(self, cells: list[NotebookNode]) -> Tests:
        header = self.source.metadata.get("distlab", {})
        decisive = [[cell.cell_type, cell.source, cell.metadata] for cell in cells]
        return Tests(cells, _sha256(json.dumps([header, decisive, self.files], sort_keys=True).encode()))

    def students(self) -> list[str]:
        """Who has submitted, in order."""
        return sorted(path.parent.name for path in (self.course / "submitted").glob(f"*/{self.assignment}/"))

    def folder(self, student: str) -> Path:
        return self.course / "submitted" / student / self.assignment

    def digest(self, student: str) -> str:
        """`Collected.sha256`, without making the work."""
        return self._read(student).sha256

    def collect(self, student: str) -> Collected:
        """A student's submission, restored.

        Raises `FileNotFoundError` where there is none, `QuizUnavailable` where a quiz's own tests cannot be had.
        """
        read = self._read(student)
        tests = self.tests(student)
        notebook = parse_notebook(read.notebook)
        repaired = repairs(self.source, notebook)
        notebook.cells = restore(notebook.cells, tests.cells)
        # The course's own files win, as in nbgrader.
        work = work_of(
            self.assignment,
            self.source,
            notebook.cells,
            files={} if read.refusal else self._beside(_learners(read.files)),
            seed=tests.seed,
            limits=self.limits,
        )
        return Collected(
            student,
            read.sha256,
            _sha256(read.notebook),
            tests.sha256,
            read.timestamp,
            notebook,
            work,
            repaired,
            self._beside(read.files),
            read.refusal,
        )

    def _beside(self, files: dict[str, str]) -> dict[str, str]:
        """A learner's files and the course's, which win, also where one's file is the other's folder."""
        kept = {name: content for name, content in files.items() if not self._is_ours(name)}
        return {**kept, **self.files}

    def _is_ours(self, name: str) -> bool:
        return any(
            name == ours or name.startswith(f"{ours}/") or ours.startswith(f"{name}/") for ours in self.files
        )

    def _read(self, student: str) -> _Read:
        folder = self.folder(student)
        if folder.is_symlink() or not folder.is_dir():
            raise FileNotFoundError(
                f"{student} has no submission of {self.assignment}: {folder} is no folder"
            )
        notebook = read_plain(folder / f"{self.assignment}.ipynb", MAX_NOTEBOOK_BYTES + 1)
        files, refusal = read_files(folder)
        timestamp = (
            read_plain(folder / "timestamp.txt", MAX_TIMESTAMP_BYTES).decode("ascii", "replace").strip()
        )
        everything = json.dumps([_sha256(notebook), files, timestamp, refusal], sort_keys=True)
        return _Read(notebook, files, timestamp, refusal, _sha256(everything.encode()))


@dataclass(frozen=True)
class _Read:
    notebook: bytes
    files: dict[str, str]
    timestamp: str
    refusal: str
    sha256: str


def _learners(files: dict[str, str]) -> dict[str, str]:
    """Without what the exchange puts beside a submission."""
    return {name: content for name, content in files.items() if name not in OWN_FILES}


def read_plain(path: Path, most: int) -> bytes:
    """Up to `most` bytes of a regular file; nothing where there is none, or something else."""
    try:
        file = open_regular(path)
    except OSError:
        return b""
    with file:
        return file.read(most)


def read_files(folder: Path) -> tuple[dict[str, str], str]:
    """The files beside the notebooks, name to base64; or why they cannot be taken along."""
    files: dict[str, str] = {}
    total = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.endswith(".ipynb"))
        for name in sorted(names):
            path = Path(root) / name
            if path.is_symlink() or not path.is_file() or path.suffix == ".ipynb" or not is_text(name):
                continue
            content = read_plain(path, MAX_FILES_BYTES - total + 1)
            total += len(content)
            if total > MAX_FILES_BYTES or len(files) >= MAX_FILES:
                limit = f"{MAX_FILES} files and {MAX_FILES_BYTES // 2**20} MiB"
                return {}, f"Not run: the submission has more than {limit} beside the notebook."
            files[path.relative_to(folder).as_posix()] = base64.b64encode(content).decode()
    return files, ""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
