"""Train on several hosts that are network namespaces of this machine, over cables of a chosen rate (Linux, as root).

    run = train_on_hosts(config, HostNetwork(hosts=2, rate_Mbits=1000))
    run.sent_bytes[0] / config.steps      # over host 0's cable, for each step

Each host runs one rank of `distlab train`, on the CPU. All share this machine's cores, so that what is measured is
what the cables add. The run's log lies in `<folder>/<name>`, as always.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from distlab.bench.hosts import HostNetwork, run_on_hosts
from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.records import by_step, read_log


@dataclass(frozen=True)
class HostStep:
    """One step of all hosts."""

    step_s: float
    """Of the slowest."""
    communication_s: float
    """In which that one only waited."""
    samples: int
    """Of all together."""
    loss: float


@dataclass(frozen=True)
class HostsTraining:
    """What a run on hosts came to."""

    steps: list[HostStep]
    wall_s: float
    """From the making of the network to its end."""
    sent_bytes: list[int]
    """By each host over its cable: start, steps and end, headers included."""

    @property
    def start_s(self) -> float:
        """What lay around the steps."""
        return self.wall_s - sum(step.step_s for step in self.steps)


def train_on_hosts(config: TrainConfig, network: HostNetwork) -> HostsTraining:
    """Train with one rank on each host of a network.

    SettingError for a setting that does not go there, LaunchError where a rank failed.
    """
    folder = config.run_folder
    if folder is None or "://" in folder:
        raise SettingError(
            f"folder is {config.folder!r}; hosts that are namespaces share this machine's files: name a folder here."
        )
    if config.launcher != "torch" or config.strategy in ("single", "tensorflow", "deepspeed"):
        raise SettingError(
            f"strategy is {config.strategy!r} under launcher {config.launcher!r}; on hosts of one rank each go 'ddp', "
            "'fsdp', 'horovod' and others that torch's launcher starts."
        )
    env = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""}
    with TemporaryDirectory(prefix="distlab-hosts-") as scratch:
        file = Path(scratch, "run.yaml")
        run_config = replace(
            config,
            world_size=network.hosts,
            folder=str(Path(folder).resolve().parent),
            log=replace(config.log, jsonl=True),  # which tells of the steps here
        )
        file.write_text(yaml.safe_dump(_plain(run_config.as_dict())), encoding="utf-8")
        command = [sys.executable, "-m", "distlab.train", "--config", str(file), "--json"]
        started = time.perf_counter()
        run = run_on_hosts(network, command, env)
        wall_s = time.perf_counter() - started
    steps = []
    for lines in by_step(read_log(folder)).values():
        slowest = max(lines, key=lambda line: line.step_s)
        samples = sum(line.samples for line in lines)
        steps.append(HostStep(slowest.step_s, slowest.communication_s, samples, slowest.loss))
    return HostsTraining(steps, wall_s, run.sent_bytes)


def _plain(value: object) -> object:
    """Lists in place of tuples, which YAML has no safe word for."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
