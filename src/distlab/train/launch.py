"""Run a function on several fresh processes, one per rank, from a script, a test or a notebook cell.

    from distlab.train.launch import launch
    launch(fn, 2, *args)          # [what rank 0 returned, what rank 1 returned]

The processes are started and watched by torch's elastic agent (what `torchrun` uses), talk over gloo on CPU
and NCCL on GPUs, and are gone when the call returns, raises or is interrupted.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from distlab.errors import LaunchError, SettingError
from distlab.machine import LOOPBACK, cores
from distlab.train.rank import FAILURE, JOB, RESULT, Failure, Job, frames_at_the_end
from distlab.train.warm import Entrypoint

T = TypeVar("T")

AGENT_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
STOP_S = 3
"""Seconds that a rank gets to end after a signal before it is killed."""
IN_COLLECTIVE = "/torch/distributed/"
"""In the path of the code that waits in a collective."""


def backend_for(world_size: int) -> str:
    """`"nccl"` where each of `world_size` ranks gets a GPU of its own, else `"gloo"` (CPU)."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "nccl" if dist.is_nccl_available() and gpus >= world_size else "gloo"


def device() -> torch.device:
    """The device of this rank: its own GPU under NCCL, else the CPU."""
    if dist.is_initialized() and dist.get_backend() == "nccl":
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device("cpu")


def launch(
    fn: Callable[..., T],
    world_size: int = 2,
    *args: Any,
    backend: str | None = None,
    threads_per_rank: int | None = None,
    timeout_s: float = 60.0,
    stop_s: int = STOP_S,
    max_restarts: int = 0,
) -> list[T]:
    """Call `fn(*args)` on `world_size` fresh processes of one process group; return the results by rank.

    `fn` and `args` may be defined in a notebook (they travel by cloudpickle); what `fn` returns must pickle.
    Inside `fn` the default process group is initialised, and `distlab.train.launch.device()` is the rank's
    device. What a rank prints appears here behind `[rank N]`, standard error included.

    backend: `"nccl"` or `"gloo"`; by default `backend_for(world_size)`.
    threads_per_rank: OpenMP threads of each rank; by default OMP_NUM_THREADS if it is set, else
        cores // world_size (at least 1).
    timeout_s: how long a collective waits for the other ranks before it fails.
    stop_s: seconds that a rank gets to end after Ctrl-C before it is killed.
    max_restarts: how often all ranks are started again after one failed (TORCHELASTIC_RESTART_COUNT counts).

    On Ctrl-C the ranks get SIGINT. One that does not handle it ends, and KeyboardInterrupt is raised here; if
    all of them return nevertheless, so does this call.

    Raises LaunchError when a rank raises or dies, with the traceback of the first that did;
    ValueError for a bad argument, or the SettingError that a rank raised.
    """
    if world_size < 1:
        raise ValueError(f"world_size is {world_size}; it must be 1 or more.")
    backend = backend or backend_for(world_size)
    if backend == "nccl" and backend_for(world_size) != "nccl":
        raise ValueError(
            f"backend 'nccl' needs one GPU per rank: {world_size} ranks, "
            f"{torch.cuda.device_count()} GPUs. Use backend='gloo' or fewer ranks."
        )
    if threads_per_rank is None:
        wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list has one for each nested level
        threads_per_rank = int(wanted) if wanted.isdecimal() else max(1, cores() // world_size)

    stopped_by: int | None = None
    with tempfile.TemporaryDirectory(prefix="distlab-launch-") as folder:
        job = Job(
            sys_path=sys.path,
            cell_lines=cell_lines(),
            call=cloudpickle.dumps((fn, args)),
            command=f"launch({getattr(fn, '__name__', fn)}, world_size={world_size})",
            backend=backend,
            threads=threads_per_rank,
            timeout_s=timeout_s,
        )
        Path(folder, JOB).write_bytes(pickle.dumps(job))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=world_size,
            run_id=uuid.uuid4().hex,
            max_restarts=max_restarts,
            # A c10d store on a port the kernel picks; numeric addresses need no resolver and no /etc/hosts.
            rdzv_backend="c10d",
            rdzv_endpoint=f"{LOOPBACK}:0",
            rdzv_configs={"is_host": "true", "timeout": 60},
            local_addr=LOOPBACK,
            logs_specs=DefaultLogsSpecs(log_dir=folder, redirects=Std.ALL, tee=Std.ALL),
            log_line_prefix_template="[rank ${rank}] ",
            shutdown_timeout=stop_s,
        )
        try:
            stores = _a_store_for_each_attempt() if max_restarts else contextlib.nullcontext()
            with _quiet_agent(), _own_signal_handlers(), _interrupts_wait_in_new_ranks(), stores:
                elastic_launch(config, Entrypoint("distlab.train.rank"))(folder)
        except ChildFailedError as error:
            raise _first_failure(Path(folder), error.failures, world_size) from None
        except SignalException as error:
            stopped_by = error.sigval
        results = [Path(folder, RESULT.format(rank)) for rank in range(world_size)]
        # After Ctrl-C, too: every rank may have taken it as a request, ended its work in order, and returned.
        if all(path.exists() for path in results):
            return [pickle.loads(path.read_bytes()) for path in results]
        if stopped_by is None:
            rank = next(rank for rank, path in enumerate(results) if not path.exists())
            raise LaunchError(f"Rank {rank} of {world_size} exited with code 0 before it returned.", rank)
    # The usual handlers are back: Ctrl-C becomes KeyboardInterrupt, SIGTERM ends the process.
    signal.raise_signal(stopped_by)
    raise KeyboardInterrupt


def _first_failure(
    folder: Path, failures: dict[int, ProcessFailure], world_size: int
) -> LaunchError | SettingError:
    """Say which rank failed first, and how.

    A rank that dies without a word (killed, out of memory, `os._exit`) makes its peers raise "connection
    closed": it is the cause. Else it is the rank whose exception came first on the clock they share. A rank
    that ended by SIGTERM was most likely ended by the agent, because of another. A collective that timed out
    fails on the ranks that came to it: the cause is the one that did not, which the agent ends.
    """
    raised: dict[int, Failure] = {}
    for rank in range(world_size):
        path = folder / FAILURE.format(rank)
        if path.exists():
            raised[rank] = pickle.loads(path.read_bytes())
    silent = {rank: failure.exitcode for rank, failure in failures.items() if rank not in raised}
    first = min(raised, key=lambda r: raised[r].monotonic_ns, default=-1)
    if raised and raised[first].timed_out and set(silent.values()) <= {-signal.SIGTERM, -signal.SIGKILL}:
        return _missed_collective(folder, raised, first, world_size)
    rank = min(silent, key=lambda r: silent[r] == -signal.SIGTERM, default=-1)
    if silent and (silent[rank] != -signal.SIGTERM or not raised):
        code = silent[rank]
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        hint = " The system may have run out of memory." if code == -signal.SIGKILL else ""
        return LaunchError(f"Rank {rank} of {world_size} {how} before it returned.{hint}", rank)
    failure = raised[first]
    if failure.setting is not None:
        return SettingError(failure.setting)
    return LaunchError(
        f"Rank {first} of {world_size} failed: {failure.summary}\n\n{failure.traceback}", first
    )


def _missed_collective(folder: Path, raised: dict[int, Failure], first: int, world_size: int) -> LaunchError:
    """Name the ranks that did not come to a collective, and say where they were instead."""
    frames = {rank: frames_at_the_end(folder, rank) for rank in range(world_size) if rank not in raised}
    # One that waited, too, may have been ended before its own time was up.
    missing = [rank for rank in frames if IN_COLLECTIVE not in "".join(frames[rank][:1])] or list(frames)
    waited = _ranks([rank for rank in range(world_size) if rank not in missing])
    story = f"Rank {first} waited there: {raised[first].summary}\n\n{raised[first].traceback}"
    if not missing:
        said = f"{waited} waited until time was up: not in the same collective, or not at the same time."
        return LaunchError(f"{said}\n\n{story}", first)
    for rank in reversed(missing):
        if frames[rank]:
            story = f"Rank {rank} was here (innermost call first):\n" + "\n".join([*frames[rank], "", story])
    said = f"{_ranks(missing)} of {world_size} did not take part in a collective."
    return LaunchError(f"{said} {waited} waited there until time was up.\n\n{story}", missing[0])


def _ranks(numbers: list[int]) -> str:
    return ("Rank " if len(numbers) == 1 else "Ranks ") + ", ".join(map(str, numbers))


def cell_lines() -> dict[str, list[str]]:
    """Source of notebook cells, which exists in memory only, so that a rank's traceback can quote it."""
    entries = linecache.cache.copy().items()  # another thread may read a file's lines meanwhile
    return {name: entry[2] for name, entry in entries if len(entry) == 4 and not os.path.exists(name)}


@contextlib.contextmanager
def _quiet_agent() -> Iterator[None]:
    """Silence the agent's log for a while: on failure it repeats what LaunchError says, at length."""
    known = list(logging.root.manager.loggerDict)  # another thread may make one meanwhile
    names = [name for name in known if name.startswith("torch.distributed.elastic")]
    # Each by itself: some have a level of their own, and do not ask their parent's.
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _a_store_for_each_attempt() -> Iterator[None]:
    """Let ranks that are started again meet at a store of their own.

    By default all attempts share the agent's, and a rank may call at the address of one that has died.
    """
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextlib.contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Put the signal handlers back that the agent replaces and leaves replaced."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in AGENT_SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _interrupts_wait_in_new_ranks() -> Iterator[None]:
    """Start ranks with SIGINT blocked, until they are far enough to end by it without a traceback of Python's.

    What a process blocks it inherits from the thread that starts it. This process still gets its signals: another
    thread, which does nothing else, takes them, and Python runs the handler in the main thread.
    """
    over = threading.Event()
    taker = threading.Thread(target=over.wait, name="takes SIGINT", daemon=True)
    taker.start()
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, kept)
        over.set()
        taker.join()
