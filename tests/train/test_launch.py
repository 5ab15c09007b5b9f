from __future__ import annotations

import linecache
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from distlab.errors import LaunchError
from distlab.machine import cores
from distlab.train.launch import backend_for, cell_lines, launch


def _report(word: str) -> tuple[str, int, int, float, int]:
    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    print(f"{word} from {dist.get_rank()}")
    print(f"aside from {dist.get_rank()}", file=sys.stderr)
    return word, dist.get_rank(), os.getpid(), float(total), torch.get_num_threads()


class _Returned:
    """What is pickled, after the process group was destroyed, only once `dropped` is set."""

    def __init__(self, dropped: threading.Event) -> None:
        self.dropped = dropped

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        assert self.dropped.wait(20)
        return str, ("returned",)


class _Held:
    def __init__(self, group: object) -> None:
        self.group = group


def _leave_a_callback() -> _Returned | str:
    """Rank 0 returns while a thread of gloo's runs a callback, which is the last to hold the process group."""
    told = torch.zeros(1)
    if dist.get_rank() == 1:  # waits: a callback of work that is done already would run on the main thread
        dist.recv(told, src=0)
        dist.all_reduce(told)
        return "returned"
    dropped, began, held = threading.Event(), threading.Event(), _Held(dist.group.WORLD)
    weakref.finalize(held, threading.Timer(0.2, dropped.set).start)

    def hold(future: torch.futures.Future[list[torch.Tensor]]) -> bool:
        began.set()
        while dist.is_initialized():
            os.sched_yield()
        return held.group is None

    work = dist.all_reduce(torch.ones(1), async_op=True)
    assert work is not None
    work.get_future().then(hold)
    dist.send(told, dst=1)
    began.wait()
    return _Returned(dropped)


def _fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise ValueError("rank 1 cannot go on")
    dist.barrier()  # rank 0 fails here, later, because rank 1 is gone


def _die_on_rank_1(how: str) -> None:
    if dist.get_rank() == 1:
        os._exit(7) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _leave_on_rank_1() -> None:
    if dist.get_rank() == 1:
        os._exit(0)


def _leave_others_waiting_for_rank_0() -> None:
    if dist.get_rank() == 0:
        threading.Event().wait()
    dist.barrier()


def _unpicklable() -> object:
    return threading.Lock()


def _wait_forever() -> None:
    dist.barrier()
    print("pid", os.getpid())
    threading.Event().wait()


def _world_size() -> int:
    return dist.get_world_size()


@pytest.fixture(scope="module")
def server() -> None:
    """What forks ranks stays for the next launch."""
    launch(_world_size, 1)


@pytest.fixture(autouse=True)
def nothing_is_left(server: None) -> Iterator[None]:
    """Each launch ends all that it started. Python's own helpers of earlier tests may run on."""
    before = psutil.Process().children(recursive=True)
    yield
    assert [child for child in psutil.Process().children(recursive=True) if child not in before] == []


def test_results_come_by_rank_from_processes_of_their_own(capfd: pytest.CaptureFixture[str]) -> None:
    results = launch(_report, 3, "hello", threads_per_rank=1)
    assert [rank for _, rank, *_ in results] == [0, 1, 2]
    assert {word for word, *_ in results} == {"hello"}
    assert len({os.getpid(), *(process for _, _, process, *_ in results)}) == 4
    assert [total for *_, total, _ in results] == [6.0, 6.0, 6.0]
    assert [threads for *_, threads in results] == [1, 1, 1]
    out, err = capfd.readouterr()
    for rank in range(3):
        assert f"[rank {rank}] hello from {rank}\n[rank {rank}] aside from {rank}\n" in "".join(
            line for line in out.splitlines(keepends=True) if line.startswith(f"[rank {rank}]")
        )
    assert not re.search(r"^[WE]\d{4} ", err, re.MULTILINE), "a warning of the agent's log"


def test_twice_in_a_row_and_with_world_size_1() -> None:
    assert launch(_world_size, 1) == [1]
    assert launch(_world_size, 2) == [2, 2]


def test_threads_default_to_a_fair_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    [(*_, threads)] = launch(_report, 1, "hello")
    assert threads == cores()


def test_notebook_functions_with_closures_travel() -> None:
    offset = 10
    namespace: dict[str, object] = {"__name__": "__main__"}
    source = """
        import torch.distributed as dist
        SCALE = 3
        def scaled(x):
            return SCALE * x
        def in_cell(x):
            return scaled(x) + dist.get_rank()
    """
    exec(textwrap.dedent(source), namespace)
    in_cell = namespace["in_cell"]
    assert callable(in_cell)
    assert launch(in_cell, 2, 5) == [15, 16]
    assert launch(lambda x: x + offset, 1, 5) == [15]


def test_cells_lines_while_another_thread_reads_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = {name: (8, None, ["x = 1\n"], name) for name in ("<cell 1>", "<cell 2>")}
    monkeypatch.setattr(linecache, "cache", dict(cells))

    def exists(name: str) -> bool:  # another thread's turn comes while this one asks for a file
        linecache.cache[f"another thread's, beside {name}"] = (8, None, ["y = 1\n"], name)
        return False

    monkeypatch.setattr(os.path, "exists", exists)
    assert cell_lines() == {name: ["x = 1\n"] for name in cells}


def test_a_callback_may_outlive_the_function() -> None:
    assert list(map(str, launch(_leave_a_callback, 2))) == ["returned", "returned"]


def test_a_failure_shows_the_first_ranks_own_traceback() -> None:
    with pytest.raises(LaunchError) as caught:
        launch(_fail_on_rank_1, 2)
    assert caught.value.rank == 1
    message = str(caught.value)
    assert message.startswith("Rank 1 of 2 failed: ValueError: rank 1 cannot go on\n")
    assert 'raise ValueError("rank 1 cannot go on")' in message
    assert "_fail_on_rank_1" in message
    assert "distlab/train/rank.py" not in message  # frames of ours say nothing about the fault


def test_a_rank_that_ends_without_a_result_is_named() -> None:
    with pytest.raises(LaunchError, match="Rank 1 of 2 exited with code 0 before it returned"):
        launch(_leave_on_rank_1, 2)


@pytest.mark.parametrize(("how", "said"), [("exit", "exited with code 7"), ("kill", "was killed by SIGKILL")])
def test_a_rank_that_dies_without_a_word_is_named(how: str, said: str) -> None:
    with pytest.raises(LaunchError, match=f"Rank 1 of 2 {said}") as caught:
        launch(_die_on_rank_1, 2, how)
    assert caught.value.rank == 1


def test_a_collective_that_a_rank_misses_ends_in_time() -> None:
    """The ranks that fail are those that came; the one to name is the other, and where it hangs."""
    with pytest.raises(LaunchError) as caught:
        launch(_leave_others_waiting_for_rank_0, 3, timeout_s=2)
    assert caught.value.rank == 0
    said, hung, waited, trace = str(caught.value).split("\n\n")
    assert said.startswith("Rank 0 of 3 did not take part in a collective. Ranks 1, 2 waited there")
    assert hung.startswith("Rank 0 was here (innermost call first):\n")
    assert hung.endswith(" in _leave_others_waiting_for_rank_0"), "no frames of ours, which say nothing"
    assert re.match(r"Rank [12] waited there: RuntimeError: .*Timed out", waited, re.DOTALL)
    assert "dist.barrier()" in trace


def test_a_result_that_cannot_travel_is_an_error_of_its_rank() -> None:
    with pytest.raises(LaunchError, match="Rank 0 of 1 failed: TypeError: cannot pickle"):
        launch(_unpicklable, 1)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="world_size is 0"):
        launch(_world_size, 0)
    if backend_for(64) != "nccl":
        with pytest.raises(ValueError, match="needs one GPU per rank: 64 ranks"):
            launch(_world_size, 64, backend="nccl")


def test_signal_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    launch(_world_size, 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_rank_outlives_an_interrupted_or_killed_launcher(number: int) -> None:
    imports = "from distlab.train.launch import launch; from tests.train.test_launch import _wait_forever"
    launcher = subprocess.Popen(
        [sys.executable, "-u", "-c", f"{imports}; launch(_wait_forever, 2)"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert launcher.stdout is not None
    with launcher.stdout:
        ranks = [psutil.Process(int(launcher.stdout.readline().split("pid")[1])) for _ in range(2)]
        launcher.send_signal(number)
        assert launcher.wait(timeout=60) != 0
    gone, alive = psutil.wait_procs(ranks, timeout=60)
    assert len(gone) == 2
    assert alive == []


def test_in_a_network_of_its_own_without_names(tmp_path: Path) -> None:
    """A sandbox has a private loopback, and perhaps no /etc/hosts that knows the machine's name."""
    empty = tmp_path / "hosts"
    empty.write_text("")
    sandbox = ["bwrap", "--unshare-all", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    sandbox += ["--ro-bind", str(empty), "/etc/hosts", "--die-with-parent"]
    if shutil.which("bwrap") is None or subprocess.run([*sandbox, "true"], check=False).returncode:
        pytest.skip("bubblewrap cannot make a sandbox here")
    code = "print(launch(_world_size, 2))"
    imports = "from distlab.train.launch import launch; from tests.train.test_launch import _world_size"
    done = subprocess.run(
        [*sandbox, sys.executable, "-c", f"{imports}; {code}"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["[2, 2]"], done.stderr
