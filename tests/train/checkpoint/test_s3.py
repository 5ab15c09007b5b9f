"""Checkpoints in an object store: a real S3 client against a local S3 server."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.faults.inject import InjectedError
from distlab.train.checkpoint import CheckpointError, Checkpoints
from distlab.train.checkpoint.folder import Folder
from distlab.train.config import CheckpointConfig, from_dict
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.records import read_info, read_log
from tests.train.checkpoint.states import blank_like, equal, leftovers, make_state

server = pytest.importorskip(
    "moto.server", reason="the S3 server is missing; pip install 's3fs' 'moto[server]'", exc_type=ImportError
)
s3fs = pytest.importorskip("s3fs", reason="the S3 client is missing; pip install 's3fs' 'moto[server]'")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket; the environment points every S3 client of this machine at the server."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "learner")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("OMP_NUM_THREADS", "1")
        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        s3fs.S3FileSystem().mkdir("course")
        yield "s3://course"
    running.stop()


def loaded(checkpoints: Checkpoints) -> dict[str, Any]:
    found = checkpoints.find("latest")
    assert found is not None
    state: dict[str, Any] = blank_like(make_state(0))
    checkpoints.load(found, state)
    return state


@pytest.mark.parametrize(
    "options",
    [{}, {"incremental": True, "asynchronous": True}, {"kind": "full", "asynchronous": True}],
    ids=str,
)
def test_a_bucket_keeps_a_run(bucket: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(f"{bucket}/runs/{len(str(options))}")
    checkpoints = Checkpoints(folder.url, keep=2, **options)
    assert checkpoints.find() is None
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step), {"loss": 0.5})
    checkpoints.wait()
    assert equal(loaded(Checkpoints(folder.url)), make_state(3))
    marks = [name for name in folder.names() if name.endswith(".json")]
    assert marks == ["step_2.json", "step_3.json"]
    assert not leftovers(folder)

    found = checkpoints.find("step_3")
    assert found is not None
    victim = max(found.files, key=found.files.__getitem__)
    folder.write(victim, b"?" * found.files[victim])
    assert equal(loaded(checkpoints), make_state(2))
    assert victim in caplog.text
    folder.remove([victim])
    assert equal(loaded(checkpoints), make_state(2))
    checkpoints.save(3, make_state(3))
    assert equal(loaded(checkpoints), make_state(3))


def test_unchanged_shards_are_not_sent_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, int] = {}
    real = Folder.write

    def write(self: Folder, name: str, content: bytes | memoryview) -> None:
        sent[name] = len(content)
        real(self, name, content)

    checkpoints = Checkpoints(f"{bucket}/runs/frozen", incremental=True)
    state = make_state(1)
    checkpoints.save(1, state)
    state["progress"]["step"] = 2
    monkeypatch.setattr(Folder, "write", write)
    Checkpoints(f"{bucket}/runs/frozen", incremental=True).save(2, state)
    assert sum(sent.values()) < state["model"]["matrix"].nbytes
    assert equal(loaded(checkpoints), state)


def test_a_bucket_that_is_not_there_is_one_sentence(bucket: str) -> None:
    with pytest.raises(SettingError, match="cannot be written to 's3://nosuch/run'"):
        Checkpoints("s3://nosuch/run")


def test_a_server_that_goes_away_is_no_damage(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be reached is not taken for lost: no older checkpoint is loaded in its place."""
    other = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    other.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*other.get_host_and_port()))
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("gone")
    s3fs.S3FileSystem.clear_instance_cache()
    checkpoints = Checkpoints("s3://gone/run")
    checkpoints.save(1, make_state(1))
    other.stop()
    with pytest.raises(CheckpointError, match=r"step_2\.ckpt was not saved: on rank 0.*connect"):
        checkpoints.save(2, make_state(2))
    with pytest.raises(Exception, match="connect"):
        checkpoints.find("latest")
    s3fs.S3FileSystem.clear_instance_cache()


def on_a_rank(url: str) -> None:
    for options in ({}, {"asynchronous": True, "incremental": True}):
        checkpoints = Checkpoints(f"{url}/{len(options)}", **options)
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
        assert equal(loaded(checkpoints), make_state(2))


def test_two_ranks_save_to_a_bucket(bucket: str, tmp_path: Path) -> None:
    launch(on_a_rank, 2, f"{bucket}/runs/ranks", timeout_s=120)
    assert equal(loaded(Checkpoints(f"{bucket}/runs/ranks/2")), make_state(2))


def test_a_whole_run_in_a_bucket(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, broken by a fault, taken up on another machine, and begun anew: on one URL."""
    config = from_dict(
        {
            "folder": f"{bucket}/runs",
            "name": "whole",
            "strategy": "single",
            "steps": 6,
            "model": {"width": 16},
            "data": {"source": "synthetic", "samples": 40, "global_batch": 16},
            "checkpoint": {"every_steps": 2},
            "faults": [{"kind": "raise", "step": 3}],
        }
    )
    here, there = (tmp_path / name for name in ("here", "there"))
    for machine in (here, there):
        machine.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(InjectedError):
        train(config)
    url = str(config.run_folder)
    assert [line.step for line in read_log(url)][:2] == [0, 1]
    monkeypatch.chdir(there)
    second = train(
        replace(config, resume_from_checkpoint="latest")
    )  # the mark tells that the fault has struck
    assert second.resumed_from == 2
    whole = train(replace(config, folder=None, checkpoint=CheckpointConfig(), faults=()))
    lines = read_log(url)
    assert [(line.step, line.attempt) for line in lines] == [(0, 0), (1, 0)] + [
        (step, 1) for step in range(2, 6)
    ]
    assert [line.loss for line in lines] == [step.loss for step in whole.steps]
    assert second.weights_sum == whole.weights_sum
    assert read_info(url).config["name"] == "whole"
    before = [name for name in Folder(url).names() if not name.startswith("log/")]
    assert {"faults/0.json", "step_6.json"} <= set(before)
    with pytest.raises(SettingError, match="holds checkpoints up to step 6"):
        train(replace(config, checkpoint=CheckpointConfig()))
    assert [name for name in Folder(url).names() if not name.startswith("log/")] == before
    assert read_log(url) == lines
