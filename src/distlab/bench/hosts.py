"""The collectives between hosts: ranks in network namespaces of one machine, on a network of chosen bandwidth.

    distlab bench collectives --hosts 2 --rate-Mbits 1000

Each host is a namespace of `distlab.faults.network.Network` with a cable to a switch. Times hold what two machines
with such cables would see of them, but all ranks share this machine's cores: past some Gbit/s those are measured, not
the network.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, replace
from pathlib import Path

from distlab.bench.collectives import Sweep, sweep
from distlab.errors import LaunchError, SettingError
from distlab.faults.network import Network
from distlab.machine import cores

JOB = "job.pkl"
JOIN_S = 60
COLLECTIVE_S = 600
"""For which a collective may last: a big payload over a slow cable takes its time."""
PATIENCE_S = 2
"""For which the other ranks may say why they end."""
LAST_LINES = 15
CLOSED = re.compile("closed|reset|broken pipe|timed out", re.I)


@dataclass(frozen=True)
class HostNetwork:
    """The network between hosts. SettingError for one that cannot be."""

    hosts: int
    rate_Mbits: float | None = None  # noqa: N815 - units keep their case
    """Of each host's cable, 10^6 bits/s each way; None for as fast as this machine's cores."""
    delay_ms: float = 0.0
    """One way between two hosts."""

    def __post_init__(self) -> None:
        if not 2 <= self.hosts <= 32:
            raise SettingError(f"hosts is {self.hosts}; expected 2 to 32.")
        if self.rate_Mbits is not None and not 0.1 <= self.rate_Mbits <= 100_000:
            raise SettingError(f"rate_Mbits is {self.rate_Mbits}; expected 0.1 to 100000.")
        if not 0 <= self.delay_ms <= 1000:
            raise SettingError(f"delay_ms is {self.delay_ms}; expected 0 to 1000.")

    def __str__(self) -> str:
        rate = "unlimited" if self.rate_Mbits is None else f"{self.rate_Mbits:g} Mbit/s each way"
        delay = f", {self.delay_ms:g} ms one way" if self.delay_ms else ", no delay added"
        return f"{self.hosts} network namespaces of one machine on a switch, cables {rate}{delay}"


@dataclass(frozen=True)
class HostsRun:
    """What a program on every host came to."""

    lines: list[list[str]]
    """That each rank printed."""
    sent_bytes: list[int]
    """By each host over its cable, headers included."""


def run_on_hosts(layout: HostNetwork, command: list[str], env: dict[str, str]) -> HostsRun:
    """Run `command` as a rank on each host of such a network, with `env` added.

    The environment is what `torch.distributed.init_process_group` reads (`Network.start`). SettingError where the
    network cannot be made here or a rank says what was set wrong, LaunchError where one failed.
    """
    with Network(layout.hosts, layout.delay_ms) as network, ThreadPoolExecutor(layout.hosts) as pool:
        for rank in range(layout.hosts):
            if layout.rate_Mbits is not None:
                network.slow(rank, layout.rate_Mbits)
        ranks = [network.start(rank, command, env) for rank in range(layout.hosts)]
        try:
            ends = {pool.submit(_output, process): rank for rank, process in enumerate(ranks)}
            for ended in as_completed(ends):
                if ended.result()[0]:
                    wait(ends, PATIENCE_S)
                    raise _failure({rank: end.result() for end, rank in ends.items() if end.done()})
        finally:
            for process in ranks:  # the others would wait for it, and the pool for them
                process.kill()
        return HostsRun(
            lines=[end.result()[1] for end in sorted(ends, key=lambda end: ends[end])],
            sent_bytes=[network.sent_bytes(rank) for rank in range(layout.hosts)],
        )


def sweep_between_hosts(layout: HostNetwork, wanted: Sweep, journal: str) -> None:
    """Run `sweep` with a rank on each host; what it finds is in the journal.

    SettingError where the network cannot be made here, LaunchError where a rank failed.
    """
    Path(journal, JOB).write_bytes(pickle.dumps((replace(wanted, network=str(layout)), journal)))
    env = {"OMP_NUM_THREADS": str(max(1, cores() // layout.hosts)), "PYTHONUNBUFFERED": "1"}
    run_on_hosts(layout, [sys.executable, "-m", "distlab.bench.hosts", str(Path(journal, JOB))], env)


def _output(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for a rank; its exit code and the lines that it printed."""
    assert process.stdout is not None
    lines = [line.rstrip() for line in process.stdout]
    return process.wait(), lines


def _failure(ended: dict[int, tuple[int, list[str]]]) -> Exception:
    """What the rank says that failed by itself: the others say that a connection to it is gone."""
    failed = {rank: (code, lines or [""]) for rank, (code, lines) in ended.items() if code}

    def suspicion(rank: int) -> tuple[bool, bool, int]:
        code, lines = failed[rank]
        return code > 0, any(map(CLOSED.search, lines[-LAST_LINES:])), rank

    rank = min(failed, key=suspicion)
    code, lines = failed[rank]
    if code < 0:
        return LaunchError(f"Rank {rank} was killed by {signal.Signals(-code).name}.", rank)
    name, _, said = lines[-1].partition(": ")
    if name.endswith("SettingError"):
        return SettingError(said)
    shown = "\n".join(lines[-LAST_LINES:])
    return LaunchError(f"Rank {rank} ended with code {code}: {lines[-1]}\n\n{shown}", rank)


def main(job: Path) -> None:
    """One rank, in its namespace."""
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    wanted, journal = pickle.loads(job.read_bytes())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    dist.init_process_group("gloo", timeout=timedelta(seconds=JOIN_S))
    dist.barrier()
    assert dist.group.WORLD is not None
    dist.group.WORLD.set_timeout(timedelta(seconds=COLLECTIVE_S))
    sweep(wanted, journal)
    sys.stdout.flush()
    dist.barrier()
    os._exit(0)  # nothing is left to close, and a rank that closes first is an error to the others


if __name__ == "__main__":
    main(Path(sys.argv[1]))
