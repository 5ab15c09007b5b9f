"""Grading: submissions per second beside stock nbgrader, what isolation costs, what a second worker brings.

A second peer, where `DISTLAB_OTTER` names its command: otter-grader, which needs neither Docker nor conda for
`otter run`. It is no part of this project's environment; in one of its own it finds torch and ipykernel here:

    python -m venv /tmp/otter && /tmp/otter/bin/pip install otter-grader
    .venv/bin/python -c "import site; print(site.getsitepackages()[0])" > \
        $(/tmp/otter/bin/python -c "import site; print(site.getsitepackages()[0])")/lab.pth
    make bench BENCH=grade.throughput DISTLAB_OTTER=/tmp/otter/bin/otter
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.results import Result
from distlab.course.grade.batch import Batch
from distlab.course.grade.children import Child, Children
from distlab.course.grade.grader import grade
from distlab.course.grade.queue import Queue
from distlab.course.grade.work import Cell, Kind, Limits, Work
from distlab.course.release import release_all
from distlab.course.site import Site
from tests.course.grading_rig import grading_service, instructor_env
from tests.course.small_lab import LAB, LAB_ID, Submission, write_lab

STUDENTS = 30
REPEATS = 3
LIGHT_LAB = LAB.replace("import math", "import torch")
"""Three tests, two functions, and the import that every lab of the course begins with."""

OTTER_TESTS = {
    "test_double": (2, "double(2) == 4"),
    "hidden_double": (3, "double(17041) == 34082"),
    "hidden_triple": (5, "triple(7) == 21"),
}
"""The lab's tests as otter has them: points, and an assertion in a doctest."""
OTTER_TEST = """
OK_FORMAT = True
case = {{"code": ">>> assert {says}", "hidden": True, "locked": False}}
suite = {{"cases": [case], "scored": True, "setup": "", "teardown": "", "type": "doctest"}}
test = {{"name": "{name}", "points": {points}, "suites": [suite]}}
"""
OTTER_STUDENTS = 8

COMPUTE = """
def work():
    total = 0
    for i in range(15_000_000):
        total += i
    return total

total = work()
"""
"""About a second of one processor."""


def throughput() -> list[Result]:
    """30 submissions of a light lab: `distlab course grade` with the site's service, isolation on, and stock
    `nbgrader autograde`, which has none; each from the command's start to its end. Of `otter run`, which grades one
    submission a command without isolation, as many at a time as there are processors."""
    with tempfile.TemporaryDirectory() as folder:
        site = course_site(Path(folder))
        stock = _stock_s(site, Path(folder) / "stock")
        otter = _otter_per_s(site, Path(folder) / "otter")
        home = Path(folder) / "home"
        with grading_service(site):
            ours = []
            for number in range(REPEATS + 1):
                if number:
                    shutil.rmtree(site.course / "autograded")
                    for path in site.course.glob("grading.db*"):
                        path.unlink()
                started = time.perf_counter()
                _run([_program("distlab"), "course", "grade", LAB_ID], instructor_env(site, home), home)
                ours.append(time.perf_counter() - started)
    seconds = statistics.median(ours[1:])  # the first waits for the service to be ready
    return [
        Result("grade.throughput", STUDENTS / seconds, "submissions/s", "nbgrader", stock / seconds),
        Result("grade.throughput.nbgrader", STUDENTS / stock, "submissions/s"),
        *(
            (
                Result(
                    "grade.throughput",
                    STUDENTS / seconds,
                    "submissions/s",
                    "otter",
                    STUDENTS / seconds / otter,
                ),
                Result("grade.throughput.otter", otter, "submissions/s"),
            )
            if otter
            else ()
        ),
    ]


def overhead() -> list[Result]:
    """A submission that computes nothing: all that grading it takes is overhead. One worker, without marks.

    The fork server's memory is all workers'; each worker needs that of one submission's sandboxes beside it.
    """
    work = Work(
        LAB_ID,
        (
            Cell("import torch\ndef double(x):\n    return 2 * x"),
            Cell("assert double(2) == 4", "visible", Kind.VISIBLE, 1.0),
            Cell("assert double(21) == 42, 'wrong'", "hidden", Kind.HIDDEN, 2.0),
        ),
        ("double",),
    )
    with _Remembering() as children:
        for _ in range(3):
            grade(work, children)
        times = []
        for _ in range(30):
            started = time.perf_counter()
            grade(work, children)
            times.append(time.perf_counter() - started)
        server, worker = _memory_MiB(), children.most_MiB()
    return [
        Result("grade.overhead_s", statistics.median(times), "s"),
        Result("grade.server_MiB", server, "MiB"),
        Result("grade.worker_MiB", worker, "MiB"),
    ]


def workers() -> list[Result]:
    """Eight submissions with about two seconds of compute each, by one worker and by two."""
    with tempfile.TemporaryDirectory() as folder, Children() as children:
        site = course_site(Path(folder), LAB.replace("import math", COMPUTE.strip()), students=8)
        seconds: dict[int, list[float]] = {}
        for count in (1, 2, 1, 2):
            with Queue(site.course) as queue:
                grader = functools.partial(grade, children=children)
                batch = Batch(site.course, queue, grader, assignment=LAB_ID, workers=count)
                batch.ask(LAB_ID, batch.lab(LAB_ID).students(), by="bench", reason="bench", again=True)
                started = time.perf_counter()
                batch.run()
                seconds.setdefault(count, []).append(time.perf_counter() - started)
    one, two = (statistics.median(seconds[count]) for count in (1, 2))
    return [Result("grade.workers_2", 8 / two, "submissions/s", "one worker", one / two)]


class _Remembering(Children):
    """Knows the sandboxes of the submission that was graded last."""

    started: Sequence[Child] = ()

    def start_together(
        self, limits: Limits, wanted: Sequence[tuple[str, Sequence[socket.socket]]]
    ) -> list[Child]:
        self.started = started = super().start_together(limits, wanted)
        return started

    def most_MiB(self) -> float:  # noqa: N802 - units keep their case
        """What the kernel counted for each at its most: all that they did not share with the server. They ended."""
        return sum(child.ending().memory_peak_bytes for child in self.started) / 2**20


def _memory_MiB() -> float:  # noqa: N802 - units keep their case
    """The proportional share of memory of the fork server and its sandbox."""
    below = psutil.Process().children(recursive=True)
    return sum(process.memory_full_info().pss for process in below) / 2**20


def course_site(folder: Path, lab: str = LIGHT_LAB, students: int = STUDENTS) -> Site:
    """A course with submissions that earn all."""
    site = Site(folder / "site")
    write_lab(site.root, lab)
    release_all(site)
    released = site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb"
    for number in range(students):
        Submission(released).honest().submit(site.course, f"student{number:02}")
    return site


def _stock_s(site: Site, folder: Path) -> float:
    """The same submissions by nbgrader as it comes."""
    for name in ("source", "release", "submitted"):
        shutil.copytree(site.course / name, folder / name)
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "none"),
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # nbgrader calls alembic
    }
    _run([_program("nbgrader"), "generate_assignment", LAB_ID, "--force"], env, folder)
    started = time.perf_counter()
    _run([_program("nbgrader"), "autograde", LAB_ID], env, folder)
    seconds = time.perf_counter() - started
    graded = json.loads((folder / "autograded" / "student00" / LAB_ID / f"{LAB_ID}.ipynb").read_text())
    assert graded["cells"]
    assert len(list((folder / "autograded").iterdir())) == STUDENTS
    return seconds


def _otter_per_s(site: Site, folder: Path) -> float | None:
    """Submissions per second of `otter run`; None where the environment names no otter."""
    otter = os.environ.get("DISTLAB_OTTER")
    if not otter:
        return None
    tests = folder / "tests"
    tests.mkdir(parents=True)
    for name, (points, says) in OTTER_TESTS.items():
        (tests / f"{name}.py").write_text(OTTER_TEST.format(name=name, points=points, says=says))
    env = {**os.environ, "PATH": f"{Path(otter).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    _run([otter, "generate", "-t", "tests", "-o", "autograder.zip"], env, folder)

    def grade_one(student: str) -> None:
        notebook = site.course / "submitted" / student / LAB_ID / f"{LAB_ID}.ipynb"
        out = folder / student
        out.mkdir()
        shutil.copy(notebook, out)
        command = [otter, "run", "--no-logo", "-a", str(folder / "autograder.zip"), "-o", ".", notebook.name]
        _run(command, env, out)
        results = json.loads((out / "results.json").read_text())["tests"]
        assert sum(test.get("score", 0) for test in results) == sum(
            points for points, _ in OTTER_TESTS.values()
        )

    started = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(grade_one, [f"student{number:02}" for number in range(OTTER_STUDENTS)]))
    return OTTER_STUDENTS / (time.perf_counter() - started)


def _program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _run(command: list[str], env: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
