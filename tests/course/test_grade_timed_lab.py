"""A timed lab in real sandboxes: who is faster passes, and no trick makes anybody look so.

Where a function is faster, it is by a factor of about a hundred, and where it is not, by none: what other programs take
of the machine meanwhile hits both sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.course.grade.child import Child
from distlab.course.grade.children import Children
from distlab.course.grade.collected import Lab
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import lab_work
from distlab.course.grade.runner import BadRequest, parse_work
from distlab.course.grade.work import Graded, Limits, Verdict, Work
from distlab.course.release import release_all
from distlab.course.sandbox import availability
from distlab.course.site import Site
from tests.course.children_rig import is_gone, processor_ticks
from tests.course.small_lab import HEADER, LAB_ID, Submission, write_lab

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

SLOW = "[sum(i * i for i in range(n)) for n in numbers]"
SAME = f"def sums(numbers):\n    return {SLOW}\n"
FAST = "def sums(numbers):\n    return [n * (n - 1) * (2 * n - 1) // 6 for n in numbers]\n"
LAB = (
    HEADER.replace("kernelspec:", "distlab: {names: [sums], timed: true}\nkernelspec:")
    + f"""```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "given", "locked": true}}

def slow_sums(numbers):
    return {SLOW}
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "sums", "solution": true}}

### BEGIN SOLUTION
{FAST}### END SOLUTION
```

```{{code-cell}} ipython3
:nbgrader: {{"grade_id": "sums-hidden", "grade": true, "points": 3}}

### BEGIN HIDDEN TESTS
import random as _random

from distlab.course.grade.timing import speedup as _speedup

_inputs = [([_random.randrange(20_000, 40_000) for _ in range(60)],) for _ in range(8)]
assert _speedup(sums, baseline.slow_sums, _inputs) >= 3, "sums is not three times as fast, or gives something else"
### END HIDDEN TESTS
```
"""
)
BURNERS = """
import os, signal
burners = []
for _ in range(4):
    if (pid := os.fork()) == 0:
        while True:
            sum(range(1000))
    burners.append(pid)
"""

HONEST = {
    "the model answer": "",
    "faster, with names that the course has, too": "baseline, slow_sums, speedup = 1, None, 2\n" + FAST,
}
CHEATS = {
    "the given function": "sums = slow_sums",
    "wrong and fast": "def sums(numbers):\n    return [0] * len(numbers)",
    "a baseline that sleeps": SAME
    + """
import builtins, time
fast_sum = sum
def slow_sums(numbers):
    time.sleep(1)
def slow_range(*given):
    time.sleep(0.001)
    return range(*given)
builtins.slow_sums, builtins.baseline = slow_sums, slow_sums
try:
    import distlab.course.grade.timing as timing
    timing.speedup = timing.close = lambda *given: 100
except ImportError:
    pass
""",
    "results that are kept": f"""
kept = {{}}
def sums(numbers):
    key = tuple(numbers)
    if key not in kept:
        kept[key] = {SLOW}
    return kept[key]
""",
    "work that is left for later": f"""
class Later(list):
    def __iter__(self):
        return iter({SLOW.replace("numbers", "self.numbers")})
    __eq__ = lambda self, other: True
    def __len__(self):
        return len(self.numbers)
def sums(numbers):
    later = Later()
    later.numbers = numbers
    return later
""",
    "an object that stays": f"""
def sums(numbers):
    return (value for value in {SLOW.replace("[", "(").replace("]", ")")})
""",
    "a clock that lies": SAME
    + """
import time
time.perf_counter = time.monotonic = time.time = lambda: 0.0
""",
    "a machine that is busy while the baseline runs": BURNERS
    + f"""
def sums(numbers):
    for pid in burners:
        os.kill(pid, signal.SIGSTOP)
    try:
        return {SLOW}
    finally:
        for pid in burners:
            os.kill(pid, signal.SIGCONT)
""",
}


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Work:
    root = tmp_path_factory.mktemp("lab")
    write_lab(root, LAB)
    return lab_work(root, LAB_ID, display=False)


def submitted(model: Work, answer: str) -> Work:
    cells = [replace(cell, source=answer) if cell.grade_id == "sums" else cell for cell in model.cells]
    return replace(model, cells=tuple(cells)) if answer else model


def graded(work: Work, children: Children) -> Graded:
    (cell,) = grade(work, children).cells
    return cell


@pytest.mark.parametrize("kind", HONEST)
def test_who_is_faster_passes(kind: str, model: Work, children: Children) -> None:
    cell = graded(submitted(model, HONEST[kind]), children)
    assert (cell.verdict, cell.points, cell.message) == (Verdict.PASSED, 3.0, "")


@pytest.mark.parametrize("kind", CHEATS)
def test_who_is_not_earns_nothing(kind: str, model: Work, children: Children) -> None:
    cell = graded(submitted(model, CHEATS[kind]), children)
    assert cell.points == 0.0
    assert cell.message == "sums is not three times as fast, or gives something else"
    assert cell.verdict == Verdict.FAILED


def test_nothing_of_the_learners_runs_while_the_baseline_does(
    model: Work, children: Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Child.freeze
    frozen_at: dict[int, list[str]] = {}
    turns: list[bool] = []

    def freeze(child: Child, frozen: bool) -> bool:
        if not frozen:
            assert len(frozen_at) > 4, "the burners, and what runs them"
            turns.append(processor_ticks(child.group) == frozen_at)
        done = really(child, frozen)
        if frozen:
            frozen_at.clear()
            frozen_at.update(processor_ticks(child.group))
        return done

    monkeypatch.setattr(Child, "freeze", freeze)
    graded(submitted(model, BURNERS + FAST), children)  # its own work is in its own way: it may be slow
    assert turns == [True] * 8, "as many ticks of each process after the baseline's turn as before"


def test_a_submission_to_the_released_lab_is_measured_by_the_same_baseline(
    tmp_path: Path, model: Work
) -> None:
    site = Site(tmp_path)
    write_lab(site.root, LAB)
    release_all(site)
    submission = Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb")
    submission.answer("given", "def slow_sums(numbers):\n    import time\n    time.sleep(1)").answer(
        "sums", FAST
    )
    submission.submit(site.course, "ann")
    lab = Lab(site.course, LAB_ID)
    assert lab.timed
    assert (
        lab.collect("ann").work.baseline == model.baseline == (f"def slow_sums(numbers):\n    return {SLOW}",)
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_child_ends_like_any(frozen: bool, children: Children) -> None:
    child = children.start("session", Limits())
    assert child.freeze(frozen)
    child.kill()
    assert is_gone(child)
    assert child.freeze(True), "what has ended does nothing"


def test_a_group_that_cannot_be_frozen_goes_on(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    child = children.start("session", Limits())
    asked = []

    def freeze(_: object, frozen: bool) -> None:
        asked.append(frozen)
        raise TimeoutError("still freezing")

    with monkeypatch.context() as patch:
        patch.setattr(type(child.group), "freeze", freeze)
        patch.setattr("distlab.course.grade.child.REPORT_S", 0.0)
        assert not child.freeze(True)
    assert asked == [True, False]
    child.kill()
    assert is_gone(child)


def test_the_service_takes_the_baseline_as_text_alone(model: Work) -> None:
    raw = json.dumps(model.to_json())
    assert parse_work(raw.encode(), Limits()).baseline == (f"def slow_sums(numbers):\n    return {SLOW}",)
    with pytest.raises(BadRequest, match="the cells of the baseline must be text"):
        parse_work(json.dumps({**model.to_json(), "baseline": [1]}).encode(), Limits())
