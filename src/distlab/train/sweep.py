"""End whatever works in a folder, also where the program that started it is killed.

with swept(folder):
    ...                 # start daemons that name the folder in their commands

python -m distlab.train.sweep FOLDER [NAME ...] < PIPE     # what `swept` starts: waits for the pipe's end, then sweeps
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

STOP_S = 5
"""Seconds that processes get to end before they are killed."""
ROUNDS = 5
"""What is ended may have started others meanwhile: how often they are looked for."""


@contextmanager
def swept(folder: str, *names: str) -> Iterator[None]:
    """End the processes that name a folder afterwards, and remove it, also where this process is killed meanwhile.

    names: of what else marks a process as one of these in its command, such as a server's address.

    A process of its own waits for the end of a pipe that only this one holds open.
    """
    sweeper = subprocess.Popen(
        [sys.executable, "-m", "distlab.train.sweep", folder, *names],
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )
    assert sweeper.stdin is not None
    try:
        yield
    finally:
        clear(folder, *names)
        sweeper.stdin.close()
        sweeper.wait()


def processes_of(*names: str) -> list[psutil.Process]:
    """The processes that have one of these names in their commands, but this one, those above it, and who sweeps.

    A name counts where it stands whole: /tmp/ray-1 does not in /tmp/ray-12, nor 10.0.0.1:80 in 110.0.0.1:8000.
    """
    whole = re.compile("|".join(rf"(?<![\d.]){re.escape(name)}(?![\w.-])" for name in names))
    spared = {os.getpid()}
    with suppress(psutil.NoSuchProcess):  # one above that ends meanwhile needs no sparing
        spared |= {process.pid for process in psutil.Process().parents()}
    found = []
    for process in psutil.process_iter():
        words = cmdline(process)
        if process.pid not in spared and __spec__.name not in words and any(map(whole.search, words)):
            found.append(process)
    return found


def with_all_below(*names: str) -> list[psutil.Process]:
    """The processes of these names, and all that they have started."""
    return [below for process in processes_of(*names) for below in with_children(process)]


def cmdline(process: psutil.Process) -> list[str]:
    """A process's command; empty once it has ended."""
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []


def with_children(process: psutil.Process) -> list[psutil.Process]:
    """A process and all below it; empty once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def end(*names: str) -> None:
    """End the processes that have one of these names in their commands, and those below them.

    Again, where they have started others.
    """
    for _ in range(ROUNDS):
        mine = with_all_below(*names)
        if not mine:
            return
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        wait_or_kill(mine)


def wait_or_kill(processes: Sequence[psutil.Process]) -> None:
    """Wait until they have ended, and kill those that have not after `STOP_S`."""
    left = psutil.wait_procs(processes, timeout=STOP_S)[1]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=STOP_S)


def clear(folder: str, *names: str) -> None:
    """End what works in a folder, and remove it; again, where somebody wrote into it while it was removed."""
    for _ in range(ROUNDS):
        end(folder, *names)
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear(*sys.argv[1:])
