"""Record what one slow cable does to a collective, and how the rates of pairs point at it (Linux, as root).

    python -m distlab.record.slow_link --out src/distlab/record/slow_link.json      # some minutes

Eight hosts that are network namespaces of one machine, each with a cable of 100 Mbit/s to one switch
(`distlab.faults.network`). One host's cable is given all, three quarters, half and a quarter of that; each time
`distlab.bench.pairs` times an all-reduce and the exchange of every pair. `read` gives the chapter what was recorded.
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

from distlab.bench import pairs
from distlab.bench.hosts import HostNetwork, run_on_hosts
from distlab.bench.stamp import command
from distlab.faults.network import Cables
from distlab.machine import cores
from distlab.record.one_file import exit_as, read_from_file, record_into_file

HOSTS, SLOW_HOST = 8, 5
RATE_MBITS = 100.0
SHARES = (1.0, 0.75, 0.5, 0.25)
PAYLOAD_MIB = 4
FORMAT = "distlab slow link"
RECORDED = Path(__file__).with_suffix(".json")
"""In the package: MOD-202's Lab 2 shows it in sandboxes, which the book is not mounted in."""


@dataclass(frozen=True)
class Run:
    """One rate of the slow cable."""

    share: float
    """Of the other cables' rate."""
    all_reduce_s: float
    GBps: list[list[float]]
    """Of `distlab.bench.pairs.Pairs`."""
    seconds: float
    """That all-reduce and pairs took to measure."""


@dataclass(frozen=True)
class SlowLink:
    """The recording."""

    hosts: int
    slow_host: int
    rate_Mbits: float  # noqa: N815 - units keep their case
    """Of every other cable, 10^6 bits/s each way."""
    payload_bytes: int
    command: str
    stamp: dict[str, Any]
    """Of `distlab.bench.stamp.Stamp`."""
    runs: list[Run]

    def __str__(self) -> str:
        s = self.stamp
        return (
            f"{self.hosts} network namespaces of one machine ({s['hardware']}, {s['cores']} cores), cables of "
            f"{self.rate_Mbits:g} Mbit/s, {s['backend']}, torch {s['torch']}, {s['date'][:10]}, {self.command}"
        )


def read(path: Path = RECORDED) -> SlowLink:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of a slow link")
    return SlowLink(**{**found, "runs": [Run(**run) for run in found["runs"]]})


def record() -> dict[str, Any]:
    """Measure every share. SettingError where namespaces cannot be made, LaunchError where a rank fails."""
    runs, stamp, payload_bytes = [], {}, 0
    for share in SHARES:
        found = _pairs(share)
        stamp, payload_bytes = found["stamp"], found["payload_bytes"]
        runs.append({"share": share, **{name: found[name] for name in ("all_reduce_s", "GBps", "seconds")}})
        print(f"share {share:.2f}: all-reduce {found['all_reduce_s'] * 1e3:.0f} ms", file=sys.stderr)
    return {
        "format": FORMAT,
        "hosts": HOSTS,
        "slow_host": SLOW_HOST,
        "rate_Mbits": RATE_MBITS,
        "payload_bytes": payload_bytes,
        "command": command(),
        "stamp": stamp,
        "runs": runs,
    }


def _pairs(share: float) -> dict[str, Any]:
    """What `distlab.bench.pairs` finds with the slow cable at that share."""
    about = f"{HOSTS} network namespaces, cables {RATE_MBITS:g} Mbit/s, host {SLOW_HOST} at {share:g} of that"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "pairs.json")
        wanted = ["--payload-MiB", str(PAYLOAD_MIB), "--repeats", "4", "--network", about, "--out", str(out)]
        slow = f"{SLOW_HOST}, {RATE_MBITS * share}"
        program = f"from distlab.record.slow_link import measure; measure({slow}, {wanted})"
        env = {"OMP_NUM_THREADS": str(max(1, cores() // HOSTS)), "CUDA_VISIBLE_DEVICES": ""}
        run_on_hosts(HostNetwork(HOSTS, RATE_MBITS), [sys.executable, "-c", program], env)
        read_back: dict[str, Any] = json.loads(out.read_text())
        return read_back


def measure(slow_host: int, rate_Mbits: float, wanted: Sequence[str]) -> None:  # noqa: N803
    """On each host: the slow one limits its cable, and then all measure what `distlab.bench.pairs` takes as wanted."""
    if int(os.environ["RANK"]) == slow_host:
        cables = Cables.here()
        assert cables is not None
        cables.slow(slow_host, rate_Mbits)
    sys.argv = ["pairs.py", *wanted]  # what the stamp says
    pairs.main(wanted)


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("slow_link", record, args)


if __name__ == "__main__":
    exit_as(main)
