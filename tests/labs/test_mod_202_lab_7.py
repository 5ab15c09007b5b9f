"""The practical's core: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.labs.conftest import Ran

LAB = "mod-202-lab-7"


@pytest.mark.timeout(900)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=240)
    assert "fp32" in ran.said["plan-visible"] or "moments" in ran.said["plan-visible"]
    events = re.findall(r"rank (\d) ended at event (\d+)(.*): loads (\w+)", ran.said["checkpoint-visible"])
    assert {rank for rank, *_ in events} == {"0", "1"}
    assert any("in the middle of the write" in how for _, _, how, _ in events)
    assert {loaded for *_, loaded in events} == {"9"}, (
        "the mark's rename is the last event: cut before it, 9 is newest"
    )
    assert re.search(r"decisions: \[\[[\d.]+, 'shrink', 2\]\]", ran.said["run-visible"])
    assert {"three_ms", "two_ms", "rank_bytes"} <= set(ran.said["measured"].split())
