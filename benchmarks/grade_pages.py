"""A batch of 1,000 submissions: do the last cost more than the first? And formgrader's page of them, in Chromium."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.grade import course_site
from benchmarks.results import Result
from distlab.course.grade import work as grading
from distlab.course.grade.batch import Batch
from distlab.course.grade.collected import Lab
from distlab.course.grade.queue import Queue
from distlab.course.site import Site
from distlab.machine import free_port
from tests.course.grading_rig import instructor_env
from tests.course.small_lab import LAB_ID
from tests.site.browser import CHROMIUM_FLAGS

STUDENTS = 1000
PART = 100
"""Submissions at either end of the batch that are timed."""
REPEATS = 5
TOKEN = "benchmark"
READY = """() => new Promise(done => {
    const look = () => typeof models != "undefined" && models && models.loaded
        ? requestAnimationFrame(() => setTimeout(() => done(document.querySelectorAll("#main-table tr").length)))
        : setTimeout(look, 5);
    look();
})"""
"""The number of rows, once nbgrader's script has filled and sorted the table and it was painted."""


def formgrader() -> list[Result]:
    """The page's loading time, the median of those after the first, which starts what the server starts once.

    And the seconds for each of the first and of the last submissions, when all others are in the queue and the
    gradebook: of the coordinator's work alone, as nothing is run.
    """
    with tempfile.TemporaryDirectory() as folder:
        site = course_site(Path(folder), students=STUDENTS)
        students = Lab(site.course, LAB_ID).students()
        _graded_s(site, students[:1])  # what is done once
        first_s = _graded_s(site, students[1 : 1 + PART])
        _graded_s(site, students[1 + PART : -PART])
        last_s = _graded_s(site, students[-PART:])
        with _server(site, Path(folder)) as url, sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
                args=CHROMIUM_FLAGS,
            )
            page = chromium.new_page()
            page.goto(f"{url}/formgrader/manage_assignments?token={TOKEN}")
            seconds = [
                _load_s(page, f"{url}/formgrader/manage_submissions/{LAB_ID}") for _ in range(REPEATS + 1)
            ]
            chromium.close()
    return [
        Result("grade.formgrader_1000_s", statistics.median(seconds[1:]), "s"),
        Result("grade.first_of_1000_s", first_s, "s/submission"),
        Result("grade.last_of_1000_s", last_s, "s/submission", "grade.first_of_1000_s", last_s / first_s),
    ]


def _graded_s(site: Site, students: Sequence[str]) -> float:
    """Seconds for each, from the request until the marks of all are in the gradebook."""
    started = time.perf_counter()
    with Queue(site.course) as queue:
        batch = Batch(site.course, queue, _all_points, assignment=LAB_ID, workers=2)
        batch.ask(LAB_ID, students, by="bench", reason="bench")
        batch.run()
    return (time.perf_counter() - started) / len(students)


def _all_points(work: grading.Work) -> grading.Result:
    """Runs nothing: what the page shows is all that matters here."""
    tests = [cell for cell in work.cells if cell.is_test]
    cells = tuple(
        grading.Graded(cell.grade_id, grading.Verdict.PASSED, cell.points, cell.points) for cell in tests
    )
    return grading.Result(work.lab, grading.Verdict.PASSED, "", cells)


def _load_s(page: Page, address: str) -> float:
    """Seconds from the navigation until the table holds all submissions and was painted."""
    page.goto("about:blank")
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    rows = page.evaluate(READY)
    seconds = time.perf_counter() - started
    assert rows == STUDENTS, f"{rows} rows"
    return seconds


@contextmanager
def _server(site: Site, folder: Path) -> Iterator[str]:
    """An instructor's Jupyter server on a port of its own; its address."""
    env, port = instructor_env(site, folder / "home"), free_port()
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={TOKEN}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("jupyter"), "server", *options, "--allow-root", "--no-browser"],
            env=env,
            cwd=env["HOME"],
            stdout=log,
            stderr=log,
        )
    try:
        while "is running at" not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
