"""Horovod does the mathematics of one process, whoever starts its ranks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import yaml
from torch import Tensor, nn

from distlab.errors import SettingError
from distlab.train.config import (
    CheckpointConfig,
    CommunicationConfig,
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    from_dict,
)
from distlab.train.launch import launch
from distlab.train.loop import Trainer, train
from distlab.train.records import read_info
from distlab.train.strategies import horovod
from distlab.train.strategies.options import check_options
from tests.train.strategies.equivalence import alone, assert_same, run_cases
from tests.train.strategies.test_pairwise import pairs

pytestmark = pytest.mark.skipif(
    find_spec("horovod") is None, reason="Horovod is not built and installed: see scripts/build_horovod"
)

HALF = 3
WHOLE = TrainConfig(
    strategy="horovod",
    steps=2 * HALF,
    model=ModelConfig("gpt", width=32, layers=2, heads=2, dropout=0.1, freeze=("blocks.0.mlp",)),
    data=DataConfig("synthetic", global_batch=7, samples=40, sequence_length=16, micro_batches=2),
    optimizer=OptimizerConfig("adamw", learning_rate=0.003, weight_decay=0.1, clip_norm=0.5),
)
LOSSY = TrainConfig(
    strategy="horovod",
    steps=30,
    model=ModelConfig(width=32),
    data=DataConfig(global_batch=64),
    communication=CommunicationConfig(compression="fp16"),
)


def test_every_pair_of_options_does_the_mathematics_of_one_process() -> None:
    configs = list(pairs("horovod", {"bucket_mb": [25.0, 0.002, 0.0]}))
    assert len(configs) >= 12
    *exact, lossy = run_cases([*configs, LOSSY])
    for config, ranks in zip(configs, exact, strict=True):
        assert_same(config, ranks)
        assert all(0 < step.communication_s < step.step_s for result in ranks for step in result.steps)
    assert_same(
        LOSSY, lossy, tolerance=2e-3
    )  # a gradient sent in fp16 has 11 bits: errors below 0.05 percent
    assert [s.loss for s in lossy[0].steps] != [s.loss for s in alone(LOSSY).steps]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What both ranks of one launch found, for several tests."""
    folder = tmp_path_factory.mktemp("runs")
    return [rank | {"folder": folder} for rank in launch(_on_ranks, 2, folder, threads_per_rank=1)]


def test_logs_and_checkpoints_say_what_carried_the_gradients(ranks: list[dict[str, Any]]) -> None:
    run_folder = ranks[0]["folder"] / WHOLE.name
    for stamp in (
        read_info(str(run_folder)).stamp,
        json.loads((run_folder / f"step_{HALF}.json").read_text())["hardware"],
    ):
        assert stamp["backend"] == "horovod 0.28.1 gloo"


def _on_ranks(folder: Path) -> dict[str, Any]:
    return {
        "whole": _run(WHOLE),
        "first": _run(_first_half(WHOLE, folder)),
        "second": _run(_second_half(WHOLE, folder)),
        "attempts": _connect_at_the_third_attempt(),
        "broadcast": _weights_after_broadcast(),
        "adasum": _adasum_refused(),
    }


def test_a_run_in_two_parts_is_the_run_in_one(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        (losses, state), (second_losses, second_state) = rank["whole"], rank["second"]
        assert second_losses == losses[HALF:]
        assert state.keys() == second_state.keys()
        assert all(torch.equal(state[name], second_state[name]) for name in state)


def test_a_run_of_two_ranks_goes_on_in_one_process(ranks: list[dict[str, Any]]) -> None:
    """Without dropout, which draws other numbers there, so that the weights alone are compared at step 3."""
    config = replace(WHOLE, strategy="single")
    with Trainer(_second_half(config, ranks[0]["folder"])) as trainer:
        assert trainer.first == HALF
        weights = trainer.strategy.state()["model"]
    _, state = ranks[0]["first"]
    assert all(torch.equal(weights[name], state[name]) for name in weights)


def test_a_refused_connection_is_tried_again_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        starts, stops, logged = rank["attempts"]
        assert starts == 3
        assert stops == 2
        assert logged == [f"Horovod could not connect its ranks, attempt {i} of 4." for i in (1, 2)]


def test_the_weights_of_rank_0_are_broadcast(ranks: list[dict[str, Any]]) -> None:
    assert [rank["broadcast"] for rank in ranks] == [[0.0, 0.0], [0.0, 0.0]]


ADASUM = replace(LOSSY, communication=CommunicationConfig(reduction="adasum"))


def test_adasum_without_mpi_says_how_to_get_it(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert "one is built for gloo" in rank["adasum"]
        assert "scripts/build_horovod mpi" in rank["adasum"]


def _adasum_refused() -> str:
    with pytest.raises(SettingError) as refused:
        horovod.Horovod(ADASUM, torch.device("cpu"))
    return str(refused.value)


def test_what_does_not_go_with_adasum_is_refused() -> None:
    hvd = horovod.import_horovod()
    clipped = replace(ADASUM, optimizer=OptimizerConfig(clip_norm=1.0))
    for config, world_size, message in (
        (ADASUM, 6, "in pairs, and there are 6; start 2, 4, 8"),
        (clipped, 2, r"optimizer.clip_norm is 1.0, which needs all of them; set it to None"),
        (replace(ADASUM, memory=MemoryConfig("fp16")), 2, "memory.precision is 'fp16', which .* to 'bf16'"),
    ):
        with pytest.raises(SettingError, match=message):
            horovod._check_adasum(config, world_size, hvd)
    for strategy in ("ddp", "fsdp"):
        with pytest.raises(SettingError, match=r"communication.reduction is 'adasum', .*: horovod"):
            check_options(replace(ADASUM, strategy=strategy))
    check_options(from_dict(yaml.safe_load("{strategy: horovod, communication: {reduction: adasum}}")))


def _run(config: TrainConfig) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of all steps, and the tensors of the state at the end."""
    torch.manual_seed(dist.get_rank())
    with Trainer(config) as trainer:
        for step in range(trainer.first, config.steps):
            trainer.step(step)
        losses = [step.loss for step in trainer.result().steps]
        state = trainer.strategy.state()
    return losses, {k: v.clone() for part in state.values() for k, v in part.items() if isinstance(v, Tensor)}


def _first_half(config: TrainConfig, folder: Path) -> TrainConfig:
    return replace(config, folder=str(folder), steps=HALF, checkpoint=CheckpointConfig(every_steps=HALF))


def _second_half(config: TrainConfig, folder: Path) -> TrainConfig:
    return replace(config, folder=str(folder), resume_from_checkpoint="latest")


def _connect_at_the_third_attempt() -> tuple[int, int, list[str]]:
    """Rank 0 cannot connect twice: how often each rank started and stopped Horovod, and what was logged."""

    class Refused:
        starts = stops = 0

        def init(self) -> None:
            self.starts += 1
            if dist.get_rank() == 0 and self.starts < 3:
                raise ValueError("Horovod initialization failed.")

        def shutdown(self) -> None:
            self.stops += 1

    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    horovod.log.addHandler(handler)
    hvd = Refused()
    horovod.connect(hvd)
    horovod.log.removeHandler(handler)
    return hvd.starts, hvd.stops, logged


def _weights_after_broadcast() -> list[float]:
    """A model whose weights are the number of the rank, once it is wrapped."""
    strategy = horovod.Horovod(WHOLE, torch.device("cpu"))
    model = nn.Linear(1, 1)
    for parameter in model.parameters():
        nn.init.constant_(parameter, dist.get_rank())
    weights = [parameter.item() for parameter in strategy.wrap(model).parameters()]
    strategy.close()
    return weights


def test_horovodrun_starts_the_ranks() -> None:
    config = replace(LOSSY, strategy="single", steps=5, communication=CommunicationConfig())
    changes = "--strategy horovod --steps 5 --model.width 32 --data.global_batch 64 --json"
    done = subprocess.run(
        [
            *(sys.executable, Path(sys.executable).with_name("horovodrun"), "-np", "2", "--disable-cache"),
            *(sys.executable, "-m", "distlab.train", *changes.split()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if '"held_out_loss"' in line]
    summary = json.loads(line[line.index("{") :])
    assert summary["world_size"] == 2
    assert summary["loss"] == pytest.approx(train(config).steps[-1].loss, abs=2e-5)


def test_a_missing_horovod_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "horovod", None)
    monkeypatch.delitem(sys.modules, "horovod.torch", raising=False)
    with pytest.raises(SettingError, match="scripts/build_horovod gloo"):
        horovod.import_horovod()
