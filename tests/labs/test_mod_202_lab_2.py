"""MOD-202 Lab 2: the notebook with the model answers, in a kernel, as a learner runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from distlab.faults.network import missing_rights
from tests.labs.conftest import Ran

LAB = "mod-202-lab-2"


@pytest.mark.timeout(1800)  # on a machine that has other work, too
def test_the_model_answer_earns_all_in_a_kernel(tmp_path: Path, run_lab: Callable[..., Ran]) -> None:
    ran = run_lab(LAB, cell_timeout_s=800)
    assert "fsdp_over_ddp: you predicted" in ran.said["shootout"]
    assert "same training as DDP: False" not in ran.said["shootout"]
    assert "between two hosts, recorded: 2 network namespaces of one machine" in ran.said["two-hosts"]
    assert "all-gather 0.50, reduce-scatter 1.00" in ran.said["two-hosts"]
    assert "recorded: 8 network namespaces of one machine" in ran.said["two-hosts"]
    assert ("live, two hosts" in ran.said["two-hosts"]) is (missing_rights() is None)
    report = (tmp_path / "report.html").read_text()
    assert report.count("Equal work: every loss within") == 2
    assert "DDP with its default bucket" in report, "the recommendations"
    assert not [
        name for name in tmp_path.iterdir() if name.name not in ("runs", "predictions.json", "report.html")
    ]
