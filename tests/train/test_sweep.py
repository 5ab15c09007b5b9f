"""Nothing that works in a folder outlives the program that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distlab.train.sweep import cmdline, processes_of, swept, with_children

PROGRAM = """
import subprocess, sys, time
from distlab.train.sweep import swept
with swept(sys.argv[1]):
    daemon = "import sys; sys.stdin.read()"
    subprocess.Popen([sys.executable, "-c", daemon, sys.argv[1]], stdin=subprocess.PIPE, start_new_session=True)
    print("started", flush=True)
    time.sleep(600)
"""
ASLEEP = "import time; time.sleep(600)"


def wait_until_gone(folder: str) -> None:
    deadline = time.monotonic() + 60
    while processes_of(folder):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_names_the_folder_ends_with_the_block(tmp_path: Path) -> None:
    mine, other = str(tmp_path / "mine"), str(tmp_path / "other")
    left_alone = subprocess.Popen([sys.executable, "-c", ASLEEP, other])
    try:
        Path(mine, "below").mkdir(parents=True)
        with swept(mine):
            started = subprocess.Popen([sys.executable, "-c", ASLEEP, mine])
            assert [process.pid for process in processes_of(mine)] == [started.pid]
        started.wait()
        assert processes_of(mine) == []
        assert not Path(mine).exists()
        assert [process.pid for process in processes_of(other)] == [left_alone.pid]
    finally:
        left_alone.kill()
        left_alone.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_of_a_killed_program_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", PROGRAM, folder], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"started\n"
        assert len(processes_of(str(folder))) == 2
        program.send_signal(number)
    wait_until_gone(str(folder))
    deadline = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_that_has_ended_names_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ASLEEP, tmp_path]) as program:
        [process] = processes_of(str(tmp_path))
        program.kill()
    assert cmdline(process) == []
    assert with_children(process) == []
