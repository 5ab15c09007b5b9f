"""An elastic run on an elastic cluster: nodes come for it, one is lost, and what is left is given back.

    story = lose_a_node(from_dict(RUN))       # some two minutes on two cores
    story.events, story.moments, story.pages, story.lines

All times are seconds since the run asked for its nodes. `distlab.record.node_loss.read` is such a story, told again.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distlab.bench.stamp import stamp
from distlab.errors import SettingError
from distlab.faults.drills.report import DrillError, Event, note
from distlab.faults.drills.report import events as events_of
from distlab.machine import free_memory_bytes
from distlab.observe.scrape import NoAnswerError, fetch
from distlab.train.config import TrainConfig
from distlab.train.ray_cluster import ElasticCluster, NodeType, elastic_cluster
from distlab.train.ray_local import environment
from distlab.train.ray_train import train_with_ray
from distlab.train.records import read_log

RUN: dict[str, Any] = {
    "name": "elastic",
    "folder": "runs",
    "strategy": "ddp",
    "steps": 30,
    "model": {"kind": "cnn", "width": 32},
    "data": {"global_batch": 480},
    "checkpoint": {"every_steps": 5},
    "resume_from_checkpoint": "latest",
    "max_restarts": 3,
    # The first rank sleeps in every step: the node dies at the step it is meant to, however fast the machine is.
    "faults": [{"kind": "slow", "step": 1, "rank": 0, "seconds": 0.4}],
}
"""The run of MOD-202's first lab."""
NODES = NodeType(cpus=1, most=2)
IDLE_S, AFTER_STEPS = 15.0, 12
NOTICED = "noticed"
PATIENCE_S = 300
"""A node that has neither come nor gone after so long does not."""
POLL_S, PAGE_S = 0.05, 1.0
MEMORY_BYTES = 3 * 2**30
"""What is needed: 2.6 and 2.8 GiB were measured at the peak, in some 25 processes (Ray 2.60, torch 2.13)."""
PLACES_S = 10
"""At first Ray wants the places back that went with a dead node. By default it waits a minute for them."""


@dataclass(frozen=True)
class Story:
    """What happened, as plain data."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """{"what", "time"} each: `asked`, `nodes came`, `killed`, `noticed` (by Ray Train), `marked dead` (by Ray's
    table of nodes), `trained`, `nodes gone`; and `step` with "step", "seconds", "world_size" for each optimizer step
    that was made, also those that were lost."""
    moments: list[dict[str, float]] = field(default_factory=list)
    """{"time", "nodes", "cpus", "used"}: the cluster five times a second; nodes and places beside the head's."""
    pages: list[tuple[float, str]] = field(default_factory=list)
    """What the autoscaler told Prometheus, about once a second: (time, text)."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """The run's log at the end: {"step", "rank", "world_size", "samples", "step_s", "time"}."""
    idle_s: float = 0.0
    stamp: str = ""

    def at(self, what: str) -> float:
        """When the first event of that name happened."""
        return next(float(event["time"]) for event in self.events if event["what"] == what)


def lose_a_node(
    config: TrainConfig,
    node: NodeType = NODES,
    idle_s: float = IDLE_S,
    after_steps: int = AFTER_STEPS,
) -> Story:
    """Train on as many workers as the cluster has nodes at most, and kill the newest node after so many steps.

    config: needs checkpoints, `max_restarts`, and a folder for its log; `resume_from_checkpoint` is "latest".
    idle_s: after which a node without work is given back.

    SettingError without Ray or memory for it, DrillError where nodes do not come or go.
    """
    if not config.max_restarts:  # which needs checkpoints, and these a folder
        raise SettingError("max_restarts is 0; the run is to come back, so allow it at least 1.")
    if (free := free_memory_bytes()) < MEMORY_BYTES:
        raise SettingError(
            f"The cluster and its run take up to {MEMORY_BYTES / 2**30:.0f} GiB of memory; here are "
            f"{free / 2**30:.1f} GiB to be had."
        )
    assert config.run_folder is not None
    with (
        environment({"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(PLACES_S)}),
        elastic_cluster(node, idle_s) as cluster,
        cluster.watched() as moments,
    ):
        from ray.autoscaler.sdk import request_resources

        asked = time.time()
        request_resources(num_cpus=node.cpus * node.most)
        witness = _Witness(cluster, config.run_folder, after_steps)
        with witness:
            _wait_for(cluster, node.most)
            came = time.time()
            results = train_with_ray(
                config, num_workers=(1, node.most), use_gpu=node.gpus > 0, callbacks=[_notes(config)]
            )
            if results[0].interrupted:
                raise KeyboardInterrupt
            trained = time.time()
            request_resources(num_cpus=0)
            _wait_for(cluster, 0)
            gone = time.time()
    lines = [
        {name: getattr(line, name) for name in ("step", "rank", "world_size", "samples", "step_s", "time")}
        for line in read_log(config.run_folder)
    ]
    if witness.killed_at is None:
        raise DrillError(
            f"The run was over before it had made {after_steps} steps with a node to lose; let it take more steps."
        )
    noticed = [e.time_s for e in events_of(config) if e.name == NOTICED and e.time_s >= witness.killed_at]
    if not noticed:
        raise DrillError("Ray Train did not notice that a node was killed.")
    fewer = [m.time for m in moments if m.time > witness.killed_at and m.nodes < node.most]
    named = {
        "asked": asked,
        "nodes came": came,
        "killed": witness.killed_at,
        "noticed": noticed[0],
        "marked dead": min(fewer, default=trained),
        "trained": trained,
        "nodes gone": gone,
    }
    steps = {(line["time"], line["step"]): line for line in witness.lines + lines if line["rank"] == 0}
    events: list[dict[str, Any]] = [{"what": what, "time": at - asked} for what, at in named.items()]
    events += [
        {
            "what": "step",
            "time": at - asked,
            "step": step,
            "seconds": line["step_s"],
            "world_size": line["world_size"],
        }
        for (at, step), line in steps.items()
    ]
    return Story(
        sorted(events, key=lambda event: float(event["time"])),
        [dataclasses.asdict(m) | {"time": m.time - asked} for m in moments],
        [(at - asked, text) for at, text in witness.pages],
        [line | {"time": line["time"] - asked} for line in lines],
        idle_s,
        str(stamp()),
    )


def _notes(config: TrainConfig) -> Any:
    """What notes in the run's folder when Ray Train's controller learns that workers failed."""
    import ray.train

    class Notes(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            note(config, Event(NOTICED, min(worker_exceptions), len(worker_exceptions), time.time()))

    return Notes()


class _Witness:
    """Meanwhile, keeps the autoscaler's pages, and kills a node when the run has got far enough."""

    def __init__(self, cluster: ElasticCluster, run_folder: str, after_steps: int) -> None:
        self.cluster = cluster
        self.run_folder = run_folder
        self.after_steps = after_steps
        self.pages: list[tuple[float, str]] = []
        self.lines: list[dict[str, Any]] = []
        """The log's lines as they were when the node died: a run that is resumed cuts them off."""
        self.killed_at: float | None = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def _watch(self) -> None:
        page_at = 0.0
        while not self.ended.wait(POLL_S):
            if time.time() > page_at + PAGE_S:
                page_at = time.time()
                with suppress(NoAnswerError):
                    self.pages.append((page_at, fetch(self.cluster.metrics_url).decode()))
            far = self.killed_at is None and self._steps() >= self.after_steps
            if far and (nodes := self.cluster.nodes()):
                self.killed_at = self.cluster.kill(nodes[-1])
                self.lines = [dataclasses.asdict(line) for line in read_log(self.run_folder)]

    def _steps(self) -> int:
        log = Path(self.run_folder, "log", "rank_0.jsonl")
        return log.read_bytes().count(b"\n") if log.exists() else 0


def _wait_for(cluster: ElasticCluster, nodes: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (there := len(cluster.nodes())) != nodes:
        if time.monotonic() > deadline:
            raise DrillError(f"After {PATIENCE_S} s the cluster has {there} nodes, not {nodes}.")
        time.sleep(POLL_S)
