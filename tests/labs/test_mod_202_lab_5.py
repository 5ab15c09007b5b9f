"""MOD-202 Lab 5: the notebook with the model answers, in a kernel, as a learner runs it; what Ray leaves is nothing."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable

import pytest

from tests.labs.conftest import Ran

LAB = "mod-202-lab-5"


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'distlab[frameworks]'",
)
@pytest.mark.timeout(1200)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=900)
    spent = dict(re.findall(r"^(\w+) +(\d+) steps in", ran.said["ray"], re.MULTILINE))
    assert spent == {"random": "1280", "asha": "1280", "pbt": "1280"}, ran.said["ray"]
    assert any("image/png" in out.get("data", {}) for out in ran.outputs["figure"])
    assert ran.said["compare"].count("under fresh seeds") == 4
    measured = {
        name: float(value)
        for name, _, value in re.findall(r"^(\w+) +(\S+) +(\S+)$", ran.said["measured"], re.MULTILINE)
    }
    assert (measured["halving_trials"], measured["idle_share"]) == (27, 0.375)
    assert measured["winner_share"] == 0.125
