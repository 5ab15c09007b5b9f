"""`distlab profile run` around real runs of two ranks, and around what goes wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from distlab.cli import main
from distlab.observe.profile import pyspy
from distlab.observe.profile.analysis import Analysis, read_analysis
from distlab.observe.profile.description import read_description
from distlab.observe.profile.pyspy import sample
from tests.programs import command

GPT: dict[str, Any] = {
    "strategy": "ddp",
    "model": {"kind": "gpt", "width": 32, "layers": 2, "heads": 2},
    "data": {"source": "synthetic", "global_batch": 8, "sequence_length": 32},
}

DELAY_S = 0.25
"""Many times what a step takes, and what a busy machine adds to one."""


def profile_run(*args: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["profile", "run", *args])
    return int(ended.value.code or 0)


def config(at: Path, **changes: Any) -> str:
    path = at / "run.yaml"
    path.write_text(yaml.safe_dump(GPT | changes))
    return str(path)


@pytest.fixture(scope="module")
def straggling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A profile of two DDP ranks, the second of which sleeps after each step; and what the command printed.

    The run is ended by Ctrl-C once the flame graph is taken, however long that takes on a busy machine.
    """
    folder = tmp_path_factory.mktemp("straggling")
    settings = config(
        folder,
        steps=2000,
        folder=str(folder),
        checkpoint={"every_steps": 2000},
        faults=[{"kind": "slow", "step": 1, "rank": 1, "seconds": DELAY_S}],
    )
    options = ["--out", str(folder / "profile"), "--steps", "8", "--warmup", "1", "--wait", "3", "--memory"]
    asked = [*options, "--pyspy-s", "1", "--", "distlab", "train", "--config", settings]
    running = subprocess.Popen(
        [sys.executable, "-m", "distlab.cli", "profile", "run", *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    try:
        taken = folder / "profile" / "pyspy_rank_1.speedscope.json"
        until = time.monotonic() + 240
        while (
            not (taken.exists() and taken.stat().st_size)
            and running.poll() is None
            and time.monotonic() < until
        ):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=240)
    finally:
        running.kill()
    assert running.returncode == 0, said
    return folder / "profile", said


@pytest.fixture(scope="module")
def analysis(straggling: tuple[Path, str]) -> Analysis:
    return read_analysis(straggling[0])


def test_the_straggler_is_found(analysis: Analysis) -> None:
    assert (analysis.world_size, analysis.missing_ranks, analysis.exit_code, analysis.tier) == (
        2,
        (),
        0,
        "cpu",
    )
    assert analysis.slowest is not None
    assert analysis.slowest.rank == 1
    assert analysis.slowest.cause == "idle"
    assert analysis.slowest.excess_s > DELAY_S / 2
    assert analysis.slowest.last_arrivals >= 7  # the gradients' all-reduce of each step


def test_the_breakdown_shows_it_as_waiting(analysis: Analysis) -> None:
    fast, slow = analysis.ranks
    assert len(fast.steps) == len(slow.steps) == 8
    assert fast.mean()["exposed_s"] > slow.mean()["exposed_s"] + DELAY_S / 2
    assert slow.mean()["idle_s"] > fast.mean()["idle_s"] + DELAY_S / 2
    assert {collective.name for collective in fast.collectives} == {"gloo:all_reduce"}
    # Gradients and the loss; gloo may begin with the last one of a step in the next.
    assert abs(fast.collectives[0].count - 2 * 8) <= 2
    assert analysis.stamp["backend"] == "gloo"
    assert any(operator.name == "aten::mm" for operator in fast.operators)
    assert fast.memory[0].peak_bytes > 0


def test_one_time_line_and_a_flame_graph_lie_beside_it(
    straggling: tuple[Path, str], analysis: Analysis
) -> None:
    folder, _ = straggling
    with gzip.open(folder / "merged.trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    assert {event["pid"] for event in events} == {0, 1}
    assert analysis.flame_graph is not None, analysis.problems
    assert analysis.flame_graph.rank == 1
    assert analysis.flame_graph.svg is not None
    drawn = (folder / analysis.flame_graph.svg).read_text()
    assert "inject.py" in drawn  # where it sleeps
    assert "Rank 1: Python stacks in 1 s" in drawn
    assert "--pid" not in drawn
    assert analysis.flame_graph.speedscope is not None
    assert json.loads((folder / analysis.flame_graph.speedscope).read_text())["profiles"]
    described = read_description(folder)
    assert (described.ranks, described.steps_profiled, described.exit_code) == ((0, 1), 8, 0)
    assert described.stamp == analysis.stamp


def test_what_it_prints(straggling: tuple[Path, str]) -> None:
    said = straggling[1]
    assert "Rank 1 holds the others back in 8 of 8 steps" in said
    assert "Top operators of rank 1" in said
    assert "The profiler itself:" in said
    assert "tier cpu" in said
    assert said.index("The recording begins") < said.index(
        "The recording is done. The run goes on to its end"
    )
    assert f"What to change first: distlab profile report {straggling[0]}" in said


def test_it_can_be_analysed_again(straggling: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = straggling
    before = read_analysis(folder)
    with pytest.raises(SystemExit) as ended:
        main(["profile", "analyze", str(folder), "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out) == json.loads(before.to_json())


def test_a_rank_that_fails_while_it_is_recorded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fault = [{"kind": "raise", "step": 9, "rank": 1}]
    settings = config(tmp_path, strategy="fsdp", steps=20, faults=fault)
    out = tmp_path / "profile"
    options = ["--out", str(out), "--wait", "1", "--warmup", "1", "--steps", "15", "--json"]
    assert profile_run(*options, "--", "distlab", "train", "--config", settings) == 1
    analysis = json.loads(capfd.readouterr().out)
    assert analysis["exit_code"] == 1
    assert (
        "The command failed with exit code 1; what was recorded until then is kept." in analysis["problems"]
    )
    steps = {rank["rank"]: [step["step"] for step in rank["steps"]] for rank in analysis["ranks"]}
    assert steps[1] == [2, 3, 4, 5, 6, 7]  # the ninth failed before it ended
    assert any("recorded 6 of 15 steps" in problem for problem in analysis["problems"])


@pytest.mark.parametrize("saves", [False, True])
def test_ctrl_c_while_it_is_recorded_keeps_what_was(saves: bool, tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        steps=2000,
        folder=str(tmp_path),
        checkpoint={"every_steps": 2000 if saves else 0},
        faults=[{"kind": "slow", "step": 1, "rank": 1, "seconds": DELAY_S}],
    )
    out = tmp_path / "profile"
    words = ["--out", str(out), "--steps", "200", "--warmup", "1", "--wait", "1", "--pyspy-s", "0", "--"]
    words += ["distlab", "train", "--config", settings]
    running = subprocess.Popen(
        [sys.executable, "-m", "distlab.cli", "profile", "run", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    try:
        until = time.monotonic() + 60
        while sum(len(path.read_bytes().splitlines()) for path in tmp_path.glob("*/log/rank_1.jsonl")) < 6:
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        said, heard = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130, heard
    analysis = read_analysis(out)
    assert [rank.rank for rank in analysis.ranks] == [0, 1]
    assert all(1 <= len(rank.steps) < 200 for rank in analysis.ranks)
    assert "what was recorded until then is kept" in said
    assert "of 200 steps" in said
    assert "Interrupted: waiting until the ranks have written what they recorded" in heard
    assert f"distlab profile report {out}" in said


LOOP = """
import sys
from distlab.observe.profile.capture import profiled
with profiled() as profiler:
    for _ in range(int(sys.argv[1])):
        profiler.step()
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("program", ["python", sys.executable])
def test_a_script_that_is_too_short_and_fails(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.defpath)  # with a Python, if any, that cannot import distlab
    (tmp_path / "mine.py").write_text(LOOP)
    out = tmp_path / "profile"
    assert profile_run("--out", str(out), "--", program, str(tmp_path / "mine.py"), "4", "7") == 7
    said = capfd.readouterr().err
    assert "the command failed with exit code 7" in said
    assert "the run was over after 4 steps, and recording begins after 7" in said
    assert read_description(out).exit_code == 7


def test_a_command_without_a_loop(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert profile_run("--out", str(tmp_path / "p"), "--", "true") == 1
    assert "no training that can be profiled" in capfd.readouterr().err
    assert profile_run("--out", str(tmp_path / "q"), "--", "sh", "-c", "kill -9 $$") == 128 + 9
    # The folder is taken, then.
    capfd.readouterr()
    assert profile_run("--out", str(tmp_path / "p"), "--", "true") == 2
    said = capfd.readouterr().err
    assert said == (
        f"distlab profile run: {tmp_path / 'p'} is not empty: another profile, or another's files; delete it, or set "
        "--out to a new folder.\n"
    )


def test_a_profile_that_is_killed_takes_its_command_along(tmp_path: Path) -> None:
    words = [
        "profile",
        "run",
        "--out",
        str(tmp_path / "p"),
        "--",
        "sh",
        "-c",
        f"echo $$ > {tmp_path}/pid; exec sleep 300",
    ]
    with subprocess.Popen([sys.executable, "-m", "distlab.cli", *words]) as profile:
        deadline = time.monotonic() + 60
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = int((tmp_path / "pid").read_text())
        profile.kill()
    while psutil.pid_exists(started) and psutil.Process(started).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it trains on, and nobody knows of it"
        time.sleep(0.05)


def test_bad_input_is_refused_and_nothing_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "p")
    for args, said in [
        (["--out", out], "No command is given"),
        (["--out", out, "--", "no-such-program"], "no command 'no-such-program'"),
        (["--out", out, "--steps", "0", "--", "true"], "steps is 0"),
        (["--out", out, "--pyspy-s", "-1", "--", "true"], "pyspy_s is -1"),
        (["--out", "/proc/p", "--", "true"], "Cannot write into /proc/p"),
        (["--", "true"], "--out"),
    ]:
        assert profile_run(*args) == 2
        assert said in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "echo 'Error: Permission Denied: Try running again with elevated permissions' >&2; exit 1",
            "ptrace is not",
        ),
        (
            "echo 'Error: Failed to find python version from target process' >&2; exit 1",
            "py-spy failed .Error: Failed to find",
        ),
    ],
)
def test_where_py_spy_may_not_look_it_is_one_sentence(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(tmp_path / "bin", "py-spy", script)
    monkeypatch.setattr(pyspy, "program", lambda: str(tmp_path / "bin" / "py-spy"))
    sampled = sample(tmp_path, 0, os.getpid(), 1)
    assert sampled.graph is None
    assert re.search(said, sampled.problem)
    assert "\n" not in sampled.problem
