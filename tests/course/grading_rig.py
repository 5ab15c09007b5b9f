"""A course directory with a released lab, a running grading service, and nbgrader as instructors have it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbgrader.api import Gradebook  # type: ignore[import-untyped]

from distlab.course import jupyter
from distlab.course.grade.graders import SOCKET_ENV
from distlab.course.site import COURSE_ENV, COURSE_ID, Site
from tests.course.small_lab import LAB_ID

CONFIGS = Path(jupyter.__file__).parent

SERVICE = """
import sys
from pathlib import Path
from distlab.course.grade.children import Children
from distlab.course.grade.runner import MAX_BODY_BYTES, make_app
from distlab.course.grade.work import Limits
from distlab.course.service import serve

limits = Limits(memory_bytes=700 * 2**20, processes=150, cell_s=60, wall_s=120)
with Children() as children:
    app = make_app(limits, children, concurrency=2)
    print("up", flush=True)
    serve(app, Path(sys.argv[1]), MAX_BODY_BYTES)
"""
"""The service with limits that a hostile submission reaches soon."""


@contextmanager
def grading_service(site: Site) -> Iterator[Path]:
    """The socket of a running grading service."""
    site.grader_sockets.mkdir(parents=True, exist_ok=True)
    socket = site.grader_sockets / "grader.sock"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(socket)], env={**os.environ, **site.env()}, stdout=subprocess.PIPE
    )
    assert process.stdout
    try:
        process.stdout.readline()
        while not socket.exists():
            assert process.poll() is None, "the grading service ended"
            os.sched_yield()
        yield socket
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def instructor_env(site: Site, home: Path, kind: str = "instructor") -> dict[str, str]:
    """The environment of a server or command of one kind of user, without its sandbox."""
    home.mkdir(exist_ok=True)
    return {
        "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "JUPYTER_CONFIG_PATH": str(CONFIGS / kind),
        "JUPYTER_NO_CONFIG": "",
        "TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1",
        "PYTHONWARNINGS": "ignore",
        COURSE_ENV: str(site.course),
        SOCKET_ENV: str(site.grader_sockets / "grader.sock"),
    }


def nbgrader(site: Site, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an nbgrader command as an instructor does."""
    return subprocess.run(
        ["nbgrader", *arguments],
        env=instructor_env(site, home),
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )


def auto_scores(site: Site, student: str) -> dict[str, float | None]:
    """The points that autograding gave, by test."""
    with Gradebook(f"sqlite:///{site.course / 'gradebook.db'}", COURSE_ID) as gradebook:
        submission = gradebook.find_submission_notebook(LAB_ID, LAB_ID, student)
        return {grade.name: grade.auto_score for grade in submission.grades}
