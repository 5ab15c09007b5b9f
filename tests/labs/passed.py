"""What passed is remembered by what it was made from, and skipped while that stays the same.

Most of the suite's time goes into labs' notebooks and the grading of their wrong answers, and most changes touch
nothing of what those read. Only the whole suite asks for it (`scripts/check`): a test called by hand runs.
`FRESH=1 make test` runs all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from distlab.course.atomic import write_atomic
from distlab.course.inputs import contents, digest, files_below, surroundings

ASKED_FOR = "DISTLAB_SKIP_PASSED"
"""Environment variable: set to anything, what passed before is skipped."""

KEPT_S = 30 * 24 * 3600

LABS_OWN = {"solutions", "labs"}
"""Folders with one for each lab."""
NOT_READ = {"var", "node_modules", "assessments"}
"""Folders of the repository that no lab's test reads."""
REPORTS = ("benchmarks", "deep")
"""What the deep checks found; the test that reads them is not remembered."""
PROSE = {".md", ".bib", ".png", ".svg"}

Inputs = Callable[[pytest.Item], str | None]
"""A hash of all that a test depends on; None for a test that is not remembered."""

_before = pytest.StashKey[str]()
"""A test's inputs before it ran; gone where a part of it has not passed."""


class SkipPassed:
    """A plugin of pytest: the tests that `inputs` gives a hash for pass once for it. `folder` remembers."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        self.folder, self.inputs = folder, inputs
        for old in folder.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink(missing_ok=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if (inputs := self.inputs(item)) is None:
            return
        path = self._path(item)
        if path.exists() and path.read_text() == inputs:
            day = time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
            pytest.skip(f"passed on {day} with the same inputs (FRESH=1 runs it again)")
        item.stash[_before] = inputs

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        before = item.stash.get(_before, None)
        if not report.passed:
            item.stash[_before] = ""
        elif report.when == "teardown" and before and self.inputs(item) == before:  # nobody changed them meanwhile
            write_atomic(self._path(item), before.encode())
        return report

    def _path(self, item: pytest.Item) -> Path:
        return self.folder / digest(item.nodeid)


def lab_of(item: pytest.Item) -> str | None:
    """The lab that a test is about: its parameter `lab`, or its module's LAB."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    lab = parameters.get("lab") or getattr(getattr(item, "module", None), "LAB", None)
    return lab if isinstance(lab, str) else None


def inputs_of(root: Path, lab: str) -> str:
    """A hash of all in the repository that the tests of a lab can read, and of where they run.

    That is everything but prose and figures of the book, other labs, and tests of other folders.
    """
    read = [path for path in files_below(root) if _is_read(path.relative_to(root), lab)]
    return digest(surroundings(), *contents(root, read))


def _is_read(path: Path, lab: str) -> bool:
    top, *below = path.parts
    if top in NOT_READ or path.parts[:2] == REPORTS or path.suffix in (".pyc", ".pyo"):
        return False
    if top in LABS_OWN:
        return below[0] == lab
    if top == "tests":
        return len(below) == 1 or below[0] == "labs"
    return path.suffix not in PROSE or bool(below and top != "book")
