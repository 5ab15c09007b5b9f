"""What people wait for: the second start of the site, a lab that opens, a class that logs in at once."""

from __future__ import annotations

import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.results import Result
from distlab.course.site import Site
from tests.site.client import Learner, localhost_names
from tests.site.running import distlab, fresh_site, running

LAB = "mod-107-lab-3"
LEARNERS = 20


def second_up() -> list[Result]:
    """`up --detach` again with nothing changed: while the site runs, and after it was stopped."""
    with tempfile.TemporaryDirectory() as folder:
        site = fresh_site(Path(folder))
        with running(site):
            while_running = _timed_up(site)
            distlab(site, "course", "down")
            after_down = _timed_up(site)
    return [
        Result("site.second_up.running", while_running, "s"),
        Result("site.second_up.stopped", after_down, "s"),
    ]


def _timed_up(site: Site) -> float:
    start = time.perf_counter()
    up = distlab(site, "course", "up", "--detach")
    assert up.returncode == 0, up.stderr
    return time.perf_counter() - start


def open_lab() -> list[Result]:
    """From the click on *Open the lab* to the first executed cell, in Chromium; median of five."""
    from tests.site.browser import Browser

    times = []
    with tempfile.TemporaryDirectory() as folder, running(fresh_site(Path(folder))) as site:
        code = (site.secrets / "enrolment-code").read_text().strip()
        with Browser(site) as browser:
            for number in range(5):
                person = browser.person(f"reader{number}")
                person.sign_up(code)
                person.log_in()
                person.visit("/hub/book/mod-107/lab-3.html")
                start = time.perf_counter()
                person.open_lab()
                person.run_first_cell()
                times.append(time.perf_counter() - start)
                person.leave()
    return [Result("site.open_lab", statistics.median(times), "s")]


def twenty_learners() -> list[Result]:
    """Twenty learners at once, without browsers (they would share the cores): log in to first cell run."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running(fresh_site(Path(folder))) as site,
        localhost_names(),
    ):
        code = (site.secrets / "enrolment-code").read_text().strip()
        learners = [Learner(site, f"learner{number}") for number in range(LEARNERS)]
        for learner in learners:
            learner.sign_up(code)
        free_before = psutil.virtual_memory().available
        with ThreadPoolExecutor(LEARNERS) as pool:
            outcomes = list(pool.map(_first_cell, learners))
        each_bytes = (free_before - psutil.virtual_memory().available) / LEARNERS
    failures = Result("site.learners.failures", outcomes.count(None), f"of {LEARNERS}")
    times = [seconds for seconds in outcomes if seconds is not None]
    if len(times) < 2:
        return [failures]
    return [
        failures,
        Result("site.learners.p50", statistics.median(times), "s"),
        Result("site.learners.p95", statistics.quantiles(times, n=20, method="inclusive")[-1], "s"),
        Result("site.learners.memory_each", each_bytes / 2**20, "MiB"),
    ]


def _first_cell(learner: Learner) -> float | None:
    """Seconds from the login form to a cell's output; None where it failed."""
    start = time.perf_counter()
    try:
        learner.log_in()
        learner.open_lab(LAB, timeout_s=300)
        if learner.execute(learner.kernel(), "print(6 * 7)", timeout_s=300).strip() != "42":
            return None
    except Exception as error:
        print(f"{learner.name}: {error}")
        return None
    return time.perf_counter() - start
