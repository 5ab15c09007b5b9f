"""Training between hosts that are namespaces: the same losses as on one machine, and bytes counted at the cable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from distlab.bench.hosts import HostNetwork
from distlab.errors import LaunchError, SettingError
from distlab.faults.config import Fault
from distlab.faults.network import missing_rights
from distlab.train.config import DataConfig, LogConfig, ModelConfig, StrategyName, TrainConfig
from distlab.train.hosts import train_on_hosts
from distlab.train.loop import train
from tests.namespaces import namespaces

needs_rights = pytest.mark.skipif(missing_rights() is not None, reason=str(missing_rights()))
needs_horovod = pytest.mark.skipif(find_spec("horovod") is None, reason="see scripts/build_horovod")

CONFIG = TrainConfig(
    name="hosts",
    steps=7,
    model=ModelConfig("cnn", width=48),
    data=DataConfig(global_batch=300),
    log=LogConfig(jsonl=False),  # what is told of the steps needs none that is asked for
)
"""An epoch of 1,437 images has a fifth step of 237."""


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert missing_rights() is not None or namespaces() == set()


def check(strategy: StrategyName, folder: Path, rate_Mbits: float | None) -> None:  # noqa: N803
    """Losses of one process; steps no faster than the cable; and the bytes that a formula gives."""
    config = replace(CONFIG, strategy=strategy, folder=str(folder))
    run = train_on_hosts(config, HostNetwork(2, rate_Mbits))
    alone = train(replace(CONFIG, strategy="single"))
    assert [step.loss for step in run.steps] == pytest.approx([step.loss for step in alone.steps], rel=1e-4)
    assert [step.samples for step in run.steps] == [300] * 4 + [237] + [300] * 2
    assert all(0 <= step.communication_s <= step.step_s for step in run.steps)
    assert run.start_s > 0
    payload = 4 * alone.parameters
    # Headers and the start come on top; and Horovod's ranks talk in every cycle, a thousand times a second.
    more = 10**6 * (1 + run.wall_s * (strategy == "horovod"))
    assert all(7 * payload < sent < 7 * payload + more for sent in run.sent_bytes)
    if rate_Mbits is not None:  # a bucket of 256 KiB passes at once
        assert sum(step.step_s for step in run.steps) > (7 * payload - 2**18) * 8 / (rate_Mbits * 1e6)


@needs_rights
def test_ddp_trains_between_hosts_at_the_pace_of_their_cable(tmp_path: Path) -> None:
    check("ddp", tmp_path, 20)


@needs_rights
@needs_horovod
def test_horovod_trains_between_hosts(tmp_path: Path) -> None:
    check("horovod", tmp_path, None)


@needs_rights
def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    faults = (Fault(kind="raise", step=1, rank=1),)
    with pytest.raises(LaunchError) as caught:
        train_on_hosts(replace(CONFIG, folder=str(tmp_path), faults=faults), HostNetwork(2))
    assert caught.value.rank == 1


def test_what_does_not_go_between_hosts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="folder is None"):
        train_on_hosts(CONFIG, HostNetwork(2))
    with pytest.raises(SettingError, match="folder is 's3://bucket'"):
        train_on_hosts(replace(CONFIG, folder="s3://bucket"), HostNetwork(2))
    with pytest.raises(SettingError, match="strategy is 'single'"):
        train_on_hosts(replace(CONFIG, folder=str(tmp_path), strategy="single"), HostNetwork(2))
