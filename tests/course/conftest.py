"""A course directory of its own for each test that asks for one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.course.batch_rig import quick_folder, released


@pytest.fixture(scope="session")
def released_course() -> Iterator[Path]:
    """A course directory with the small lab released and no submission; not to be changed."""
    with quick_folder() as folder:
        yield released(folder).course


@pytest.fixture
def course(released_course: Path) -> Iterator[Path]:
    """A copy of it."""
    with quick_folder() as folder:
        yield Path(shutil.copytree(released_course, folder / "course"))
