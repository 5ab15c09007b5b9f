"""Module 14 Lab 1: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.labs.conftest import Ran

LAB = "mod-14-lab-1"


@pytest.mark.timeout(900)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=280)
    assert "fsdp_over_ddp: you predicted" in ran.said["measure"]
    assert "same bits as the undisturbed run: True" in ran.said["kill-drill"]
    assert "ZeRO-3" in ran.said["zero3"] or "Not run" in ran.said["zero3"]
