"""MOD-202 Lab 4: the notebook with the model answers, in a kernel, as a learner runs it; the jobs that it draws."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from benchmarks.optimise import LAB as SOURCE
from benchmarks.optimise import gains_of, lab_cells, one_seed_for_each
from distlab.course.grade.work import BASELINE
from tests.labs.conftest import Ran

ROOT = Path(__file__).parents[2]
LAB = "mod-202-lab-4"


def test_the_model_answer_earns_all_in_a_kernel(tmp_path: Path, run_lab: Callable[..., Ran]) -> None:
    # In a learner's kernel there is no baseline; the tests that need one run in the grader's check of this lab.
    ran = run_lab(LAB, cell_timeout_s=300, without=f"{BASELINE}.")
    assert "measured" in ran.said["comparison"]
    for page in ("before/dossier.html", "after/dossier.html", "after/comparison.html"):
        assert "torch 2." in (tmp_path / page).read_text(), "a dossier names the machine and the versions"


@pytest.fixture(scope="module")
def cells() -> Iterator[dict[str, Any]]:
    cells = lab_cells(SOURCE)
    yield cells
    for pool in cells["POOLS"].values():
        pool.close()


def test_a_seed_draws_three_defects_beside_the_two_of_all(cells: dict[str, Any]) -> None:
    drawn = [tuple(cells["defects_of"](seed)) for seed in one_seed_for_each(cells["defects_of"])]
    others = set(cells["DEFECTS"]) - {"loader", "messages"}
    assert sorted(drawn) == sorted(
        tuple(sorted(("loader", "messages", *three))) for three in combinations(sorted(others), 3)
    )


def test_every_job_learns_the_same_with_any_remedy(cells: dict[str, Any]) -> None:
    small = {"steps": 2, "global_batch": 64, "width": 32, "layers": 3}
    for seed in one_seed_for_each(cells["defects_of"]):
        job = gains_of(cells, seed, small, turns=1)  # raises where a remedy changes what is learned
        assert set(job["gains"]) == set(cells["defects_of"](seed))


def test_the_recorded_run_is_twice_as_fast_and_no_remedy_alone_is() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    ratios = {row["name"]: row["ratio"] for row in rows if row["peer"] == "the slow job"}
    assert ratios["optimise.all_remedies.least"] < 0.5
    assert ratios["optimise.best_remedy_alone"] > 0.5
