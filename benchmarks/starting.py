"""How long a learner waits before anything runs: the import of distlab, and a function on two fresh processes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.interleaved import ratio_of, take_turns
from benchmarks.results import Result

ROUNDS = 9

FUNCTION = """
import torch, torch.distributed as dist
def add_up():
    total = torch.ones(1)
    dist.all_reduce(total)
    return total.item()
"""
SCRIPT = (
    FUNCTION
    + """
dist.init_process_group("gloo")
assert add_up() == 2
dist.destroy_process_group()
"""
)
CALL = (
    FUNCTION
    + """
from distlab.train.launch import launch
if __name__ == "__main__":
    assert launch(add_up, 2, backend="gloo") == [2, 2]
"""
)


def import_distlab() -> list[Result]:
    """`import distlab` in a fresh interpreter, by the interpreter's own account of its imports."""
    command = [sys.executable, "-X", "importtime", "-c", "import distlab"]
    times = []
    for _ in range(ROUNDS):
        report = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        [line] = [line for line in report.splitlines() if line.split("|")[-1].strip() == "distlab"]
        times.append(float(line.split("|")[1]) / 1e3)  # self | cumulative [us] | module
    return [Result("import.distlab", statistics.median(times), "ms")]


def two_ranks() -> list[Result]:
    """`launch` of a function on two ranks, from a script's start to its end, over torchrun of the same."""
    with tempfile.TemporaryDirectory() as folder:
        script, call = Path(folder, "script.py"), Path(folder, "call.py")
        script.write_text(textwrap.dedent(SCRIPT))
        call.write_text(textwrap.dedent(CALL))
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            str(script),
        ]
        ours, theirs = take_turns(
            [lambda: _seconds([sys.executable, str(call)]), lambda: _seconds(torchrun)],
            lambda times: len(times[0]) >= ROUNDS,
            least=ROUNDS,
        )
    ratio = ratio_of(ours, theirs)
    return [Result("launch.two_ranks", statistics.median(ours), "s", "torchrun", ratio.median)]


def _seconds(command: Sequence[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - started
