"""Record one job under every framework at equal work, and how Horovod sends many small gradients (on CPU).

    python -m distlab.record.shootout --out src/distlab/record/shootout.json      # some minutes

The job (`JOB`) is the same in every run: model, seed, samples of each step, optimizer, one thread a rank. So its
losses are, too, up to the order of sums; `read` gives the chapter what was recorded. The small gradients go through
Horovod with fusion, cycle time and cache of its own choosing and of others (`SETTINGS`), and through torch for
comparison. Last, one rank leaves a gradient out, and Horovod says what it then says.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distlab.bench.stamp import command
from distlab.errors import LaunchError
from distlab.record.one_file import exit_as, read_from_file, record_into_file
from distlab.train.config import TrainConfig, from_dict
from distlab.train.runs_report import WARMUP

FORMAT = "distlab shootout"
RECORDED = Path(__file__).with_suffix(".json")
"""In the package: MOD-202's Lab 2 shows it in sandboxes, which the book is not mounted in."""

JOB: dict[str, Any] = {
    "steps": 200,
    "model": {"kind": "mlp", "width": 512},
    "data": {"source": "digits", "global_batch": 256},
}
WAYS: dict[str, dict[str, Any]] = {
    "single process": {"strategy": "single", "world_size": 1},
    "DDP": {"strategy": "ddp"},
    "FSDP2": {"strategy": "fsdp"},
    "DeepSpeed, ZeRO-1": {"strategy": "deepspeed", "memory": {"zero_stage": 1}},
    "DeepSpeed, ZeRO-3": {"strategy": "deepspeed", "memory": {"zero_stage": 3}},
    "Horovod": {"strategy": "horovod"},
    "TensorFlow": {"strategy": "tensorflow"},
    "Ray Train with DDP": {"strategy": "ddp", "launcher": "ray"},
}
"""What each run changes of the job's configuration."""

TENSORS, ELEMENTS = 200, 1250
"""Small gradients: so many of so many fp32 numbers."""
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    "no fusion": {"HOROVOD_FUSION_THRESHOLD": "0"},
    "cycles of 10 ms": {"HOROVOD_CYCLE_TIME": "10"},
    "no response cache": {"HOROVOD_CACHE_CAPACITY": "0"},
}
"""Horovod's environment for each round of small gradients."""
STALL_S = 20.0
"""For which a rank stays away from a collective."""
STALL_MOST_S = 120.0
"""For which two ranks may take to start, stall, and end."""
STALLED = "submitted to be reduced|issing ranks|Stalled"
WAITED = "waited: "
VERSIONS = ("torch", "horovod", "deepspeed", "ray", "tensorflow-cpu")


@dataclass(frozen=True)
class Run:
    """The job under one framework, as rank 0 saw it."""

    losses: list[float]
    """Of each step."""
    fastest_s: float
    """Step of all that had a full batch (the last one of an epoch has not), as is the next."""
    median_s: float
    communication_s: float
    """In which the fastest step did nothing but wait for the other rank."""
    around_s: float
    """Of the whole run, what is in no step: start, import, connecting, evaluation, end."""
    weights_sum: float
    world_size: int


@dataclass(frozen=True)
class Rounds:
    """The small gradients, sent again and again."""

    first_s: float
    """The first round."""
    fastest_s: float
    """Of the later ones, as is the next."""
    median_s: float


@dataclass(frozen=True)
class Stall:
    """What became of a rank whose peer never sent a gradient."""

    warnings: list[str]
    """Lines in which Horovod complained."""
    waited_s: float
    error: str
    """With which the wait ended."""


@dataclass(frozen=True)
class Shootout:
    """The recording."""

    command: str
    versions: dict[str, str]
    load_average: float
    """Processes that wanted a core when it began, over the last minute."""
    stamp: dict[str, Any]
    """Of `distlab.bench.stamp.Stamp`, from the run with DDP."""
    runs: dict[str, Run]
    """By the names in WAYS."""
    small: dict[str, Rounds]
    """By the names in SETTINGS, and "torch, one by one" and "torch, one buffer"."""
    stall: Stall

    def __str__(self) -> str:
        s, versions = self.stamp, ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"two ranks of one thread on one machine ({s['hardware']}, {s['cores']} cores, load average "
            f"{self.load_average:.1f} as it began), {versions}, {s['date'][:10]}, {self.command}"
        )


def read(path: Path = RECORDED) -> Shootout:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of a shootout")
    runs = {name: Run(**run) for name, run in found.pop("runs").items()}
    small = {name: Rounds(**rounds) for name, rounds in found.pop("small").items()}
    return Shootout(**found | {"stall": Stall(**found["stall"])}, runs=runs, small=small)


def job(way: str) -> TrainConfig:
    """The configuration of the job under one of WAYS."""
    return from_dict({"name": "shootout", **JOB, **WAYS[way]})


def record() -> dict[str, Any]:
    """Run everything, one after the other.

    SettingError where a framework is missing, LaunchError where a rank fails.
    """
    from distlab.train.launch import launch
    from distlab.train.run import run

    os.environ["OMP_NUM_THREADS"] = "1"  # what every launcher here passes on to its ranks
    load_average = os.getloadavg()[0]
    runs: dict[str, Any] = {}
    stamp: dict[str, Any] = {}
    for way in WAYS:
        started = time.perf_counter()
        result = run(job(way))
        assert result is not None  # this process is no rank
        around_s = time.perf_counter() - started - sum(step.step_s for step in result.steps)
        full = [step for step in result.steps[WARMUP:] if step.samples == result.steps[0].samples]
        fastest = min(full, key=lambda step: step.step_s)
        runs[way] = asdict(
            Run(
                losses=[step.loss for step in result.steps],
                fastest_s=fastest.step_s,
                median_s=statistics.median(step.step_s for step in full),
                communication_s=fastest.communication_s,
                around_s=around_s,
                weights_sum=result.weights_sum,
                world_size=result.world_size,
            )
        )
        stamp = asdict(result.stamp) if way == "DDP" else stamp
        print(f"{way}: {fastest.step_s * 1e3:.1f} ms a step, {around_s:.1f} s around them", file=sys.stderr)
    small = {name: asdict(launch(with_horovod, 2, settings)[0]) for name, settings in SETTINGS.items()}
    small |= {name: asdict(rounds) for name, rounds in launch(with_torch, 2)[0].items()}
    return {
        "format": FORMAT,
        "command": command(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "load_average": load_average,
        "stamp": stamp,
        "runs": runs,
        "small": small,
        "stall": stall(),
    }


def timed(send: Callable[[], None], repeats: int = 21) -> Rounds:
    """Call `send` on all ranks together, again and again."""
    times = []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        send()
        times.append(time.perf_counter() - started)
    return Rounds(times[0], min(times[1:]), statistics.median(times[1:]))


def with_torch() -> dict[str, Rounds]:
    """The small gradients over torch's process group, on each rank."""
    gradients = [torch.ones(ELEMENTS) for _ in range(TENSORS)]

    def one_by_one() -> None:
        for gradient in gradients:
            dist.all_reduce(gradient)

    def one_buffer() -> None:
        flat = torch.cat(gradients)
        dist.all_reduce(flat)
        torch._foreach_copy_(gradients, list(torch.split(flat, ELEMENTS)))

    return {"torch, one by one": timed(one_by_one), "torch, one buffer": timed(one_buffer)}


def with_horovod(settings: dict[str, str]) -> Rounds:
    """The small gradients through Horovod in that environment, on each rank."""
    from distlab.train.strategies.horovod import connect, import_horovod

    hvd = import_horovod()
    os.environ |= settings
    connect(hvd)
    gradients = [torch.ones(ELEMENTS) for _ in range(TENSORS)]

    def send() -> None:
        handles = [hvd.allreduce_async_(g, name=f"gradient.{i}", op=hvd.Sum) for i, g in enumerate(gradients)]
        for handle in handles:
            hvd.synchronize(handle)

    rounds = timed(send)
    hvd.shutdown()
    return rounds


def stall() -> dict[str, Any]:
    """`Stall` where rank 1 leaves a gradient out for STALL_S seconds, and a warning was asked for after 3.

    LaunchError where rank 0 does not say how that ended, or not within STALL_MOST_S.
    """
    program = [sys.executable, "-c", "from distlab.record.shootout import leave_one_out; leave_one_out()"]
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=STALL_MOST_S)
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"The ranks of which one stalls did not end within {STALL_MOST_S:g} s; expected about {STALL_S:g} s: "
            "record again on a machine with less to do.",
            0,
        ) from None
    said = (done.stdout + done.stderr).splitlines()
    waited = next((line for line in said if line.startswith(WAITED)), None)
    if waited is None:
        raise LaunchError(f"Rank 0 did not say how long it waited for a gradient: {said[-3:]}", 0)
    seconds, error = waited.removeprefix(WAITED).split(" ", 1)
    warnings = [line.removeprefix("[rank 0] ") for line in said if re.search(STALLED, line)]
    return {"warnings": warnings, "waited_s": float(seconds), "error": error}


def leave_one_out() -> None:
    """Two ranks, of which the second never sends `layer.bias`; rank 0 says how that ended for it."""
    from distlab.train.launch import launch

    print(WAITED + launch(_leave_one_out, 2)[0])


def _leave_one_out() -> str:
    from distlab.train.strategies.horovod import connect, import_horovod

    hvd = import_horovod()
    os.environ |= {"HOROVOD_STALL_CHECK_TIME_SECONDS": "3", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "9"}
    connect(hvd)
    hvd.allreduce(torch.ones(3), name="layer.weight")
    if hvd.rank() == 1:
        time.sleep(STALL_S)
        return ""
    started, error = time.perf_counter(), "none"
    try:
        hvd.allreduce(torch.ones(3), name="layer.bias")
    except Exception as found:  # Horovod's own kinds differ between versions
        error = str(found).partition(".")[0]
    return f"{time.perf_counter() - started:.1f} {error}"


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("shootout", record, args)


if __name__ == "__main__":
    from distlab.record import shootout  # ranks send back this module's classes, not `__main__`'s

    exit_as(shootout.main)
