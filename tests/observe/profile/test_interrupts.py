"""Ctrl-C while a rank is recorded, in processes of their own: where it would end one, and where it would not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.observe.stack_rig import until

BEGIN = """
import ctypes, signal
from distlab.observe.profile import interrupts
interrupts.PATIENCE_S = 0.2
signal.signal(signal.SIGINT, signal.SIG_DFL)
caught = interrupts.Interrupts()
caught.catch()
"""
AT_WORK = """
try:
    with caught.later():
        signal.raise_signal(signal.SIGINT)
        print("the work is done")
except KeyboardInterrupt:
    print("and then it was told")
"""
AT_ONCE = """
try:
    signal.raise_signal(signal.SIGINT)
    print("not told")
except KeyboardInterrupt:
    print("told")
signal.raise_signal(signal.SIGINT)
print("a second one ended nothing")
"""
HANGS = """
print("locked", flush=True)
lock = ctypes.create_string_buffer(64)
ctypes.CDLL(None).pthread_mutex_lock(lock)
ctypes.CDLL(None).pthread_mutex_lock(lock)
"""
HANDLED = """
own = lambda number, frame: print("its own")
signal.signal(signal.SIGINT, own)
other = interrupts.Interrupts()
other.catch()
with other.later():
    signal.raise_signal(signal.SIGINT)
other.release()
caught.release()
assert signal.getsignal(signal.SIGINT) is own
"""
PYTHONS = """
caught.release()
signal.signal(signal.SIGINT, signal.default_int_handler)
caught = interrupts.Interrupts()
caught.catch()
alone = signal.set_wakeup_fd(-1) == -1
for said in ("told", "told again, and none watches"):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print(said if alone else "watched")
"""


def started(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BEGIN + body], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        (AT_WORK, "the work is done\nand then it was told\n", 0),
        (AT_ONCE.replace('"told"', '"told", flush=True'), "told\n", -signal.SIGINT),
        (HANDLED, "its own\n", 0),
        (PYTHONS, "told\ntold again, and none watches\n", 0),
    ],
)
def test_it_is_told_once_the_profiler_is_not_at_work(body: str, said: str, code: int) -> None:
    with started(body) as process:
        assert process.communicate(timeout=60)[0] == said
    assert process.returncode == code


def _is_waiting(pid: int) -> bool:
    """Is the main thread in a lock of the kernel's? It is three times in a row, then, and used no time meanwhile."""
    seen = set()
    for _ in range(3):
        fields = Path(f"/proc/{pid}/task/{pid}/stat").read_text().rpartition(")")[2].split()
        seen.add((fields[0], fields[11], fields[12]))
        time.sleep(0.05)
    return len(seen) == 1 and seen.pop()[0] == "S"


def test_a_rank_that_hangs_is_ended() -> None:
    with started(HANGS) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        # A signal before the second lock would find the main thread still in Python.
        until(lambda: _is_waiting(process.pid), "the main thread at the lock that nobody gives back")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGKILL
