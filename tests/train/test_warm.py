"""Ranks come from a server of this process's own, and are as if each had been started anew."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.distributed as dist

from distlab.errors import LaunchError
from distlab.train import warm
from distlab.train.launch import launch


def _surroundings() -> tuple[int, str, str | None, int, float]:
    name = os.environ.get("DISTLAB_TEST_WARM")
    return os.getppid(), os.getcwd(), name, len(os.listdir("/proc/self/fd")), float(np.random.random())


def _threads() -> int:
    return torch.get_num_threads()


def _debug_level() -> str:
    name: str = dist.get_debug_level().name  # type: ignore[attr-defined]
    return name


def _kill_the_server() -> None:
    psutil.Process(os.getppid()).kill()


def _server() -> int:
    return launch(_surroundings, 1)[0][0]


def test_a_rank_has_the_launchers_surroundings_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = launch(_surroundings, 1)[0]
    monkeypatch.setenv("DISTLAB_TEST_WARM", "äöü\udc80")
    monkeypatch.chdir(tmp_path)
    after = launch(_surroundings, 1)[0]
    assert after[:3] == (before[0], str(tmp_path), "äöü\udc80"), "from the same server"
    assert before[2] is None
    assert after[4] != before[4], "numpy's random numbers"
    assert psutil.Process(after[0]).parent() == psutil.Process()


def test_ranks_do_not_inherit_each_others_descriptors() -> None:
    counts = [descriptors for *_, descriptors, _ in launch(_surroundings, 3, threads_per_rank=1)]
    assert max(counts) - min(counts) <= 2  # a peer's connection may not be there yet


def test_a_rank_that_cannot_have_its_surroundings_says_why(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warm, "_affinity", lambda: [4095])  # a core that there is not
    with pytest.raises(LaunchError, match="Rank 0 of 1 exited with code 1 before it returned"):
        launch(_threads, 1)
    assert "Invalid argument" in "".join(capfd.readouterr())


def test_each_launch_has_its_own_threads() -> None:
    assert [launch(_threads, 1, threads_per_rank=n)[0] for n in (2, 1)] == [2, 1]


def test_torch_distributeds_debug_level_is_the_one_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(_debug_level, 1) == ["OFF"]
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", "DETAIL")
    assert launch(_debug_level, 1) == ["DETAIL"]


def test_what_libraries_read_when_loaded_makes_a_new_server(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _server()
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    second = _server()
    assert second != first
    assert not psutil.pid_exists(first)
    assert _server() == second


def test_a_killed_server_ends_its_ranks_and_is_replaced() -> None:
    first = _server()
    with pytest.raises(LaunchError, match="Rank 0 of 1 was killed by SIGKILL"):
        launch(_kill_the_server, 1)
    assert _server() != first


def test_the_servers_imports_touch_no_gpu_and_nothing_beside_the_notebook(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit('not this one')")
    code = (
        "import importlib, torch\n"
        "def touched(*_): raise SystemExit('a GPU was asked for')\n"
        "for name in ('_cuda_init', '_cuda_getDeviceCount'):\n"
        "    setattr(torch._C, name, touched)\n"
        f"for name in {warm.IMPORTS!r}: importlib.import_module(name)\n"
        "print(torch.cuda.is_initialized())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


PREFORKED = """
import threading, psutil, sys
from distlab.train import warm
from distlab.train.launch import launch
from tests.train.test_warm import _surroundings

if "threads" in sys.argv:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
warm.prefork_if_alone()
server = psutil.Process(launch(_surroundings, 2)[1][0])
print(server.cmdline() == psutil.Process().cmdline(), server.parent() == psutil.Process())
warm.end()
print(server.is_running() and server.status() != psutil.STATUS_ZOMBIE)
"""


@pytest.mark.parametrize(("arguments", "forked"), [([], True), (["threads"], False)])
def test_a_command_without_threads_forks_its_server(arguments: list[str], forked: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREFORKED, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [f"{forked} True", "False"], done.stderr
