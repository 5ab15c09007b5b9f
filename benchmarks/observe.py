"""What telemetry costs: a scrape of 64 GPUs by HTTP, and the exporter's processor time at a reading a second.

The exporter is the real command in a process of its own, its GPUs are the simulator's (whose computing is in the
processor time, in the place of a driver's answers), and it is scraped once a second over one connection, as
Prometheus does. The peer is prometheus-client's exposition of the same samples, without HTTP and without collecting
them.
"""

from __future__ import annotations

import http.client
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import psutil
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.interleaved import ratio_of, take_turns
from benchmarks.results import Result
from distlab.machine import LOOPBACK

GPUS = 64
TURNS = 40
WARM_UP = 5
WATCHED_S = 30


def scrape_ms() -> list[Result]:
    """From asking to the last byte of the answer."""
    with _exporter() as (_, connection):
        families = list(text_string_to_metric_families(_scrape(connection).decode()))
        registry = CollectorRegistry()
        registry.register(_Same(families))
        ways: list[Callable[[], float]]
        ways = [partial(_seconds, connection), partial(_exposition_s, registry)]
        for way in ways * WARM_UP:
            way()
        ours, theirs = take_turns(ways, lambda times: len(times[0]) >= TURNS, least=TURNS)
    ratio = ratio_of(ours, theirs).median
    return [Result("observe.scrape_ms", 1e3 * statistics.median(ours), "ms", "prometheus-client", ratio)]


def cpu_share() -> list[Result]:
    """Processor time over wall time, once it serves."""
    with _exporter() as (process, connection):
        for _ in range(WARM_UP):
            _scrape(connection)
        before, started = _cpu_s(process), time.perf_counter()
        for second in range(1, WATCHED_S + 1):
            time.sleep(max(0.0, started + second - time.perf_counter()))
            _scrape(connection)
        share = (_cpu_s(process) - before) / (time.perf_counter() - started)
    return [Result("observe.cpu_share", 100 * share, "% of a core")]


class _Same:
    """Collects what was scraped."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


@contextmanager
def _exporter() -> Iterator[tuple[psutil.Process, http.client.HTTPConnection]]:
    command = [sys.executable, "-m", "distlab.cli", "observe", "export", "--port", "0"]
    command += ["--source", "simulated", "--gpus", str(GPUS)]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            match = re.search(r":(\d+)/metrics", process.stdout.readline())
            assert match
            connection = http.client.HTTPConnection(LOOPBACK, int(match[1]))
            until = time.monotonic() + 20
            while _scrape(connection).count(b"\nDCGM_FI_DEV_GPU_UTIL{") < GPUS:
                assert time.monotonic() < until
                time.sleep(0.1)
            yield psutil.Process(process.pid), connection
        finally:
            process.terminate()
            process.wait()


def _scrape(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


def _seconds(connection: http.client.HTTPConnection) -> float:
    started = time.perf_counter()
    _scrape(connection)
    return time.perf_counter() - started


def _exposition_s(registry: CollectorRegistry) -> float:
    started = time.perf_counter()
    generate_latest(registry)
    return time.perf_counter() - started


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
