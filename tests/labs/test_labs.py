"""Every lab: the model answer passes the grader, starter and nonsense earn nothing, each wrong answer fails.

Times are for the deep check, on a machine that does nothing else; its report is held to today's lab here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from distlab.course.bank import WrongAnswer, check_bank, wrong_answers
from distlab.course.check_lab import (
    MODEL_S,
    NONSENSE,
    WRONG_S,
    check_model,
    check_nonsense,
    check_starter,
    check_wrong,
)
from distlab.course.deep import DEEP_SEEDS
from distlab.course.grade.children import Children
from distlab.course.grade.labwork import lab_work
from distlab.course.labsource import read_lab
from distlab.course.proved import inputs_digest, report_path
from distlab.course.release import lab_ids, source_path
from distlab.course.sandbox import availability
from distlab.course.survivors import LEAST_KILLED, read_explanations

ROOT = Path(__file__).parents[2]
LABS = lab_ids(ROOT)
WRONG = [(lab, answer) for lab in LABS for answer in wrong_answers(ROOT, lab)]

NOT_YET = json.loads((ROOT / "benchmarks" / "deep" / "not_yet.json").read_bytes())
"""Labs whose deep check has still to be run."""

needs_sandboxes = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


@pytest.mark.parametrize("lab", LABS)
def test_points_add_up(lab: str) -> None:
    cells = read_lab(source_path(ROOT, lab)).cells
    points = [cell.metadata.get("nbgrader", {}).get("points", 0) for cell in cells]
    assert sum(points) == 100


@pytest.mark.parametrize("lab", LABS)
def test_the_bank_of_wrong_answers(lab: str) -> None:
    assert check_bank(wrong_answers(ROOT, lab), lab_work(ROOT, lab)) == []


@needs_sandboxes
@pytest.mark.parametrize("lab", LABS)
def test_the_model_answer_passes(lab: str, children: Children) -> None:
    assert check_model(lab_work(ROOT, lab, display=False), 0, children).problem == ""


@needs_sandboxes
@pytest.mark.parametrize("lab", LABS)
def test_the_untouched_starter_earns_nothing(lab: str, children: Children) -> None:
    assert check_starter(ROOT, lab, children).problem == ""


@needs_sandboxes
@pytest.mark.parametrize("kind", NONSENSE)
@pytest.mark.parametrize("lab", LABS)
def test_nonsense_earns_nothing(lab: str, kind: str, children: Children) -> None:
    assert check_nonsense(lab_work(ROOT, lab, display=False), kind, children).problem == ""


@needs_sandboxes
@pytest.mark.parametrize(("lab", "answer"), WRONG, ids=[f"{lab}-{answer.name}" for lab, answer in WRONG])
def test_a_wrong_answer_fails(lab: str, answer: WrongAnswer, children: Children) -> None:
    assert check_wrong(lab_work(ROOT, lab, display=False), answer, children).problem == ""


@pytest.mark.parametrize("reported", LABS)  # no `lab`: it runs each time, and no other test reads reports
def test_the_deep_check_was_of_todays_lab(reported: str) -> None:
    """Twenty seeds, the times, and the mutants: `make deep` runs them for hours and commits what came of it."""
    path = report_path(ROOT, reported)
    if reported in NOT_YET:
        assert not path.exists(), f"{reported} has a report: take it off not_yet.json"
        pytest.skip(f"{reported} was never checked deeply: run `make deep` on a machine that does nothing else")
    assert path.exists(), f"{reported} has no report: run `make deep` on a machine that does nothing else"
    report = json.loads(path.read_bytes())
    assert report["inputs"] == inputs_digest(ROOT, reported), f"{reported} has changed since: run `make deep`"
    assert report["share"] >= LEAST_KILLED
    assert report["killed"] + len(report["explained"]) + len(report["unexplained"]) == report["mutants"] > 0
    lived = {*report["explained"], *report["unexplained"]}
    explained = set(read_explanations(ROOT, reported))
    assert set(report["explained"]) == lived & explained, f"{reported}: explanations have changed: run `make deep`"
    seconds = report["seconds"]
    model = [seconds[f"model answer, seed {seed}"] for seed in range(DEEP_SEEDS)]
    assert max(model) <= MODEL_S
    assert max(seconds[f"wrong/{answer.name}"] for answer in wrong_answers(ROOT, reported)) <= WRONG_S
