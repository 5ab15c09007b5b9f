"""A small fleet for the panels: real exporters, a real run, a real Prometheus with the real rules.

Three exporters of simulated GPUs under one Prometheus: one follows a training run that goes on (and another's
log, made up, as a run on GPUs writes it), one loses a GPU, one overheats. Simulated time is fast, and so are the rules.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distlab.machine import LOOPBACK, free_port
from distlab.observe.panels.panel import VARIABLE
from distlab.observe.rules import write_config
from distlab.observe.scrape import NoAnswerError, fetch, fetch_json
from distlab.observe.stack import _program
from distlab.train.records import LOCK
from tests.observe.made_runs import MadeRun, write_info, write_lines
from tests.observe.stack_rig import INTERVAL_S, SCALE, until

RUN = "live"
TRAIN = (
    "--strategy", "single", "--world_size", "1", "--steps", "1000000", "--model.kind", "gpt", "--model.width", "32",
    "--data.source", "text", "--data.global_batch", "4", "--data.sequence_length", "32", "--name", RUN,
)  # fmt: skip
FAST = ("--every", "0.2", "--gpus", "2")
BUDGET = ("--budget", f"{RUN}=0.5", "on_gpus=5")


def variables_of(expr: str) -> set[str]:
    """The names of the variables in PromQL or in a selector."""
    return {a or b for a, b in VARIABLE.findall(expr)}


@dataclass
class Fleet:
    """What runs, and where it answers."""

    prometheus: str
    exporters: list[subprocess.Popen[bytes]]
    server: subprocess.Popen[bytes]

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        with contextlib.suppress(NoAnswerError):
            found = fetch_json(f"{self.prometheus}/api/v1/query?query={quote(expr)}")
            return list(found["data"]["result"])
        return []


@contextlib.contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """All of it, from the first answer of every exporter to the end."""
    runs = folder / "runs"
    with contextlib.ExitStack() as ends:
        _run_on_gpus(ends, runs / "on_gpus")
        train = [sys.executable, "-m", "distlab.cli", "train", *TRAIN, "--folder", str(runs)]
        _process(ends, folder / "train.log", *train)
        options = [
            ("--scenario", "xid-79", "--speed", "20", "--seed", "1", "--runs", str(folder / "none"), *FAST),
            (
                "--scenario",
                "overheating",
                "--speed",
                "60",
                "--seed",
                "2",
                "--runs",
                str(folder / "none"),
                *FAST,
            ),
            ("--follow", str(runs / RUN), "--runs", str(runs), *BUDGET, *FAST),
        ]
        ports = [free_port() for _ in options]
        export = [sys.executable, "-m", "distlab.cli", "observe", "export", "--source", "simulated"]
        exporters = []
        for exporter_port, words in zip(ports, options, strict=True):
            if "--follow" in words:
                until((runs / RUN / "log" / "rank_0.jsonl").exists, "the run's log", 120)
            command = [*export, *words, "--port", str(exporter_port)]
            exporters.append(_process(ends, folder / f"exporter-{exporter_port}.log", *command))
        port = free_port()
        write_config(folder / "config", exporters=[f"{LOOPBACK}:{p}" for p in ports], alertmanager=f"{LOOPBACK}:9",
                     interval_s=INTERVAL_S, time_scale=SCALE)  # fmt: skip
        server = _process(
            ends,
            folder / "prometheus.log",
            _program("prometheus"),
            f"--config.file={folder / 'config' / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address={LOOPBACK}:{port}",
        )
        made = Fleet(f"http://{LOOPBACK}:{port}", exporters, server)
        until(lambda: _answers(made.prometheus + "/-/ready"), "Prometheus")
        until(lambda: len(made.ask('up{job="distlab"} == 1')) == len(options), "a scrape of every exporter")
        yield made


def _run_on_gpus(ends: contextlib.ExitStack, folder: Path) -> None:
    """A run on two GPUs that goes on: its log is made up, and its lock is held."""
    made = MadeRun(ranks=2)
    made.attempt(0, 6, flush_after={5})
    later = time.time() - made.now
    lines = [replace(one, time=one.time + later, tier="gpu", mfu=0.4, vram_bytes=10**10) for one in made.kept]
    write_info(folder, stamp={"tier": "gpu", "hardware": "2 x NVIDIA H100 80GB HBM3"})
    write_lines(folder, lines)
    lock = ends.enter_context((folder / LOCK).open("w"))
    fcntl.flock(lock, fcntl.LOCK_EX)


def _answers(url: str) -> bool:
    try:
        fetch(url)
    except NoAnswerError:
        return False
    return True


def _process(ends: contextlib.ExitStack, log: Path, *command: str) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    ends.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
