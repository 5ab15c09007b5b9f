"""A save that is killed at a random point leaves a checkpoint that is whole, and the next save works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.train.checkpoint.cutting import SCENARIOS

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.timeout(300)
def test_a_kill_at_any_point_of_a_save_costs_at_most_that_save(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.train.checkpoint.cutting", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    cuts = [json.loads(line) for line in run.stdout.splitlines()]
    assert Counter(c["scenario"] for c in cuts) == {s.name: s.cuts for s in SCENARIOS}
    assert len(cuts) >= 50
    # The cuts reach all stages of a save: files, the mark, the removal of what is old.
    assert {c["call"] for c in cuts} >= {"open", "write", "fsync", "replace", "remove"}
    assert {c["found"] for c in cuts} == {2, 3}
    assert {c["victim"] for c in cuts} == {0, 1}
