"""Logs say what happened, once for each step, whatever happens to the process that writes them."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.train import logs
from distlab.train.checkpoint.folder import Folder
from distlab.train.config import (
    CheckpointConfig,
    DataConfig,
    LogConfig,
    ModelConfig,
    TrainConfig,
    from_dict,
)
from distlab.train.launch import launch
from distlab.train.logs import RunLog, cut
from distlab.train.loop import train
from distlab.train.records import LogLine, read_info, read_log
from distlab.train.result import StepRecord, TrainResult
from distlab.train.strategies import build_strategy
from distlab.train.strategies.base import Strategy

SMALL = TrainConfig(model=ModelConfig(width=32), data=DataConfig(global_batch=718), steps=6, seed=3)
CPU = torch.device("cpu")


def alone(config: TrainConfig) -> Strategy:
    return build_strategy(replace(config, strategy="single"), CPU)


def record(step: int, loss: float = 0.5) -> StepRecord:
    return StepRecord(step, 0, loss, 0.1, 8, 80, 0.02, 0.001, 0.015, 0.004)


def write_steps(config: TrainConfig, first: int, last: int, **values: float) -> None:
    with RunLog(config, alone(config), first) as log:
        for step in range(first, last + 1):
            log.step(record(step, **values), [[step]])


# --- What two real ranks write ---


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[TrainResult]:
    folder = str(tmp_path_factory.mktemp("runs"))
    config = replace(SMALL, name="demo", folder=folder, log=LogConfig(samples=True, price_per_hour=36.0))
    return launch(train, 2, config, threads_per_rank=1)


def test_a_line_is_the_record_of_its_step(two_ranks: list[TrainResult]) -> None:
    lines = read_log(str(two_ranks[0].config.run_folder))
    assert [(line.step, line.rank) for line in lines] == [
        (step, rank) for step in range(6) for rank in (0, 1)
    ]
    for line in lines:
        wanted = two_ranks[line.rank].steps[line.step]
        assert {f.name: getattr(line, f.name) for f in fields(StepRecord)} == vars(wanted)
        assert (line.world_size, line.attempt, line.tier) == (2, 0, "cpu")
        assert line.samples_per_s == pytest.approx(wanted.samples / wanted.step_s)
        assert line.tokens_per_s == pytest.approx(wanted.tokens / wanted.step_s)
        assert line.ram_bytes > 50e6, "torch alone takes more"
        assert line.vram_bytes is None
        assert line.mfu is None, "a CPU has no known peak"
        assert line.cost == pytest.approx(line.run_s / 100)


def test_lines_say_which_samples_each_rank_took(two_ranks: list[TrainResult]) -> None:
    lines = read_log(str(two_ranks[0].config.run_folder))
    for line in lines:
        assert line.sample_ids is not None
        assert sum(map(len, line.sample_ids)) == line.samples
    epoch = [i for line in lines if line.epoch == 0 for part in line.sample_ids or [] for i in part]
    assert sorted(epoch) == list(range(1437))


def test_the_log_says_what_ran_and_where(two_ranks: list[TrainResult]) -> None:
    info = read_info(str(two_ranks[0].config.run_folder))
    assert from_dict(info.config) == two_ranks[0].config
    assert info.stamp["world_size"] == 2
    assert info.stamp["backend"] == "gloo"
    assert info.job == "demo"
    places = info.places()
    assert [(place.rank, place.host, place.device) for place in places] == [
        (rank, platform.node(), "cpu") for rank in (0, 1)
    ]
    assert len({place.pid for place in places} | {os.getpid()}) == 3


def test_a_run_belongs_to_the_job_that_its_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTLAB_JOB", "team-a\x1b[2J")
    config = replace(SMALL, name="demo", folder=str(tmp_path))
    write_steps(config, 0, 0)
    assert read_info(str(tmp_path / "demo")).job == "team-a?[2J"


def test_a_log_of_before_there_were_jobs_is_read(tmp_path: Path) -> None:
    config = replace(SMALL, name="demo", folder=str(tmp_path))
    write_steps(config, 0, 0)
    path = tmp_path / "demo/log/run.json"
    values = json.loads(path.read_text())
    del values["job"], values["ranks"]
    path.write_text(json.dumps(values))
    info = read_info(str(tmp_path / "demo"))
    assert (info.job, info.places()) == ("", [])


@pytest.mark.parametrize(
    "ranks",
    [
        None,
        ["rank 0"],
        [{"rank": 0}],
        [{"rank": "0", "host": "a", "pid": 1, "device": "cpu"}],
        [{"rank": 0, "host": "\x1b[2J", "pid": 1, "device": "cpu"}],
        [{"rank": 0, "host": "a", "pid": 1, "device": None}],
    ],
)
def test_forged_places_are_one_sentence(tmp_path: Path, ranks: object) -> None:
    config = replace(SMALL, name="demo", folder=str(tmp_path))
    write_steps(config, 0, 0)
    path = tmp_path / "demo/log/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ranks": ranks}))
    with pytest.raises(SettingError, match=r"holds no readable log/run\.json"):
        read_info(str(tmp_path / "demo"))


def test_time_and_cost_only_grow(two_ranks: list[TrainResult]) -> None:
    for rank in (0, 1):
        own = [line for line in read_log(str(two_ranks[0].config.run_folder)) if line.rank == rank]
        assert all(a.time <= b.time and a.run_s < b.run_s for a, b in itertools.pairwise(own))
        assert own[-1].run_s >= sum(line.step_s for line in own)


def test_after_a_kill_each_step_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a store shared over restarts, gloo may call the address of a rank that is dead.
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    config = replace(
        SMALL,
        steps=9,
        folder=str(tmp_path),
        checkpoint=CheckpointConfig(every_steps=4),
        faults=(Fault("kill", step=7, rank=1),),
    )
    results = launch(train, 2, config, threads_per_rank=1, max_restarts=1)
    assert results[0].resumed_from == 4
    for rank in (0, 1):
        own = [line for line in read_log(str(config.run_folder)) if line.rank == rank]
        assert [line.step for line in own] == list(range(9))
        assert [line.attempt for line in own] == [0] * 4 + [1] * 5
        assert [line.loss for line in own[4:]] == [step.loss for step in results[rank].steps]
        assert all(a.run_s < b.run_s for a, b in itertools.pairwise(own))


def test_no_folder_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train(replace(SMALL, strategy="single", steps=2))
    assert list(tmp_path.iterdir()) == []


# --- Appending and cutting ---


def test_a_resumed_run_goes_on_where_its_checkpoint_ends(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 5, loss=1.0)
    resumed = replace(config, resume_from_checkpoint="step_3")
    write_steps(resumed, 3, 7, loss=2.0)
    lines = read_log(str(config.run_folder))
    assert [(line.step, line.loss, line.attempt) for line in lines] == (
        [(step, 1.0, 0) for step in range(3)] + [(step, 2.0, 1) for step in range(3, 8)]
    )
    assert [line.run_s for line in lines] == sorted(line.run_s for line in lines), (
        "undone steps were paid for"
    )


def test_an_attempt_from_the_start_counts_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 2)
    spent_s = read_log(str(config.run_folder))[-1].run_s
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # it crashed before its first checkpoint
    write_steps(config, 0, 1)
    lines = read_log(str(config.run_folder))
    assert [(line.step, line.attempt) for line in lines] == [(0, 1), (1, 1)]
    assert lines[0].run_s > spent_s


def test_a_new_run_of_the_same_name_sets_the_old_log_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    run = tmp_path / "run"
    for i, loss in enumerate((1.0, 2.0, 3.0), 1):
        write_steps(config, 0, i, loss=loss)
    for folder, i in (("log.1", 1), ("log.2", 2), ("log", 3)):
        (run / folder).rename(tmp_path / "log")
        read = [(line.step, line.loss, line.attempt) for line in read_log(str(tmp_path))]
        assert read == [(step, float(i), 0) for step in range(i + 1)]
        (tmp_path / "log").rename(run / folder)
    assert f"earlier run named run is now in {run}/log.2" in capsys.readouterr().err
    (run / "log/rank_0.jsonl").write_text("")  # it never made a step
    write_steps(config, 0, 0)
    assert not (run / "log.3").exists()


def test_ranks_that_are_gone_leave_no_later_lines(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 4)
    log = tmp_path / "run" / "log"
    gone = (log / "rank_0.jsonl").read_text().replace('"rank": 0', '"rank": 1')
    (log / "rank_1.jsonl").write_text(gone)
    write_steps(replace(config, resume_from_checkpoint="step_2"), 2, 4)
    steps = [(line.step, line.rank) for line in read_log(str(config.run_folder))]
    assert steps == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (3, 0), (4, 0)]


def test_a_log_torn_at_any_byte_is_cut_to_whole_lines(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 2)
    path = tmp_path / "run" / "log" / "rank_0.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    assert len(ends) == 3
    for size in range(len(whole) + 1):
        first_step = 2 if size % 2 else 9
        path.write_bytes(whole[:size])
        cut(path, first_step)
        kept = [end for end in ends if end <= size][:first_step]
        assert path.read_bytes() == whole[: kept[-1] if kept else 0]


def test_reading_leaves_a_torn_last_line_out_and_names_a_damaged_one(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 2)
    path = tmp_path / "run" / "log" / "rank_0.jsonl"
    with path.open("a") as file:
        file.write('{"step": 3, "lo')
    assert [line.step for line in read_log(str(config.run_folder))] == [0, 1, 2]
    path.write_text(path.read_text().replace('"step": 1', '"stop": 1'))
    with pytest.raises(SettingError, match=r"rank_0.jsonl, line 2 is not a line"):
        read_log(str(config.run_folder))
    with pytest.raises(SettingError, match="holds no log"):
        read_log(str(tmp_path / "nothing"))


def test_what_was_logged_is_in_the_file_before_the_next_step(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    with RunLog(config, alone(config), 0) as log:
        for step in range(3):
            log.step(record(step), [[step]])
            assert len(read_log(str(config.run_folder))) == step + 1


def test_a_loss_that_is_no_number_is_null_and_reads_as_nan(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 0, loss=math.nan)
    text = (tmp_path / "run" / "log" / "rank_0.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None
    assert math.isnan(read_log(str(config.run_folder))[0].loss)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"step": 1', '"step": "x"'), ('"loss": 0.5', '"loss": [1]'), ('{"step": 1', "[" * 10**5)],
)
def test_a_line_of_other_types_is_named(tmp_path: Path, old: str, new: str) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 1)
    path = tmp_path / "run" / "log" / "rank_0.jsonl"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SettingError, match=r"rank_0.jsonl, line \d is not a line"):
        read_log(str(config.run_folder))
    write_steps(replace(config, resume_from_checkpoint="latest"), 2, 2)


# --- Where logs go ---


@pytest.mark.parametrize("what", ["rank_0.jsonl", "rank_7.jsonl", "log", "pipe"])
def test_a_link_in_place_of_a_log_is_refused_and_its_target_untouched(tmp_path: Path, what: str) -> None:
    victim = tmp_path / "victim"
    log = tmp_path / "run" / "log"
    log.parent.mkdir()
    if what == "log":
        victim.mkdir()
        log.symlink_to(victim)
    else:
        victim.write_text("mine\n")
        log.mkdir()
        if what == "pipe":
            os.mkfifo(log / "rank_0.jsonl")
        else:
            (log / what).symlink_to(victim)
    with pytest.raises(SettingError, match=r"Cannot write a log into .*(a link|not a regular file)"):
        write_steps(replace(SMALL, folder=str(tmp_path)), 0, 1)
    assert list(victim.iterdir()) == [] if what == "log" else victim.read_text() == "mine\n"


def test_files_of_similar_names_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "run" / "log"
    log.mkdir(parents=True)
    for name in ("rank_0.backup.jsonl", "rank_٣.jsonl"):
        (log / name).write_text("mine\n")
    config = replace(SMALL, folder=str(tmp_path))
    write_steps(config, 0, 1)
    assert (log / "rank_0.backup.jsonl").read_text() == "mine\n"
    assert [line.step for line in read_log(str(config.run_folder))] == [0, 1]


@pytest.mark.parametrize(
    "name",
    ["../up", "a/b", "..", ".hidden", "", "a\0b", "-rf", "*", "[x]", "$HOME", "a:b", "<b>", "long" * 100],
)
def test_no_name_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    with pytest.raises(SettingError):
        write_steps(replace(SMALL, folder=str(folder), name=name), 0, 0)
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}


@pytest.mark.parametrize("name", ["with space", "é", "a+b=c"])
def test_odd_names_are_only_names(name: str, tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path), name=name)
    write_steps(config, 0, 1)
    write_steps(replace(config, resume_from_checkpoint="latest"), 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [line.step for line in read_log(str(config.run_folder))] == [0, 1]


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = replace(SMALL, folder=str(tmp_path / "file"))
    with pytest.raises(SettingError, match=r"Cannot write a log into .*file/run/log: .*; set folder to"):
        RunLog(config, alone(config), 0)


@pytest.fixture
def bucket() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec")
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def test_the_log_of_a_run_in_an_object_store_is_copied_there(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(SMALL, folder=bucket)
    write_steps(config, 0, 3)
    assert [line.step for line in read_log(str(config.run_folder))] == [0, 1, 2, 3]
    assert from_dict(read_info(str(config.run_folder)).config) == config
    other_machine = tmp_path / "other"
    other_machine.mkdir()
    monkeypatch.chdir(other_machine)
    resumed = replace(config, resume_from_checkpoint="step_2")
    with suppress(RuntimeError), RunLog(resumed, alone(config), 2) as log:
        log.step(record(2), [[2]])
        raise RuntimeError("a failure copies, too")
    lines = read_log(str(config.run_folder))
    assert [(line.step, line.attempt) for line in lines] == [(0, 0), (1, 0), (2, 1)]
    third_machine = tmp_path / "third"
    third_machine.mkdir()
    monkeypatch.chdir(third_machine)
    write_steps(config, 0, 1)
    assert [(line.step, line.attempt) for line in read_log(str(config.run_folder))] == [(0, 0), (1, 0)]
    aside = Folder(f"{config.run_folder}/log.1")
    assert [json.loads(line)["step"] for line in aside.read("rank_0.jsonl").splitlines()] == [0, 1, 2]


def test_a_killed_run_that_left_no_copy_of_its_log_is_taken_up_elsewhere(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_steps(replace(SMALL, folder=bucket, resume_from_checkpoint="step_2"), 2, 3)
    assert [line.step for line in read_log(f"{bucket}/{SMALL.name}")] == [2, 3]


# --- TensorBoard, Weights & Biases ---


def resumed_run(tmp_path: Path, log: LogConfig) -> tuple[TrainConfig, list[LogLine]]:
    """A run of six steps that was taken up again from its second."""
    config = replace(
        SMALL, strategy="single", folder=str(tmp_path), checkpoint=CheckpointConfig(every_steps=2), log=log
    )
    train(replace(config, steps=4))
    train(replace(config, resume_from_checkpoint="step_2"))
    return config, read_log(str(config.run_folder))


def test_tensorboard_reads_back_each_step_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    before = "tensorflow" in sys.modules
    config, lines = resumed_run(tmp_path, LogConfig(tensorboard=True))
    assert ("tensorflow" in sys.modules) == before, "seconds to import, and half a GB"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{config.run_folder}/log/tensorboard")
    events.Reload()
    for name in ("loss", "step_s", "communication_s", "ram_bytes"):
        read = {event.step: event.value for event in events.Scalars(name)}
        assert len(events.Scalars(name)) == len(read) == 6
        assert read == pytest.approx({line.step: getattr(line, name) for line in lines})
    assert "mfu" not in events.Tags()["scalars"], "not known on a CPU"


def test_weights_and_biases_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:  # where it would call, were it online
        server.setblocking(False)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        config, lines = resumed_run(tmp_path, LogConfig(wandb=True))
        wandb.teardown()  # its process, which writes the files a moment after a run is finished, is gone
        with pytest.raises(BlockingIOError):
            server.accept()
    runs = sorted(Path(str(config.run_folder), "log", "wandb").glob("offline-run-*"))
    assert len(runs) == 2, "one for each attempt"
    last = b"".join(path.read_bytes() for path in runs[-1].glob("*.wandb"))
    for line in lines[2:]:
        assert json.dumps(line.loss).encode() in last


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_dashboard_that_cannot_work_is_one_clear_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: Any = replace(LogConfig(), **{name: True})
    config = replace(SMALL, log=log)
    with pytest.raises(SettingError, match=f"log.{name} is on but folder is not set"):
        RunLog(config, alone(config), 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    config = replace(config, folder=str(tmp_path))
    with pytest.raises(SettingError, match=f"pip install {name}"):
        RunLog(config, alone(config), 0)
    assert list(tmp_path.iterdir()) == []


# --- MFU ---


def test_mfu_is_the_models_flops_over_the_peak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "peak_flops", lambda device, precision: 1e9)
    model = ModelConfig(kind="gpt", width=64, layers=3)
    config = replace(SMALL, folder=str(tmp_path), model=model, data=DataConfig("text"))
    write_steps(config, 0, 0)
    weights = 256 * 64 + 3 * 12 * 64**2
    flops = 80 * (6 * weights + 12 * 3 * 64 * 10)  # 8 samples of 10 tokens each
    assert read_log(str(config.run_folder))[0].mfu == pytest.approx(flops / 0.02 / 1e9)


def test_a_rank_that_shares_a_model_has_its_part(tmp_path: Path) -> None:
    config = replace(SMALL, folder=str(tmp_path))
    strategy = alone(config)
    strategy.world_size, strategy.data_size = 4, 2  # two copies of the model, of two ranks each
    with RunLog(config, strategy, 0) as log:
        log.step(record(0), [])
    assert read_log(str(config.run_folder))[0].samples_per_s == pytest.approx(8 / 0.02 / 2)
