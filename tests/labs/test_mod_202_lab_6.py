"""MOD-202 Lab 6: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

from collections.abc import Callable

from tests.labs.conftest import Ran

LAB = "mod-202-lab-6"


def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=240)
    assert "crossover: model" in ran.said["race"]
    assert (
        "recorded: 4 network namespaces" in ran.said["shaped"]
        or "measured here: 4 network" in ran.said["shaped"]
    )
    assert "bucket_factor" in ran.said["comparison"]
    assert ran.said["nccl-show"].split("\n")[:2] == ["rank 1: host memory", "rank 3: card"]
    assert "you: [[2, '2', 3]]" in ran.said["hang"]
    assert "Rank 1 waited itself, in group" in ran.said["hang"], (
        "a group by itself blames a rank that waits in another"
    )
