"""A Ray cluster on this machine that grows and shrinks by itself, to learn on: its nodes are processes.

    with elastic_cluster(NodeType(cpus=1, most=2), idle_s=15) as cluster, cluster.watched() as moments:
        train_with_ray(config, num_workers=(1, 2))      # nodes come, since the run asks for places
        cluster.kill(cluster.nodes()[-1])               # from a thread beside it: a machine that is switched off

The head has no places for work. Ray's own autoscaler starts nodes through Ray's provider for tests, so that only
the cloud is missing: the time to hand out a machine, and the pull of an image. Ray's own `AutoscalingCluster` ends
every Ray of the user when it starts and stops. This one ends what it started, also where its program is killed.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from distlab.errors import SettingError
from distlab.machine import free_port
from distlab.train.ray_local import (
    OBJECT_STORE_BYTES,
    QUIET,
    START_ATTEMPTS,
    TIMED_OUT,
    environment,
    not_started,
    require_ray,
)
from distlab.train.sweep import cmdline, end, processes_of, swept, with_children

Version = Literal["v1", "v2"]
INTERVAL_S = 5
"""Between two looks of the autoscaler: Ray's own."""
SAMPLE_S = 0.2
HEAD, WORKER = "ray.head.default", "worker"
"""How the autoscaler's metrics call the two kinds of nodes."""


@dataclass(frozen=True)
class NodeType:
    """The nodes that a cluster may have beside its head."""

    cpus: int = 1
    """Places for work on each, as is the next."""
    gpus: int = 0
    most: int = 2
    """So many nodes at a time."""
    least: int = 0
    """So many are there also while nothing asks for them."""


PAIR = NodeType()


@dataclass(frozen=True)
class Node:
    """An alive node beside the head."""

    id: str
    socket: str
    """The path of its raylet's socket, which its processes name."""


@dataclass(frozen=True)
class Moment:
    """The cluster at one moment."""

    time: float
    """Unix time in seconds."""
    nodes: int
    """Alive nodes beside the head."""
    cpus: float
    """Places for work on them."""
    used: float
    """Of these, how many are taken."""


@dataclass(frozen=True)
class ElasticCluster:
    """A running one; this process is connected to it."""

    address: str
    """Of the GCS."""
    metrics_url: str
    """Where the autoscaler tells Prometheus about its nodes."""
    folder: str

    def nodes(self) -> list[Node]:
        """The alive nodes beside the head, oldest first."""
        import ray

        alive = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        workers = [node for node in alive if node["Resources"].get("CPU")]
        return [
            Node(n["NodeID"], n["RayletSocketName"]) for n in sorted(workers, key=lambda n: n["NodeName"])
        ]

    def kill(self, node: Node) -> float:
        """SIGKILL for the node and all that runs on it, at once; returns when (Unix time)."""
        raylets = [
            p for p in processes_of(self.folder) if f"--raylet_socket_name={node.socket}" in cmdline(p)
        ]
        doomed = [process for raylet in raylets for process in with_children(raylet)]
        at = time.time()
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return at

    @contextmanager
    def watched(self) -> Iterator[list[Moment]]:
        """Meanwhile, note the cluster's nodes and places every 0.2 s in the list that this yields."""
        moments: list[Moment] = []
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(SAMPLE_S):
                moments.append(self.moment())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield moments
        finally:
            ended.set()
            thread.join()

    def moment(self) -> Moment:
        """The cluster now, as the GCS sees it."""
        import ray

        nodes = len(self.nodes())
        cpus = float(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        free = float(ray.available_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        return Moment(
            time.time(), nodes, cpus, max(0.0, cpus - free)
        )  # a node may come between the questions


@contextmanager
def elastic_cluster(
    node: NodeType = PAIR, idle_s: float = 60, interval_s: float = INTERVAL_S, version: Version = "v2"
) -> Iterator[ElasticCluster]:
    """Start such a cluster, and connect this process to it; nothing of it is left afterwards.

    idle_s: after which a node without work is given back.
    interval_s: between two looks of the autoscaler.
    version: of the autoscaler.

    A token of this process's own keeps others of the machine out. SettingError where Ray is missing or this process
    is connected to another Ray, LaunchError where the head does not start.
    """
    own_token()
    require_ray()
    import ray

    if ray.is_initialized():
        raise SettingError("This process is connected to a Ray already; `ray.shutdown()` lets go of it.")
    with environment(QUIET), _quiet(), autoscaling_head(node, idle_s, interval_s, version) as cluster:
        try:
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile, Ray does not print what the logs of a node say that died: here it dies on purpose."""
    import ray._private.worker as worker

    shown = worker._worker_logs_enabled
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = shown


def own_token() -> None:
    """A token for the clusters of this process; Ray's own settings stand. Ray reads it once, so it stays."""
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)})
        if "ray" in sys.modules:
            import ray._raylet as core

            compiled: Any = core  # it has no types
            compiled.Config.initialize("")
            compiled.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def autoscaling_head(
    node: NodeType, idle_s: float, interval_s: float = INTERVAL_S, version: Version = "v2"
) -> Iterator[ElasticCluster]:
    """A head without places of its own that starts nodes on this machine on demand."""
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

    ip, metrics_port = get_node_ip_address(), free_port()  # type: ignore[no-untyped-call]
    address = f"{ip}:{free_port()}"
    settings = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_METRIC_PORT": str(metrics_port),
        "AUTOSCALER_UPDATE_INTERVAL_S": str(interval_s),
    }
    provider: dict[str, Any] = {
        "type": "external",  # by its name Ray would read defaults from a file that its wheel lacks
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "gcs_address": address,
    }
    if version == "v2":
        provider |= {"launch_multiple": True, "head_node_id": FAKE_HEAD_NODE_ID}
        settings |= {
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket in it has to be short
    path = Path(folder, "autoscaling.json")
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=0", "--num-gpus=0"]
    start += [f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={path}", f"--temp-dir={folder}"]
    start += ["--disable-usage-stats", "--include-dashboard=false", "--include-log-monitor=false"]
    start += [f"--object-store-memory={OBJECT_STORE_BYTES}", f"--ray-client-server-port={free_port()}"]
    # Ray's client server names the address alone.
    with swept(folder, address), environment(QUIET), environment(settings):
        path.write_text(json.dumps(_config(node, idle_s, provider)))
        _run(start, folder, address)
        yield ElasticCluster(address, f"http://{ip}:{metrics_port}/metrics", folder)


def _config(node: NodeType, idle_s: float, provider: dict[str, Any]) -> dict[str, Any]:
    """What the autoscaler reads; it wants every key."""
    room = {"CPU": node.cpus, "object_store_memory": OBJECT_STORE_BYTES}
    if node.gpus:
        room["GPU"] = node.gpus
    commands = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
    return {
        "cluster_name": "elastic",
        "max_workers": node.most,
        "provider": provider,
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            WORKER: {
                "resources": room,
                "node_config": {},
                "min_workers": node.least,
                "max_workers": node.most,
            },
        },
        "head_node_type": HEAD,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in commands},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def _run(start: list[str], folder: str, address: str) -> None:
    """Start the head, again where it took too long. LaunchError where it does not start."""
    for attempt in range(1, START_ATTEMPTS + 1):
        done = subprocess.run(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not done.returncode:
            return
        if TIMED_OUT not in done.stdout or attempt == START_ATTEMPTS:
            raise not_started(done.stdout)
        end(folder, address)
