"""MOD-202 Lab 1: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import pytest

from tests.labs.conftest import Ran

LAB = "mod-202-lab-1"


@pytest.mark.timeout(1200)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=900)
    if importlib.util.find_spec("ray") is None:
        assert "Ray is not installed" in ran.said["live"]
    elif "recorded on another machine" in ran.said["live"]:
        assert "GiB of memory" in ran.said["live"], "nothing else keeps it from running here"
    assert "lost_steps     you predicted    2.0, measured" in ran.said["compare-loss"]
    assert "nodes_gone_s   you predicted" in ran.said["compare-nodes"]
    assert "efficiency" in ran.said["measure-scaling"]
