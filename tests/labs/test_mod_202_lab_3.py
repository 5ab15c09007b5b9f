"""MOD-202 Lab 3: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.labs.conftest import Ran

LAB = "mod-202-lab-3"


@pytest.mark.timeout(900)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(tmp_path: Path, run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=400)
    verdicts = [line.split("your verdict: ")[1] for line in ran.said["consistency"].splitlines()[:3]]
    assert verdicts == ["all ranks agree", "{'weights': [0, 1]}", "{'random': [0, 1]}"]
    assert "in worlds [2]: ['same bits', None]" in ran.said["drill"]
    assert "in worlds [2, 1]: ['equal to rounding', None]" in ran.said["drill-without-dropout"]
    assert "whole run killed and supervised: exit code 0" in ran.said["both-ways"]
    assert "agent_s: you predicted" in ran.said["both-ways"]
    assert "live, a worker killed" in ran.said["ray"] or "Not run: Ray" in ran.said["ray"]
    committed = json.loads((tmp_path / "predictions.json").read_text())
    assert committed["mean_lost_steps"] == 2
