"""A flame graph of a running rank's Python stacks, by py-spy, which reads another process's memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from distlab.errors import printable
from distlab.files import write_whole
from distlab.observe.profile.analysis import FlameGraph

RATE_HZ = 100
PATIENCE_S = 20
"""Beyond the sampling itself: py-spy finds the interpreter and writes its file."""
KINDS = {"flamegraph": "svg", "speedscope": "speedscope.json"}


@dataclass(frozen=True)
class Sampled:
    """What py-spy left, or why it left nothing."""

    graph: FlameGraph | None
    problem: str = ""


def program() -> str | None:
    """Where py-spy is: beside this Python, or on the PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def sample(folder: Path, rank: int, pid: int, seconds: int) -> Sampled:
    """Sample a process for so many seconds, twice: `pyspy_rank_N.svg` and `pyspy_rank_N.speedscope.json`.

    Threads that sleep or wait count, too: a rank that is late by waiting shows where.
    """
    spy = program()
    if spy is None:
        return Sampled(None, "py-spy is not installed: no flame graph; `pip install py-spy`.")
    made: dict[str, str] = {}
    problem = ""
    for kind, suffix in KINDS.items():
        path = folder / f"pyspy_rank_{rank}.{suffix}"
        problem = _record(spy, kind, path, pid, seconds)
        if problem:
            break
        made[kind] = path.name
    if not made:
        return Sampled(None, f"No flame graph of rank {rank}: {problem}")
    if "flamegraph" in made:
        _entitle(folder / made["flamegraph"], f"Rank {rank}: Python stacks in {seconds} s, waiting included")
    graph = FlameGraph(rank, made.get("flamegraph"), made.get("speedscope"), float(seconds))
    return Sampled(graph, f"No speedscope file of rank {rank}: {problem}" if problem else "")


def _record(spy: str, kind: str, path: Path, pid: int, seconds: int) -> str:
    """Why there is no file; "" where there is."""
    command = [spy, "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(RATE_HZ)]
    command += ["--idle", "--threads", "--format", kind, "--output", str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds + PATIENCE_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"py-spy did not run ({type(error).__name__})."
    if path.is_file() and path.stat().st_size:
        return ""
    said = done.stderr + done.stdout
    if "ermission denied" in said.lower() or "operation not permitted" in said.lower():
        return (
            f"this user may not read the memory of process {pid} (ptrace is not permitted); run as root, or set "
            "kernel.yama.ptrace_scope to 0, or go without."
        )
    if "no such process" in said.lower() or "no python processes" in said.lower() or not _alive(pid):
        return "the run was over before it was taken; take more steps."
    first = said.strip().splitlines()[:1] or ["it said nothing"]
    return f"py-spy failed ({printable(first[0])[:200]})."


def _entitle(path: Path, title: str) -> None:
    """Put a title in place of py-spy's, which is its own command line."""
    text = path.read_text(encoding="utf-8")
    titled = re.sub(r'(<text id="title"[^>]*>)[^<]*', lambda match: match[1] + title, text, count=1)
    write_whole(path, titled.encode())


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
