"""What one process of `distlab.train.launch` runs: join the group, call the function, keep what came of it.

Forked by `distlab.train.warm` for the elastic agent, which sets RANK, WORLD_SIZE and the rendezvous address.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import io
import linecache
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from distlab.errors import SettingError

JOB = "job.pkl"
RESULT = "result-{}.pkl"
FAILURE = "failure-{}.pkl"
STACK = "stack-{}.txt"

OURS = (__file__, str(Path(__file__).with_name("warm.py")), "<frozen runpy>")
"""Below the function, in a rank's stack."""

JOIN_S = 120
_kept: list[object] = []
"""The process group, until the process ends. A callback on one of gloo's threads, such as a communication hook's, may
hold it a moment longer than the function; were it the last to do so, the thread would wait for its own end, and abort.
"""
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15


@dataclass(frozen=True)
class Job:
    """What the launching process hands to each rank."""

    sys_path: list[str]
    cell_lines: dict[str, list[str]]
    call: bytes
    """The pickled function and its arguments; read once `sys_path` is set."""
    command: str
    backend: str
    threads: int
    timeout_s: float


@dataclass(frozen=True)
class Failure:
    """How a rank failed, and when on the clock that all ranks share."""

    monotonic_ns: int
    summary: str
    traceback: str
    setting: str | None = None
    """What a SettingError said: the fault lies with what was asked for, and a traceback would not help."""

    @property
    def timed_out(self) -> bool:
        """Did a collective give up? gloo and NCCL say so in words alone."""
        return "timed out waiting" in self.summary.lower()


def main(folder: Path, parent: int) -> int:
    """Run the job in `folder`; write this rank's result or failure there; return the exit code.

    It ends with process `parent`, whose child it is.
    """
    os.dup2(1, 2)  # one stream per rank, so that its lines keep their order
    for stream in (sys.stdout, sys.stderr):  # what goes to a file is held back otherwise
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=True)
    rank = int(os.environ["RANK"])
    (folder / FAILURE.format(rank)).unlink(missing_ok=True)  # of an attempt before this one
    job: Job = pickle.loads((folder / JOB).read_bytes())
    _die_with(parent)
    _be_named(f"rank {rank}")
    # The agent ends a rank that hangs by SIGTERM: where it hung is what a person wants to know.
    stack = (folder / STACK.format(rank)).open("w")
    faulthandler.register(signal.SIGTERM, file=stack, all_threads=False, chain=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a rank that waits in a collective must end at once, too
    # It was blocked until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ["OMP_NUM_THREADS"] = str(job.threads)
    use_loopback()
    sys.path[:] = job.sys_path
    sys.argv = [job.command]
    for name, lines in job.cell_lines.items():
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)
    try:
        result = _call(job)
        _write(folder / RESULT.format(rank), pickle.dumps(result))
    except BaseException as error:
        setting = str(error) if isinstance(error, SettingError) else None
        failure = Failure(time.monotonic_ns(), _summary(error), _own_frames(error), setting)
        _write(folder / FAILURE.format(rank), pickle.dumps(failure))
        return 1
    return 0


def frames_at_the_end(folder: Path, rank: int) -> list[str]:
    """The function's frames when SIGTERM ended this rank, innermost first; none where it ended otherwise."""
    stack = folder / STACK.format(rank)
    lines = stack.read_text().splitlines() if stack.exists() else []
    return [
        line for line in lines if line.startswith("  File") and not any(f'"{name}"' in line for name in OURS)
    ]


def use_loopback() -> None:
    """Where all ranks are on this machine: gloo else looks up the host's name, which a sandbox may not know."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


def _call(job: Job) -> object:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from distlab.observe.profile.flight import flight_recorder

    # What torch reads when it is imported, which was before this rank's environment was known.
    torch.set_num_threads(job.threads)
    dist.set_debug_level_from_env()  # type: ignore[attr-defined]
    gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if job.backend == "nccl" else None
    if gpu is not None:
        torch.cuda.set_device(gpu)
    with flight_recorder():
        # Ranks of a busy machine start seconds apart: joining gets a time of its own.
        dist.init_process_group(job.backend, timeout=timedelta(seconds=JOIN_S), device_id=gpu)
        function, args = pickle.loads(job.call)
        dist.barrier()  # so does importing what the function brings along
        group = dist.group.WORLD
        assert group is not None
        group.set_timeout(timedelta(seconds=job.timeout_s))
        result = function(*args)
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
    _kept.append(group)
    return result


def _die_with(parent: int) -> None:
    """End when that process does, which ends with the launching one, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _be_named(name: str) -> None:
    """For `ps` and `top` (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode())


def _summary(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()


def _own_frames(error: BaseException) -> str:
    """The traceback from the function's first frame on, without the frames of this module."""
    frames = error.__traceback__
    while frames and frames.tb_next and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames)).rstrip()


def _write(path: Path, data: bytes) -> None:
    """Write whole or not at all: a rank can be killed at any time."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)
