"""The contract survives its journey as JSON, and refuses what is not of its form."""

from __future__ import annotations

import json

import pytest

from distlab.course.grade.work import Cell, Graded, Kind, Limits, Result, Shown, Verdict, Work

WORK = Work(
    lab="mod-1-lab-1",
    cells=(Cell("x = 1"), Cell("assert x", "x-hidden", Kind.HIDDEN, 2.0), Cell("time(x)", measure=True)),
    names=("x",),
    files={"data.txt": "aGk="},
    limits=Limits(cell_s=5.0),
)
RESULT = Result(
    "mod-1-lab-1",
    Verdict.FAILED,
    "",
    (Graded("a", Verdict.PASSED, 2.0, 2.0), Graded("b", Verdict.PARTIAL, 0.5, 3.0, "half")),
    (Shown(({"output_type": "stream", "name": "stdout", "text": "hi"},), 1), Shown()),
    {"seed": 0},
)


def test_work_travels_as_json() -> None:
    assert Work.from_json(json.loads(json.dumps(WORK.to_json()))) == WORK


def test_result_travels_as_json_with_its_sums() -> None:
    raw = json.loads(json.dumps(RESULT.to_json()))
    assert (raw["points"], raw["max_points"]) == (2.5, 5.0)
    assert Result.from_json(raw) == RESULT


@pytest.mark.parametrize("change", [{"cells": [{"source": "", "kind": "odd"}]}, {"limits": {"cell_h": 1}}])
def test_other_forms_are_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Work.from_json({**WORK.to_json(), **change})
