"""`distlab train` as people type it: what it refuses, what it says, and what Ctrl-C does to it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from distlab.cli import main
from distlab.machine import LOOPBACK, free_port
from distlab.train.config import from_yaml
from distlab.train.loop import train
from distlab.train.records import LOCK
from distlab.train.strategies.options import check_options

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SMALL: dict[str, Any] = {
    "strategy": "ddp",
    "steps": 2,
    "model": {"width": 16},
    "data": {"global_batch": 64},
    "checkpoint": {"every_steps": 2},
}


def distlab_train(*args: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["train", *args])
    return int(ended.value.code or 0)


def write(folder: Path, **changes: Any) -> str:
    """A file of settings for runs in `folder`."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(SMALL | {"folder": str(folder / "runs")} | changes))
    return str(path)


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder; the lock says who looked at it last."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, its file of settings, a file of settings with a slip, and a file that is no folder."""
    folder = tmp_path_factory.mktemp("finished")
    path = write(folder)
    train(replace(from_yaml(Path(path)), strategy="single"))
    (folder / "slip.yaml").write_text("stesp: 3\n")
    (folder / "file").write_text("in the way")
    return folder


@pytest.fixture
def one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts a single rank: `distlab train` trains in this very process."""
    place = {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(free_port())}
    for name, value in (place | {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("--config {}/slip.yaml", r"There is no setting stesp; did you mean steps\?"),
        ("--steps 0", "steps is 0; it must be 1 or more, and below 2147483648."),
        (
            "--memory.offload",
            "memory.offload is True, which strategy 'ddp' cannot do; .*: fsdp, deepspeed.",
        ),
        (
            "--strategy tensor_parallel --parallel.tensor 4",
            "world_size is 1; it must be a multiple of 4, which is parallel.pipeline, 1, times parallel.tensor, 4.",
        ),
        ("--folder {}/file", "Cannot write into .*/file/run: .*; set folder to one that can be written."),
        (
            "--strategy deepspeed",
            "strategy is 'deepspeed', which is not installed; .*pip install deepspeed.*",
        ),
        (
            "",
            ".*/runs/run holds checkpoints up to step 2, .*--resume_from_checkpoint latest, .* another name.",
        ),
        (
            "--resume_from_checkpoint step_9",
            r"There is no checkpoint step_9 in .*/runs/run: .* There are: step_2\.",
        ),
        (
            "--steps 4 --resume_from_checkpoint latest --model.width 32",
            ".*/runs/run/step_2.ckpt .* another model.*",
        ),
    ],
)
def test_bad_input_is_one_sentence_and_changes_nothing(
    args: str, said: str, finished: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)  # importing it fails, as where it is not installed
    before = files(finished)
    assert distlab_train("--config", f"{finished}/run.yaml", *args.format(finished).split()) == 2
    out, err = capfd.readouterr()
    assert re.fullmatch(f"distlab train: {said}\n", err), err
    assert out == ""
    assert files(finished) == before


def test_what_ranks_refuse_comes_through_once(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(finished)
    changes = ["--steps", "4", "--resume_from_checkpoint", "latest", "--model.width", "32"]
    assert distlab_train("--config", f"{finished}/run.yaml", *changes) == 2
    out, err = capfd.readouterr()
    assert re.fullmatch("distlab train: [^\n]* another model[^\n]*\n", err), err
    assert out == "run: starting 2 ranks as processes ...\n"
    assert files(finished) == before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_files_of_settings_can_be_used(path: Path) -> None:
    check_options(from_yaml(path))


def test_two_gpus_two_steps_and_two_more(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command of module 14 on what there is: two GPUs or two processes."""
    command = ["--config", str(CONFIGS[0].with_name("fsdp_2gpu.yaml")), f"--folder={tmp_path}"]
    assert distlab_train(*command, "--steps=2") == 0
    assert "fsdp_2gpu: 2 steps with fsdp on 2 ranks" in capfd.readouterr().out
    command += ["--steps=4", "--resume_from_checkpoint", "latest"]
    assert distlab_train(*command) == 0
    assert "fsdp_2gpu: 4 steps (from step 2 on) with fsdp on 2 ranks" in capfd.readouterr().out
    run = tmp_path / "fsdp_2gpu"
    before = files(run)
    assert distlab_train(*command) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == f"fsdp_2gpu is finished: 4 of 4 steps are in {run}. Nothing to do."
    assert err == ""
    after = files(run)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} <= {"log/run.json"}, (
        "what ran last, and when"
    )


class Terminal:
    """`distlab train` in a process group of its own, which gets a signal as from the keys of a terminal."""

    def __init__(self, config: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distlab.train", "--config", config],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, reached: Callable[[], bool]) -> None:
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def ranks(self) -> list[psutil.Process]:
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if process.name().startswith("rank ")]

    def ctrl_c(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def outcome(self, ranks: list[psutil.Process]) -> tuple[int, str, str]:
        """Exit code, standard output and error, once this and all its ranks are gone."""
        out, err = self.process.communicate(timeout=120)
        assert psutil.wait_procs(ranks, timeout=60)[1] == []
        return self.process.returncode, out, err


def catches_ctrl_c(process: psutil.Process) -> bool:
    """Has it a handler for SIGINT? (proc(5): SigCgt is a mask in which the lowest bit stands for signal 1.)"""
    [mask] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def resume(config: str, capfd: pytest.CaptureFixture[str], steps: int) -> tuple[int, int]:
    """The step that the run goes on from, and the one it ends at."""
    args = ["--config", config, "--resume_from_checkpoint", "latest", f"--steps={steps}", "--json"]
    assert distlab_train(*args) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    return result["resumed_from"], result["steps"]


def test_ctrl_c_ends_the_step_saves_and_exits_with_0(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, steps=100_000, checkpoint={"every_steps": 50_000})
    terminal = Terminal(config)
    log = tmp_path / "runs/run/log/rank_0.jsonl"
    terminal.wait_for(lambda: log.exists() and "\n" in log.read_text())
    ranks = terminal.ranks()
    assert len(ranks) == 2
    terminal.ctrl_c()
    code, out, err = terminal.outcome(ranks)
    assert (code, err) == (0, "")
    steps = len(log.read_text().splitlines())
    assert steps < 50_000
    assert out.splitlines()[-1] == (
        f"run was interrupted after step {steps}: the last step is saved; go on with "
        "--resume_from_checkpoint latest."
    )
    assert [path.name for path in tmp_path.glob("runs/run/step_*.json")] == [f"step_{steps}.json"]
    assert resume(config, capfd, steps + 2) == (steps, steps + 2)


def test_a_second_ctrl_c_is_a_crash_that_costs_no_checkpoint(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It comes while the step that the first one lets end is hanging on rank 1."""
    hang = {"kind": "hang", "step": 5, "rank": 1}
    config = write(tmp_path, steps=8, checkpoint={"every_steps": 3}, faults=[hang])
    terminal = Terminal(config)
    terminal.wait_for((tmp_path / "runs/run/faults/0.json").exists)
    ranks = terminal.ranks()
    [hanging] = [rank for rank in ranks if rank.name() == "rank 1"]
    terminal.ctrl_c()
    terminal.wait_for(lambda: not catches_ctrl_c(hanging))  # the first has come; the next is not to be caught
    saved = files(tmp_path / "runs/run/step_3.ckpt")
    terminal.ctrl_c()
    code, _, err = terminal.outcome(ranks)
    assert (code, err) == (
        130,
        "run was interrupted before a step was saved; what was saved before stands.\n",
    )
    assert [path.name for path in tmp_path.glob("runs/run/step_*.json")] == ["step_3.json"]
    assert files(tmp_path / "runs/run/step_3.ckpt") == saved
    assert resume(config, capfd, 8) == (3, 8)
