"""Whatever ends a run, the resumed one arrives at the same bits, with every sample seen once."""

from __future__ import annotations

import json
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distlab.errors import SettingError
from distlab.faults.storage import small_disk
from distlab.train.launch import launch
from distlab.train.records import read_log
from tests.faults.runs import SEQUENCE_LENGTH, Outcome, Run, a_config, assert_each_sample_once, run

CUTS = 52
KILLED = -signal.SIGKILL


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """The run that nothing disturbs."""
    config = a_config(tmp_path_factory.mktemp("reference"))
    outcome = Run(config).outcome()
    assert outcome.exit_code == 0, outcome.error
    assert_each_sample_once(config)
    return outcome


def _resume(folder: Path, reference: Outcome, **settings: Any) -> None:
    """The rest of the run in `folder` makes up for what happened to it."""
    config = a_config(folder, resume_from_checkpoint="latest", **settings)
    outcome = Run(config).outcome()
    assert (outcome.exit_code, outcome.error) == (0, None)
    assert outcome.fingerprint == reference.fingerprint
    assert_each_sample_once(config)


def test_other_random_numbers_would_show(tmp_path: Path, reference: Outcome) -> None:
    """The comparison of fingerprints is not blind."""
    without = {"kind": "gpt", "width": 8, "layers": 1, "heads": 2, "dropout": 0.0}
    outcome = Run(a_config(tmp_path, model=without)).outcome()
    assert outcome.fingerprint not in (None, reference.fingerprint)


@pytest.mark.parametrize("step", random.Random(14).sample(range(1, 10), 3))
def test_a_process_killed_at_a_random_step(tmp_path: Path, reference: Outcome, step: int) -> None:
    faults = [{"kind": "kill", "step": step}]
    assert Run(a_config(tmp_path, faults=faults)).outcome().exit_code == KILLED
    _resume(tmp_path, reference, faults=faults)  # the fault does not strike again


@pytest.mark.parametrize(
    ("checkpoint", "cuts"),
    [
        ({"keep": 1}, CUTS // 2),
        ({"keep": 2, "incremental": True, "asynchronous": True}, CUTS // 4),
        ({"keep": 2, "kind": "full"}, CUTS // 4),
    ],
    ids=["sharded", "incremental in the background", "full"],
)
def test_a_process_killed_while_it_saves(
    tmp_path: Path, reference: Outcome, checkpoint: dict[str, Any], cuts: int
) -> None:
    settings = {"checkpoint": {"every_steps": 3, **checkpoint}}
    whole = Run(a_config(tmp_path / "whole", **settings)).outcome()
    assert whole.fingerprint == reference.fingerprint
    draw = random.Random(str(checkpoint))

    def cut(at: int, fraction: float) -> None:
        # With threads, the order of calls differs from run to run; each dies within its saves all the same.
        folder = tmp_path / str(at)
        victim = Run(a_config(folder, **settings), at, fraction)
        assert victim.outcome().exit_code == KILLED
        _resume(folder, reference, **settings)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cut, draw.sample(range(whole.calls), cuts), [draw.random() for _ in range(cuts)]))


def test_ctrl_c_ends_the_step_saves_and_exits(tmp_path: Path, reference: Outcome) -> None:
    interrupted = Run(a_config(tmp_path, faults=[{"kind": "slow", "step": 1, "seconds": 0.2}]))
    _wait_for_step(tmp_path, 0)
    interrupted.signal(signal.SIGINT)
    outcome = interrupted.outcome()
    assert (outcome.exit_code, outcome.error) == (0, None)
    marks = sorted(int(path.stem.removeprefix("step_")) for path in tmp_path.glob("run/step_*.json"))
    assert 0 < marks[-1] < 10
    lines = (tmp_path / "run/log/rank_0.jsonl").read_text().splitlines()
    assert len(lines) == marks[-1], "steps after the checkpoint, or none of those before"
    _resume(tmp_path, reference)


def test_a_second_ctrl_c_is_a_crash(tmp_path: Path, reference: Outcome) -> None:
    """It comes while the step that the first one lets end is hanging."""
    hanging = Run(a_config(tmp_path, faults=[{"kind": "hang", "step": 5}]))
    _wait_for_file(tmp_path / "run/faults/0.json")
    hanging.signal(signal.SIGINT)
    while hanging.process.is_alive():
        hanging.signal(signal.SIGINT)
        hanging.process.join(0.05)
    assert hanging.outcome().exit_code == -signal.SIGINT
    assert [path.name for path in tmp_path.glob("run/step_*.json")] == ["step_3.json"]
    _resume(tmp_path, reference)


@pytest.mark.parametrize("means", ["ENOSPC", "EFBIG"])
def test_a_full_disk_is_one_error_and_costs_no_checkpoint(
    tmp_path: Path, reference: Outcome, means: str
) -> None:
    with ExitStack() as stack:
        folder = tmp_path
        if means == "ENOSPC":
            try:
                folder = stack.enter_context(small_disk(8))
            except SettingError as error:
                pytest.skip(str(error))
        outcome = Run(a_config(folder, faults=[{"kind": "fill_disk", "step": 4}])).outcome()
        assert outcome.exit_code == 1
        assert outcome.error is not None
        says = outcome.error.splitlines()[-1]
        assert "step_6.ckpt was not saved" in says
        assert ("No space left on device" if means == "ENOSPC" else "File too large") in says
        assert [path.name for path in folder.glob("run/step_*.json")] == ["step_3.json"]
        (folder / "run/ballast").unlink(missing_ok=True)
        _resume(folder, reference)


@pytest.mark.parametrize("kind", ["damage_checkpoint", "truncate_checkpoint"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, reference: Outcome, kind: str) -> None:
    faults = [{"kind": kind, "step": 6}, {"kind": "kill", "step": 7}]
    assert Run(a_config(tmp_path, faults=faults)).outcome().exit_code == KILLED
    assert (tmp_path / "run/step_6.json").exists()
    _resume(tmp_path, reference)
    attempts = {line.step: line.attempt for line in read_log(str(tmp_path / "run"))}
    assert [step for step, attempt in attempts.items() if attempt == 0] == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "says"),
    [("raise", "InjectedError: Rank 0 fails after step 5"), ("out_of_memory", "MemoryError")],
)
def test_an_exception_loses_no_more_than_a_kill(
    tmp_path: Path, reference: Outcome, kind: str, says: str
) -> None:
    outcome = Run(a_config(tmp_path, faults=[{"kind": kind, "step": 5}])).outcome()
    assert outcome.exit_code == 1
    assert outcome.error is not None
    assert says in outcome.error.splitlines()[-1]
    _resume(tmp_path, reference)


TWO_BLOCKS = {"kind": "gpt", "width": 8, "layers": 2, "heads": 2, "dropout": 0.2}
IN_PARTS = {"source": "text", "sequence_length": SEQUENCE_LENGTH, "global_batch": 8, "micro_batches": 2}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {},
    "tensor_parallel": {"parallel": {"tensor": 2}},
    "pipeline": {"parallel": {"pipeline": 2}, "model": TWO_BLOCKS, "data": IN_PARTS},
}


def _two_ranks(folder: Path) -> dict[str, str]:
    """On a rank: each strategy undisturbed, then killed. The launcher starts the ranks again after each kill.

    What is done leaves its fingerprint in the folder, where the next start finds it.
    """
    draw = random.Random(2026)
    prints: dict[str, str] = {}
    for strategy, settings in STRATEGIES.items():
        kill = {"kind": "kill", "step": draw.randrange(1, 10), "rank": draw.randrange(2)}
        for name, faults in ((strategy, []), (f"{strategy} killed", [kill])):
            done = folder / f"{name}-{dist.get_rank()}"
            if not done.exists():
                torch.manual_seed(dist.get_rank())
                config = a_config(folder, name=name, strategy=strategy, faults=faults, **settings)
                done.write_text(run(config))
            prints[name] = done.read_text()
            dist.barrier()
    return prints


def test_a_rank_killed_at_a_random_step(tmp_path: Path) -> None:
    first, second = launch(_two_ranks, 2, tmp_path, max_restarts=len(STRATEGIES))
    for strategy, settings in STRATEGIES.items():
        for rank in (first, second):
            assert rank[strategy] == rank[f"{strategy} killed"]
        assert (first[strategy] == second[strategy]) == (
            strategy != "pipeline"
        )  # whose ranks hold other layers
        struck = json.loads((tmp_path / f"{strategy} killed/faults/0.json").read_text())
        assert struck["kind"] == "kill"
        for name in (strategy, f"{strategy} killed"):
            assert_each_sample_once(a_config(tmp_path, name=name, strategy=strategy, **settings))


def test_one_of_two_ranks_killed_while_it_saves(tmp_path: Path) -> None:
    whole = _both_ranks(tmp_path / "whole")
    assert whole[0].fingerprint == whole[1].fingerprint is not None
    draw = random.Random(41)
    for victim in (0, 1, 0, 1):
        folder = tmp_path / f"{draw.random()}"
        cut = {"cut_at": draw.randrange(whole[victim].calls), "cut_fraction": draw.random()}
        outcomes = _both_ranks(folder, cuts={victim: cut})
        assert outcomes[victim].exit_code == KILLED
        again = _both_ranks(folder, resume_from_checkpoint="latest")
        assert [rank.error for rank in again] == [None, None]
        assert [rank.fingerprint for rank in again] == [rank.fingerprint for rank in whole]
        assert_each_sample_once(a_config(folder, strategy="fsdp"))


def _both_ranks(
    folder: Path, cuts: dict[int, dict[str, Any]] | None = None, **settings: Any
) -> list[Outcome]:
    """FSDP, of which both ranks write their shards."""
    config = a_config(folder, strategy="fsdp", **settings)
    meeting = folder / f"meeting_{config.resume_from_checkpoint}"
    ranks = [Run(config, rank=rank, meeting=meeting, **(cuts or {}).get(rank, {})) for rank in range(2)]
    return [rank.outcome() for rank in ranks]


def _wait_for_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


def _wait_for_step(folder: Path, step: int) -> None:
    log = folder / "run/log/rank_0.jsonl"
    _wait_for_file(log)
    while f'"step": {step},' not in log.read_text():
        time.sleep(0.01)
