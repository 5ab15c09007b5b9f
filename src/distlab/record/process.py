"""One part of a recording in a process of its own, with a time box: what it did not end in time is ended.

The processes are forked from one that has the heavy imports behind it and has touched no GPU, so that a part starts at
once, holds a GPU for itself alone, and takes nothing with it when it fails or hangs.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

from distlab.errors import SettingError, WorkError, printable

PRELOADED = ("torch", "distlab.bench.gpu", "distlab.record.runs")
PATIENCE_S = 15.0
"""After an interrupt, until it is killed: time to write down what was measured."""
LOG_BYTES_MOST = 2**16


@dataclass(frozen=True)
class Call:
    """`python -m module arguments`, as a function call: `module.main(arguments)`."""

    module: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As a person would type it."""
        if self.module == "distlab.cli":
            return shlex.join(["distlab", *self.arguments])
        return shlex.join(["python", "-m", self.module, *self.arguments])


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    code: int | None
    """Its exit code; negative for the signal that ended it, None where its time was up."""
    seconds: float
    said: str
    """The end of what it printed."""


def context() -> ForkServerContext:
    """Where processes come from."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(list(PRELOADED))
    return made


def run_call(call: Call, log: Path, box_s: float) -> Ended:
    """Run it for `box_s` seconds at the most. On Ctrl-C it is interrupted, too, and KeyboardInterrupt goes on."""
    started = time.monotonic()
    child = context().Process(target=_child, args=(call, str(log)))
    child.start()
    assert child.pid is not None
    code: int | None = None
    try:
        child.join(box_s)
        code = child.exitcode
        if code is None:
            _end(child.pid, child)
    except KeyboardInterrupt:
        _end(child.pid, child)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # ranks and helpers that it left
    return Ended(code, time.monotonic() - started, _tail(log))


def _end(pid: int, child: multiprocessing.process.BaseProcess) -> None:
    """Interrupt the group, wait, then kill."""
    _signal(pid, signal.SIGINT)
    child.join(PATIENCE_S)
    if child.exitcode is None:
        _signal(pid, signal.SIGKILL)
        child.join()


def _signal(pid: int, number: signal.Signals) -> None:
    """To its group, or to it alone while it has none of its own yet."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _child(call: Call, log: str) -> None:
    """In the process: a group of its own, its words in the log, its exit code that of the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(words, stream)
    sys.argv = ["distlab" if call.module == "distlab.cli" else call.module, *call.arguments]
    code = 0
    try:
        code = int(importlib.import_module(call.module).main(list(call.arguments)) or 0)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
    except KeyboardInterrupt:
        code = 130
    except (SettingError, WorkError) as error:
        print(error, file=sys.stderr)
        code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # not back into the server's own ending


def _tail(log: Path) -> str:
    """The last lines."""
    try:
        content = log.read_bytes()[-LOG_BYTES_MOST:]
    except OSError:
        return ""
    lines = [printable(line).strip() for line in content.decode("utf-8", "replace").splitlines()]
    return " | ".join([line for line in lines if line][-3:])
