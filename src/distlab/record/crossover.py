"""Record where a ring overtakes recursive doubling between hosts with slow cables (Linux, as root).

    python -m distlab.record.crossover --out src/distlab/record/crossover.json      # a minute

Four hosts that are network namespaces of one machine, cables of RATE_MBITS that hold packets back for DELAY_MS one way
(`distlab.bench.hosts`), and the two algorithms of `distlab.bench.algorithms`. `read` gives a lab what was recorded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distlab.bench.algorithms import Race, Row
from distlab.bench.hosts import HostNetwork, run_on_hosts
from distlab.bench.stamp import command
from distlab.machine import cores
from distlab.predict.collectives import Link
from distlab.record.one_file import exit_as, read_from_file, record_into_file

HOSTS = 4
RATE_MBITS = 200.0
DELAY_MS = 10.0
PAYLOADS = tuple(2**exponent for exponent in range(15, 24))  # 32 KiB to 8 MiB
REPEATS = 5
FORMAT = "distlab crossover"
RECORDED = Path(__file__).with_suffix(".json")
"""Beside this module: a learner's server has the package and no more."""


@dataclass(frozen=True)
class Crossover:
    """The recording."""

    rate_Mbits: float  # noqa: N815 - units keep their case
    """Of every cable, 10^6 bits/s each way."""
    delay_ms: float
    """One way between two hosts."""
    load_average: float
    """Of the machine over the minute before: processes that wanted its cores, beside these."""
    command: str
    stamp: dict[str, Any]
    """Of `distlab.bench.stamp.Stamp`."""
    race: Race

    def __str__(self) -> str:
        s = self.stamp
        return (
            f"{self.race.world_size} network namespaces of one machine ({s['hardware']}, {s['cores']} cores, "
            f"load {self.load_average:.1f} before), cables of {self.rate_Mbits:g} Mbit/s, {self.delay_ms:g} ms one "
            f"way, {s['backend']}, torch {s['torch']}, {s['date'][:10]}"
        )


def read(path: Path = RECORDED) -> Crossover:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of a crossover")
    return parse(found)


def parse(found: dict[str, Any]) -> Crossover:
    """What `record` returned, without its format."""
    race = found["race"]
    rows = [Row(**row) for row in race["rows"]]
    return Crossover(**{**found, "race": Race(race["world_size"], Link(**race["link"]), rows)})


def record(payloads: Sequence[int] = PAYLOADS, repeats: int = REPEATS) -> dict[str, Any]:
    """Measure. SettingError where namespaces cannot be made, LaunchError where a rank fails."""
    load_average = os.getloadavg()[0]
    network = HostNetwork(HOSTS, RATE_MBITS, DELAY_MS)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "race.json")
        program = [sys.executable, "-m", "distlab.bench.algorithms"]
        program += ["--network", str(network), "--out", str(out)]
        program += ["--repeats", str(repeats), "--payloads", *map(str, payloads)]
        env = {"OMP_NUM_THREADS": str(max(1, cores() // HOSTS)), "CUDA_VISIBLE_DEVICES": ""}
        run_on_hosts(network, program, env)
        found = json.loads(out.read_text())
    stamp = found.pop("stamp")
    return {
        "format": FORMAT,
        "rate_Mbits": RATE_MBITS,
        "delay_ms": DELAY_MS,
        "load_average": load_average,
        "command": command(),
        "stamp": stamp,
        "race": found,
    }


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("crossover", record, args)


if __name__ == "__main__":
    exit_as(main)
