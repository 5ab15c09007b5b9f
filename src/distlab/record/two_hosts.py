"""Record one job between two hosts under DDP, Horovod and FSDP2, over cables of several rates (Linux, as root).

    python -m distlab.record.two_hosts --out src/distlab/record/two_hosts.json      # some minutes

The hosts are network namespaces of one machine with a cable each to a switch (`distlab.train.hosts`). A turn takes
every rate with every framework; the next one begins with another, so that what else the machine does meets all. The
first rate is none: as fast as the cores move bytes, it tells what a step takes beside its cable. Last, the bytes
of three collectives by themselves are counted at the cable. `read` gives MOD-202's Lab 2 what was recorded.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from distlab.bench.hosts import HostNetwork, run_on_hosts
from distlab.bench.stamp import command
from distlab.record.one_file import exit_as, read_from_file, record_into_file
from distlab.train.config import TrainConfig, from_dict
from distlab.train.hosts import train_on_hosts
from distlab.train.records import read_info
from distlab.train.runs_report import WARMUP

FORMAT = "distlab two hosts"
RECORDED = Path(__file__).with_suffix(".json")
"""In the package: MOD-202's Lab 2 shows it in sandboxes, which the book is not mounted in."""

HOSTS = 2
JOB: dict[str, Any] = {
    "steps": 30,
    "model": {"kind": "cnn", "width": 128},
    "data": {"source": "digits", "global_batch": 64},
}
WAYS = {"DDP": "ddp", "Horovod": "horovod", "FSDP2": "fsdp"}
RATES_MBITS = (None, 1000.0, 100.0)
"""10^6 bits/s of each host's cable, each way; None: not limited."""
TURNS = 1
VERSIONS = ("torch", "horovod")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter")
PAYLOAD_BYTES, ROUNDS = 4_000_000, 10
"""Of a collective by itself."""


@dataclass(frozen=True)
class Run:
    """One run of the job on both hosts."""

    way: str
    rate_Mbits: float | None  # noqa: N815 - units keep their case
    fastest_s: float
    """A step of the slower host, the warm-up left out, as is the next."""
    median_s: float
    start_s: float
    """What lay around the steps."""
    sent_bytes: int
    """By host 0 over its cable in the whole run, headers included."""
    losses: list[float]
    """Of each step."""


@dataclass(frozen=True)
class TwoHosts:
    """The recording."""

    hosts: int
    steps: int
    """Of each run."""
    command: str
    versions: dict[str, str]
    load_average: tuple[float, float]
    """Processes that wanted a core over the last minute, as it began and as it ended; the two ranks are among those
    of the end."""
    stamp: dict[str, Any]
    """Of `distlab.bench.stamp.Stamp`, from the first run."""
    runs: list[Run]
    sent_of_payload: dict[str, float]
    """Bytes that host 0 sent for each byte of payload, by the names in COLLECTIVES; the payload is the whole tensor."""

    def of(self, way: str, rate_Mbits: float | None) -> list[Run]:  # noqa: N803 - units keep their case
        """The turns of a framework at a rate."""
        return [run for run in self.runs if (run.way, run.rate_Mbits) == (way, rate_Mbits)]

    def __str__(self) -> str:
        s, versions = self.stamp, ", ".join(f"{name} {version}" for name, version in self.versions.items())
        begin, end = self.load_average
        return (
            f"{self.hosts} network namespaces of one machine ({s['hardware']}, {s['cores']} cores, load average "
            f"{begin:.1f} as it began and {end:.1f} as it ended), one rank of one thread each, gloo, {versions}, "
            f"{s['date'][:10]}, {self.command}"
        )


def read(path: Path = RECORDED) -> TwoHosts:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of two hosts")
    load_average = tuple(found.pop("load_average"))
    return TwoHosts(**{**found, "runs": [Run(**run) for run in found["runs"]]}, load_average=load_average)


def job(way: str, folder: str | None = None) -> TrainConfig:
    """The configuration of the job under one of WAYS."""
    return from_dict({"name": "two-hosts", "folder": folder, **JOB, "strategy": WAYS[way]})


def record(rates_Mbits: Sequence[float | None] = RATES_MBITS, turns: int = TURNS) -> dict[str, Any]:  # noqa: N803
    """Run everything, one after the other.

    SettingError where namespaces cannot be made or a framework is missing, LaunchError where a rank fails.
    """
    begin = os.getloadavg()[0]
    ways, runs = list(WAYS), []
    stamp: dict[str, Any] = {}
    for turn in range(turns):
        first = turn % len(ways)
        for rate in rates_Mbits:
            for way in ways[first:] + ways[:first]:
                run, of_run = _run(way, rate)
                stamp = stamp or of_run
                runs.append(asdict(run))
                print(f"{way}, {rate} Mbit/s: {run.fastest_s * 1e3:.1f} ms a step", file=sys.stderr)
    return {
        "format": FORMAT,
        "hosts": HOSTS,
        "steps": JOB["steps"],
        "command": command(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "load_average": [begin, os.getloadavg()[0]],
        "stamp": stamp,
        "runs": runs,
        "sent_of_payload": {name: _sent_of_payload(name) for name in COLLECTIVES},
    }


def _run(way: str, rate_Mbits: float | None) -> tuple[Run, dict[str, Any]]:  # noqa: N803
    """One run and the stamp that it left."""
    with tempfile.TemporaryDirectory(prefix="distlab-two-hosts-") as folder:
        config = job(way, folder)
        training = train_on_hosts(config, HostNetwork(HOSTS, rate_Mbits))
        assert config.run_folder is not None
        stamp = read_info(config.run_folder).stamp
    full = [step for step in training.steps[WARMUP:] if step.samples == training.steps[0].samples]
    run = Run(
        way=way,
        rate_Mbits=rate_Mbits,
        fastest_s=min(step.step_s for step in full),
        median_s=median(step.step_s for step in full),
        start_s=training.start_s,
        sent_bytes=training.sent_bytes[0],
        losses=[step.loss for step in training.steps],
    )
    return run, stamp


def _sent_of_payload(collective: str) -> float:
    program = f"from distlab.record.two_hosts import send; send({collective!r})"
    run = run_on_hosts(HostNetwork(HOSTS), [sys.executable, "-c", program], {"OMP_NUM_THREADS": "1"})
    return run.sent_bytes[0] / (ROUNDS * PAYLOAD_BYTES)


def send(collective: str) -> None:
    """On each host: a collective of torch's over gloo, again and again."""
    dist.init_process_group("gloo")
    whole, part = torch.ones(PAYLOAD_BYTES // 4), torch.ones(PAYLOAD_BYTES // 4 // HOSTS)
    for _ in range(ROUNDS):
        if collective == "all-reduce":
            dist.all_reduce(whole)
        elif collective == "all-gather":
            dist.all_gather_into_tensor(whole, part)
        else:
            dist.reduce_scatter_tensor(part, whole)
    dist.barrier()  # a rank that closes first is an error to the other
    dist.destroy_process_group()  # at the interpreter's end gloo's threads may abort the process


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("two_hosts", record, args)


if __name__ == "__main__":
    exit_as(main)
