"""A Ray cluster that grows and shrinks by itself, and what is left of it: it takes seconds to start."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.observe.scrape import scrape
from distlab.train.ray_cluster import HEAD, WORKER, NodeType, elastic_cluster, own_token
from distlab.train.sweep import processes_of

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'distlab[frameworks]'",
)

PATIENCE_S = 300
OWN = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

PROGRAM = """
import sys, time
from distlab.train.ray_cluster import NodeType, autoscaling_head, own_token
own_token()
with autoscaling_head(NodeType(), idle_s=60) as head:
    print(head.folder, flush=True)
    time.sleep(600)
"""


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@needs_ray
@pytest.mark.timeout(600)  # on a machine that has other work, too
def test_it_grows_replaces_what_was_lost_and_leaves_nothing() -> None:
    import ray
    from ray.autoscaler.sdk import request_resources

    with (
        elastic_cluster(NodeType(cpus=1, most=1), idle_s=2, interval_s=1) as cluster,
        cluster.watched() as moments,
    ):
        assert cluster.nodes() == []
        request_resources(num_cpus=1)
        wait_for(lambda: len(cluster.nodes()) == 1)
        first = cluster.nodes()[0]

        def told(kind: str) -> float:
            series = scrape(cluster.metrics_url).named("autoscaler_active_nodes")
            return sum(one.value for one in series if one.labels["NodeType"] == kind)

        wait_for(lambda: told(WORKER) == 1)
        assert told(HEAD) == 1
        cluster.kill(first)
        wait_for(lambda: any(node.id != first.id for node in cluster.nodes()))
        request_resources(num_cpus=0)
        wait_for(lambda: cluster.nodes() == [])
        with pytest.raises(SettingError, match="connected to a Ray already"), elastic_cluster():
            pass
    assert not ray.is_initialized()
    assert processes_of(cluster.folder, cluster.address) == []
    assert not Path(cluster.folder).exists()
    assert {moment.nodes for moment in moments} == {0, 1}
    assert all(0 <= moment.used <= moment.cpus for moment in moments)


@needs_ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_of_a_program_that_is_ended_nothing_is_left(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        folder = program.stdout.readline().strip()
        assert processes_of(folder) != []
        program.send_signal(number)
    wait_for(lambda: processes_of(folder) == [] and not Path(folder).exists())


def test_a_token_that_is_set_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OWN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    own_token()
    assert [name for name in OWN if name in os.environ] == ["RAY_AUTH_MODE"]
