"""Ranks that stay over several calls."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist

from distlab.errors import LaunchError, SettingError
from distlab.train.standing import Ranks


def summed(number: float) -> tuple[int, float]:
    total = torch.tensor(number * (dist.get_rank() + 1))
    dist.all_reduce(total)
    return os.getpid(), total.item()


def test_calls_share_their_processes_and_the_group() -> None:
    with Ranks(2, threads_per_rank=1) as ranks:
        first, second = ranks(summed, 1.0), ranks(summed, 10.0)
        assert [value for _, value in first] == [3.0, 3.0]
        assert [value for _, value in second] == [30.0, 30.0]
        pids = [pid for pid, _ in first]
        assert pids == [pid for pid, _ in second]
        assert len(set(pids)) == 2
    assert not any(map(psutil.pid_exists, pids))


def test_large_arguments_and_results_arrive_whole() -> None:
    sent = torch.arange(2_000_000.0)
    with Ranks(1) as ranks:
        [got] = ranks(lambda tensor: 2 * tensor, sent)
    assert torch.equal(got, 2 * sent)


def fail_on(rank: int, error: type[Exception]) -> int:
    if dist.get_rank() == rank:
        raise error("no such luck")
    dist.barrier()  # the other one would wait here until time is up
    return os.getpid()


def test_a_rank_that_raises_is_heard_while_the_other_waits() -> None:
    with Ranks(2, threads_per_rank=1) as ranks:
        with pytest.raises(LaunchError, match=r"Rank 1 of 2 failed: ValueError: no such luck") as caught:
            ranks(fail_on, 1, ValueError)
        assert "in fail_on" in str(caught.value)
        assert "distlab/train/standing.py" not in str(caught.value)
        with pytest.raises(SettingError, match=r"^no such luck$"):
            ranks(fail_on, 0, SettingError)
        assert [value for _, value in ranks(summed, 1.0)] == [3.0, 3.0]  # by new ranks


def die(rank: int) -> None:
    if dist.get_rank() == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def test_a_rank_that_dies_is_named() -> None:
    with Ranks(2, threads_per_rank=1) as ranks:
        pids = [pid for pid, _ in ranks(summed, 1.0)]
        with pytest.raises(LaunchError, match=r"Rank 1 of 2 was killed by SIGKILL"):
            ranks(die, 1)
        assert not any(map(psutil.pid_exists, pids))
        os_pids = [pid for pid, _ in ranks(summed, 1.0)]
        os.kill(os_pids[0], signal.SIGKILL)  # between two calls
        with pytest.raises(LaunchError, match=r"Rank 0 of 2 was killed by SIGKILL"):
            ranks(summed, 1.0)


def test_an_interrupted_call_leaves_no_rank(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, time
            from distlab.train.standing import Ranks

            def wait():
                print(os.getpid())
                time.sleep(600)

            ranks = Ranks(2, threads_per_rank=1)
            try:
                ranks(wait)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            """
        )
    )
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(2)]  # [rank 0] 1234
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert output == "interrupted\n"
    assert not any(psutil.pid_exists(int(line.split("]")[1])) for line in said)
    assert os.listdir(tmp_path / "temporary") == []


def test_what_is_not_closed_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os\nfrom distlab.train.standing import Ranks\n"
        "ranks = Ranks(1)\nprint(ranks(os.getpid)[0], flush=True)"
    )
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        check=True,
    )
    assert not psutil.pid_exists(int(done.stdout))
    assert os.listdir(tmp_path / "temporary") == []


def test_a_world_without_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"world_size is 0"):
        Ranks(0)
