"""Make the learners' notebooks from `solutions/` and release them to the site.

distlab course check-labs [--write]     are labs/ in step with solutions/?

`solutions/<lab-id>/lab.md` is the single source. From it come `labs/<lab-id>/<lab-id>.ipynb` (committed), and
on a site nbgrader's `source/`, `release/` and gradebook in the course directory, and the assignment at the
exchange.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import nbgrader  # type: ignore[import-untyped]
from nbformat.notebooknode import NotebookNode
from nbgrader.converters import GenerateAssignment  # type: ignore[import-untyped]
from nbgrader.converters.base import NbGraderException  # type: ignore[import-untyped]
from nbgrader.coursedir import CourseDirectory  # type: ignore[import-untyped]
from traitlets.config import Config

from distlab.course import lablint, labsource
from distlab.course.atomic import write_atomic
from distlab.course.exchange.bundle import RefusedError
from distlab.course.exchange.store import publish
from distlab.course.homes import give
from distlab.course.labsource import LabError, read_lab
from distlab.course.quiz import lint as quiz_lint
from distlab.course.quiz.bank import BankError, bank_paths
from distlab.course.quiz.lint import problems_of
from distlab.course.quiz.own import generic_notebook, is_quiz, publish_bank
from distlab.course.site import COURSE_ID, LAB_ID, Site
from distlab.errors import SettingError


class ReleaseError(Exception):
    """A lab cannot be released. What was released before is as it was."""


def lab_ids(root: Path) -> list[str]:
    """The labs that have a source, in order; a folder with another name is an error."""
    labs = sorted(path.parent.name for path in (root / "solutions").glob("*/lab.md"))
    for lab in labs:
        if not LAB_ID.fullmatch(lab):
            raise ReleaseError(f"solutions/{lab}: a lab's folder is named like mod-107-lab-3")
    return labs


def check_lab_exists(root: Path, lab_id: str) -> None:
    """Raises `SettingError` where there is no source of this lab, or its name is none of a lab's."""
    if not LAB_ID.fullmatch(lab_id):
        raise SettingError(f"{lab_id!r} is no lab's id; a lab's folder is named like mod-107-lab-3.")
    if not source_path(root, lab_id).is_file():
        known = sorted(path.parent.name for path in (root / "solutions").glob("*/lab.md"))
        raise SettingError(
            f"there is no lab {lab_id!r}: {source_path(root, lab_id)} is missing; "
            f"there {'are ' + ', '.join(known) if known else 'is no lab at all'}."
        )


def source_path(root: Path, lab_id: str) -> Path:
    return root / "solutions" / lab_id / "lab.md"


def sources(root: Path) -> dict[str, Path]:
    """The source of each lab, then of each quiz."""
    found = {lab_id: source_path(root, lab_id) for lab_id in lab_ids(root)}
    try:
        return found | {path.stem: path for path in bank_paths(root)}
    except BankError as error:
        raise ReleaseError(str(error)) from error


def learner_path(root: Path, lab_id: str) -> Path:
    return root / "labs" / lab_id / f"{lab_id}.ipynb"


def learner_notebook(root: Path, lab_id: str) -> bytes:
    """The notebook that learners get: solutions and hidden tests cleared, the same bytes at every call.

    Raises `ReleaseError` naming file, cell and line where the source is not as it should be.
    """
    source = _read(root, lab_id)
    with tempfile.TemporaryDirectory(prefix="distlab-lab-") as folder:
        return _generate(Path(folder), lab_id, source, db=None).read_bytes()


def check_labs_in_step(root: Path) -> list[str]:
    """What differs between `labs/` and what `solutions/` would make, one line each; empty if nothing does.

    In a learner's copy, which has no `solutions/`, there is nothing to compare.
    """
    differences: list[str] = []
    if not (root / "solutions").is_dir():
        return differences
    labs = lab_ids(root)
    for lab_id in labs:
        path = learner_path(root, lab_id)
        name = path.relative_to(root)
        if not path.is_file():
            differences.append(f"{name} is missing")
        elif path.read_bytes() != learner_notebook(root, lab_id):
            differences.append(f"{name} is not what solutions/{lab_id}/lab.md makes")
    for folder in sorted((root / "labs").glob("*/")):
        if folder.name not in labs:
            differences.append(f"labs/{folder.name} has no source in solutions/")
    return differences


def write_labs(root: Path) -> None:
    """Bring `labs/` in step. Every source is read before the first file is written."""
    notebooks = {lab_id: learner_notebook(root, lab_id) for lab_id in lab_ids(root)}
    for lab_id, content in notebooks.items():
        write_atomic(learner_path(root, lab_id), content, 0o644)


def check_labs(root: Path = Path("."), write: bool = False) -> int:
    """Are the learners' notebooks in `labs/` in step with `solutions/`?

    Args:
        root: the repository.
        write: make them again instead of only saying what differs.
    """
    try:
        if write:
            write_labs(root)
        differences = check_labs_in_step(root)
    except ReleaseError as error:
        print(f"distlab course check-labs: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(difference, file=sys.stderr)
    if differences:
        print("`distlab course check-labs --write` makes the notebooks again.", file=sys.stderr)
    return 1 if differences else 0


def release_all(
    site: Site,
    check: Callable[[str], None] | None = None,
    kept: Callable[[str, ReleaseError], None] | None = None,
) -> list[str]:
    """Release every lab and quiz whose source changed since it was last released; returns their ids.

    Each goes into the course directory and its gradebook, then to the exchange. Raises `ReleaseError` for the
    first that cannot be released; those before it are released, it and those after are as they were. `check` is
    called with the id of each lab before it is released, and may refuse it with that error. `kept` is told of
    those that cannot be released again and stay as they were released before; without it they are errors, too.
    """
    site.course.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_links(site)
    released = _released(site)
    done = []
    try:
        for lab_id, source in sources(site.root).items():
            digest = _digest(source)
            notebook = site.course / "release" / lab_id / f"{lab_id}.ipynb"
            if released.get(lab_id) == digest and notebook.is_file():
                continue
            try:
                if check and not is_quiz(lab_id):
                    check(lab_id)
                _release(site, lab_id, source)
            except ReleaseError as error:
                if kept is None or lab_id not in released or not notebook.is_file():
                    raise
                kept(lab_id, error)
                continue
            released[lab_id] = digest
            listed = json.dumps(released, indent=1, sort_keys=True)
            write_atomic(site.course / "released.json", listed.encode(), 0o644)
            done.append(lab_id)
    except OSError as error:
        raise ReleaseError(f"the labs could not be released: {error}") from error
    finally:
        if os.geteuid() == 0:
            # What root made belongs to whom the folder belongs: the instructors' servers, once there was one.
            give(site.course, site.course.stat().st_uid)
    return done


def _refuse_links(site: Site) -> None:
    """Instructors' servers write in the course directory: nothing there may lead our writes elsewhere."""
    for name in ("released.json", "gradebook.db", "source", "release", "source/*", "release/*"):
        for path in site.course.glob(name):
            if path.is_symlink():
                raise ReleaseError(f"{path} is a link; it must be a file or folder of its own")


def _release(site: Site, lab_id: str, path: Path) -> None:
    source = _read_quiz(path) if is_quiz(lab_id) else _read(site.root, lab_id)
    with tempfile.TemporaryDirectory(prefix=".release-", dir=site.course) as folder:
        stage = Path(folder)
        learner = _generate(stage, lab_id, source, db=site.course / "gradebook.db")
        try:
            if is_quiz(lab_id):
                publish_bank(site, path)
            publish(site, lab_id, learner.parent)
        except (RefusedError, BankError) as error:
            raise ReleaseError(f"{lab_id}: the exchange refused it: {error}") from error
        for step in ("source", "release"):
            name = f"{step}/{lab_id}/{lab_id}.ipynb"
            write_atomic(site.course / name, (stage / name).read_bytes(), 0o644)


def _read(root: Path, lab_id: str) -> NotebookNode:
    try:
        return read_lab(source_path(root, lab_id))
    except LabError as error:
        raise ReleaseError(str(error)) from error


def _read_quiz(bank: Path) -> NotebookNode:
    """The generic variant, if the bank is right."""
    try:
        problems = problems_of(bank)
        if problems:
            raise ReleaseError(f"{bank}: {problems[0]}; `distlab course check-quizzes` shows all")
        return generic_notebook(bank)
    except (BankError, LabError) as error:
        raise ReleaseError(str(error)) from error


def _generate(course: Path, lab_id: str, source: NotebookNode, db: Path | None) -> Path:
    """Let nbgrader make `release/` and fill the gradebook `db`; returns the path of the learner's notebook."""
    path = course / "source" / lab_id / f"{lab_id}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(nbformat.writes(source) + "\n", encoding="utf-8")
    directory = CourseDirectory(root=str(course), course_id=COURSE_ID, assignment_id=lab_id)
    config = Config()
    if db is None:
        config.SaveCells.enabled = False
        config.GenerateAssignment.no_database = True
    else:
        directory.db_url = f"sqlite:///{db}"
    converter = GenerateAssignment(coursedir=directory, config=config)
    # For a new gradebook nbgrader calls the program `alembic`, which lies beside this Python.
    path_with_alembic = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    with _errors_of(converter.log) as errors, _environment(PATH=path_with_alembic):
        try:
            converter.start()
        except NbGraderException as error:
            raise ReleaseError(f"{lab_id}: nbgrader refused it: {_cause(errors) or error}") from error
    return course / "release" / lab_id / f"{lab_id}.ipynb"


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while (nbgrader's own `setenv` loses those that were set before)."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _errors_of(log: logging.Logger) -> Iterator[list[str]]:
    """Collect a logger's errors and keep the rest quiet."""
    errors: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            errors.append(record.getMessage())

    handler = Collect(logging.ERROR)
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.ERROR)
    log.propagate = False
    try:
        yield errors
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


def _cause(errors: list[str]) -> str:
    """nbgrader logs a traceback; its last line is the sentence."""
    tracebacks = [error for error in errors if error.startswith("Traceback")]
    last = tracebacks[0].strip().split("\n")[-1] if tracebacks else ""
    return last.partition(": ")[2] or last


def _released(site: Site) -> dict[str, str]:
    try:
        released = json.loads((site.course / "released.json").read_text())
    except (OSError, ValueError):
        return {}
    return released if isinstance(released, dict) and (site.course / "gradebook.db").is_file() else {}


def _digest(source: Path) -> str:
    """Of everything that the released files depend on: the source, this code, nbgrader."""
    digest = hashlib.sha256(nbgrader.__version__.encode())
    quiz = sorted(Path(quiz_lint.__file__).parent.glob("*.py")) if is_quiz(source.stem) else []
    for path in (*quiz, source, Path(__file__), Path(labsource.__file__), Path(lablint.__file__)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
