"""Kill processes in the middle of a save, again and again, and see what is left.

    python -m tests.train.checkpoint.cutting FOLDER

Torch is imported once; each victim is a fork. A victim counts its calls that change files and is killed by
SIGKILL at one of them, half-way through its bytes if it writes. The cuts are drawn from a seed, and one thread
writes, so that each run makes the same ones. Prints one JSON object per cut.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # DTensor wants it: once here, not in each fork
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from distlab.train.checkpoint import Checkpoints, storage
from distlab.train.checkpoint.folder import Folder
from tests.train.checkpoint.states import blank_like, equal, leftovers, make_state

CALLS = ("open", "write", "fsync", "replace", "unlink", "remove", "mkdir", "rmdir")
PATIENCE_S = 60


@dataclasses.dataclass(frozen=True)
class Scenario:
    """How checkpoints are saved while they are cut, and how often."""

    name: str
    options: dict[str, Any]
    ranks: int
    cuts: int


SCENARIOS = [
    Scenario("sharded", {"keep": 1}, 1, 20),
    Scenario("incremental in the background", {"incremental": True, "asynchronous": True, "keep": 2}, 1, 20),
    Scenario("full", {"kind": "full", "keep": 1}, 1, 12),
    Scenario("sharded by two ranks", {"incremental": True, "keep": 1}, 2, 24),
]


class Knife:
    """Counts calls that change files; at call number `at`, the process dies."""

    def __init__(self, at: int | None, fraction: float) -> None:
        self.at = at
        self.fraction = fraction
        self.calls: list[str] = []
        self._lock = threading.Lock()

    def start(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counting(name, getattr(os, name)))

    def _counting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                if len(self.calls) == self.at:
                    if name == "write":
                        descriptor, content = args
                        real(descriptor, content[: int(len(content) * self.fraction)])
                    report(name)
                    os.kill(os.getpid(), signal.SIGKILL)
                self.calls.append(name)
            return real(*args, **kwargs)

        return call


real_write = os.write
report_to = -1


def report(text: str) -> None:
    real_write(report_to, text.encode())


def save(folder: Path, scenario: Scenario, step: int, rank: int, knife: Knife | None) -> None:
    """One rank's save; with two ranks, the matrix is cut in two."""
    state = make_state(step)
    if scenario.ranks > 1:
        store = dist.FileStore(str(folder.with_suffix(".store")), scenario.ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=scenario.ranks)
        mesh = init_device_mesh("cpu", (scenario.ranks,))
        half = state["model"]["matrix"].chunk(scenario.ranks)[rank]
        state["model"]["matrix"] = DTensor.from_local(half, mesh, [Shard(0)])
    checkpoints = Checkpoints(folder, **scenario.options)
    if scenario.ranks > 1:
        dist.barrier()
    if knife:
        knife.start()
    checkpoints.save(step, state, {"loss": 1.0 / step})
    checkpoints.wait()


def fork_ranks(
    folder: Path, scenario: Scenario, step: int, victim: int, at: int | None, fraction: float
) -> str:
    """Save with one process per rank. Returns what the victim said: the calls it made, or where it died."""
    global report_to
    reading, report_to = os.pipe()
    folder.with_suffix(".store").unlink(missing_ok=True)
    children = []
    for rank in range(scenario.ranks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            knife = Knife(at, fraction) if rank == victim else None
            save(folder, scenario, step, rank, knife)
            if knife:
                report(",".join(knife.calls))
            code = 0
        except Exception:
            if at is None:  # else the other rank is expected to fail
                traceback.print_exc()
        finally:
            os._exit(code)
    os.close(report_to)
    await_all(children)
    with open(reading, "rb") as said:
        return said.read().decode()


def await_all(children: list[int]) -> None:
    """A rank must not outlive the other for long; one that hangs is a fault of the checkpoints."""
    deadline = time.monotonic() + PATIENCE_S
    for child in children:
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                for each in children:
                    os.kill(each, signal.SIGKILL)
                raise TimeoutError("A rank still waits for the one that was killed.")
            time.sleep(0.002)


def assert_holds(folder: Path, options: dict[str, Any], allowed: tuple[int, ...]) -> int:
    """The last checkpoint is of an allowed step, and bit for bit what was saved. Returns the step."""
    checkpoints = Checkpoints(folder, **options)
    found = checkpoints.find("latest")
    assert found is not None, "no checkpoint is left"
    assert found.step in allowed, found
    state = blank_like(make_state(0))
    checkpoints.load(found, state)
    assert equal(state, make_state(found.step)), f"step {found.step} is not what was saved"
    return found.step


def cut(base: Path, work: Path, scenario: Scenario, victim: int, at: int, fraction: float) -> dict[str, Any]:
    """Kill the save of step 3 and look; then save step 4 and look again."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work)
    died_in = fork_ranks(work, scenario, 3, victim, at, fraction)
    found = assert_holds(work, scenario.options, (2, 3))
    fork_ranks(work, scenario, 4, -1, None, 0)
    assert_holds(work, scenario.options, (4,))
    assert not leftovers(Folder(work)), leftovers(Folder(work))
    return {"scenario": scenario.name, "victim": victim, "call": died_in, "found": found}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    storage.THREADS = 1
    for scenario in SCENARIOS:
        base, work = root / "base", root / "work"
        shutil.rmtree(base, ignore_errors=True)
        for step in (1, 2):
            fork_ranks(base, scenario, step, -1, None, 0)
        draw = random.Random(scenario.name)
        calls = []
        for victim in range(scenario.ranks):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(base, work)
            calls.append(fork_ranks(work, scenario, 3, victim, None, 0).split(","))
        for _ in range(scenario.cuts):
            victim = draw.randrange(scenario.ranks)
            at = draw.randrange(len(calls[victim]))
            print(json.dumps(cut(base, work, scenario, victim, at, draw.random())), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
