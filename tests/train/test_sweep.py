"""Nothing that works in a folder outlives the program that started it."""

from __future__ import annotations

import shlex
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


SWEEPING = """
import sys
from distlab.train.sweep import swept
with swept(sys.argv[1]):
    pass
"""


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


@pytest.mark.parametrize(
    ("name", "word", "whole"),
    [
        ("/tmp/ray-1", "--temp-dir=/tmp/ray-1", True),
        ("/tmp/ray-1", '{"logs": "/tmp/ray-1/logs"}', True),
        ("/tmp/ray-1", "/tmp/ray-12/logs", False),
        ("10.0.0.1:80", "--address=10.0.0.1:80", True),
        ("10.0.0.1:80", "110.0.0.1:80", False),
        ("10.0.0.1:80", "10.0.0.1:8000", False),
    ],
)
def test_a_name_counts_where_it_stands_whole(name: str, word: str, whole: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", ASLEEP, word]) as program:
        assert (program.pid in {process.pid for process in processes_of(name)}) is whole
        program.kill()


def test_who_sweeps_and_those_above_it_are_spared(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SWEEPING, str(tmp_path / "folder")]
    shell = subprocess.run(
        ["sh", "-c", f"{shlex.join(command)}; echo $?"], capture_output=True, text=True, check=True
    )
    assert (shell.stdout, shell.stderr) == ("0\n", "")


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
