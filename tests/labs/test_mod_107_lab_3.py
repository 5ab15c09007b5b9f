"""MOD-107 Lab 3: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

from collections.abc import Callable

from tests.labs.conftest import Ran

LAB = "mod-107-lab-3"


def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=120)
    assert any("image/png" in output.get("data", {}) for output in ran.outputs["figure"])
    assert "measured" in ran.said["comparison"]
