"""Record what Ray's own waiting costs: two nodes more from the autoscaler, Ray Train's start, a search by Ray Tune.

    python -m distlab.record.ray_scaling --out book/mod-202/_data/ray_scaling.json      # some minutes

Nodes are processes of one machine, started by Ray's provider for tests. A real provider adds what a cloud takes to
hand out a machine; everything else is the same code with the same timers. `read` gives the chapter what was recorded.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from distlab.bench.stamp import command, stamp
from distlab.errors import LaunchError
from distlab.record.one_file import exit_as, read_from_file, record_into_file
from distlab.train.config import TrainConfig
from distlab.train.ray_cluster import NodeType, autoscaling_head, own_token
from distlab.train.ray_local import QUIET, environment, local_ray, require_ray
from distlab.train.ray_tune import tune

FORMAT = "distlab ray scaling"
RECORDED = Path(__file__).resolve().parents[3] / "book/mod-202/_data/ray_scaling.json"
"""In the repository."""
NODES = 2
IDLE_S = 30.0
"""After which an idle node is given back. Ray's default is 300 s."""
WAIT_S = 150.0
"""Longest that anything here is waited for."""
AGAIN = "record again on a machine with less to do."
POLL_S = 0.1
IMAGES, BLOCKS = 1024, 16
TRIALS, STEPS, REPORT_EVERY = 16, 80, 5
SPACE = {"optimizer.learning_rate": (0.001, 3.0)}


@dataclass(frozen=True)
class Scaling:
    """Seconds since a job asked for two nodes, by event, in the order in which they happened; see `_scale`."""

    autoscaler: Literal["v1", "v2"]
    events: dict[str, float]
    idle_s: float


@dataclass(frozen=True)
class Search:
    """What one scheduler of Ray Tune did with the same trials."""

    scheduler: str
    wall_s: float
    steps: list[int]
    """Optimizer steps of each trial, best first."""
    losses: list[float]
    """Held-out loss of each, in the same order."""
    rates: list[float]
    """Learning rate of each at its end."""


@dataclass(frozen=True)
class RayScaling:
    """The recording."""

    command: str
    versions: dict[str, str]
    load_average: float
    """Processes that wanted a core when it began, over the last minute: above `stamp["cores"]`, times are long."""
    stamp: dict[str, Any]
    """Of `distlab.bench.stamp.Stamp`."""
    scaling: dict[str, Scaling]
    """By autoscaler, `v1` and `v2`."""
    training: dict[str, float]
    """Seconds since the program began, by event; see `_train`."""
    data: dict[str, float]
    """Seconds, by event; see `_data`."""
    searches: dict[str, Search]
    """By scheduler, `asha` and `pbt`."""

    def __str__(self) -> str:
        s, versions = self.stamp, ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"processes of one machine ({s['hardware']}, {s['cores']} cores, load average {self.load_average:.1f} as "
            f"it began), {versions}, {s['date'][:10]}, {self.command}"
        )


def read(path: Path = RECORDED) -> RayScaling:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of Ray's scaling")
    scaling = {name: Scaling(**run) for name, run in found.pop("scaling").items()}
    searches = {name: Search(**run) for name, run in found.pop("searches").items()}
    return RayScaling(**found, scaling=scaling, searches=searches)


def _scale(autoscaler: Literal["v1", "v2"]) -> Scaling:
    """Ask an empty cluster for two nodes, work on them, let go of them, and note when what happened.

    Events: `node 1 joined`, `reserved` (both bundles of a placement group), `worker 1 begins` (its process, on one of
    the nodes), `worker 1 answers` (it has its code, torch among it), `worker 1 stepped` (an optimizer step is done),
    the same for 2, `released` (the job let go), `node 1 gone`, `node 2 gone`.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    events: dict[str, float] = {}
    with autoscaling_head(NodeType(cpus=1, most=NODES), IDLE_S, version=autoscaler) as head:
        ray.init(address=head.address, logging_level=logging.ERROR, log_to_driver=False)
        try:
            began = time.time()

            def note(event: str, at: float | None = None) -> None:
                events.setdefault(event, (at or time.time()) - began)

            group = placement_group([{"CPU": 1}] * NODES, strategy="STRICT_SPREAD")
            reserved, workers = group.ready(), []
            _wait_until(lambda: len(_joined(note)) == NODES, "the nodes did not come")
            ray.get(reserved, timeout=WAIT_S)
            note("reserved")
            worker: Any = ray.remote(num_cpus=1)(_Worker)
            for bundle in range(NODES):
                place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
                workers.append(worker.options(scheduling_strategy=place).remote())
            waiting = {actor.work.remote(): number for number, actor in enumerate(workers, 1)}
            while waiting:
                done, _ = ray.wait(list(waiting), timeout=WAIT_S)
                if not done:
                    raise LaunchError(f"After {WAIT_S:.0f} s a worker did not answer; {AGAIN}", 0)
                number = waiting.pop(done[0])
                for event, at in ray.get(done[0]).items():
                    note(f"worker {number} {event}", at)
            for actor in workers:
                ray.kill(actor)
            remove_placement_group(group)
            note("released")
            gone = 0
            while gone < NODES:
                _wait_until(lambda: NODES - _alive() > gone, "the nodes did not go")  # noqa: B023
                gone = NODES - _alive()
                for number in range(1, gone + 1):
                    note(f"node {number} gone")
        finally:
            ray.shutdown()
    return Scaling(autoscaler, dict(sorted(events.items(), key=lambda item: item[1])), IDLE_S)


class _Worker:
    """What is to run on a new node: it counts as useful from its first optimizer step on."""

    def __init__(self) -> None:
        self.answers = time.time()

    def work(self) -> dict[str, float]:
        import torch

        layer = torch.nn.Linear(256, 256)
        layer(torch.ones(8, 256)).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
        begins = psutil.Process().create_time()
        return {"begins": begins, "answers": self.answers, "stepped": time.time()}


def _alive() -> int:
    """Nodes besides the head."""
    import ray

    return sum(node["Alive"] for node in ray.nodes()) - 1  # type: ignore[no-untyped-call]


def _joined(note: Callable[[str], None]) -> list[int]:
    numbers = list(range(1, _alive() + 1))
    for number in numbers:
        note(f"node {number} joined")
    return numbers


def _wait_until(happened: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not happened():
        if time.monotonic() > deadline:
            raise LaunchError(f"After {WAIT_S:.0f} s {otherwise}; {AGAIN}", 0)
        time.sleep(POLL_S)


def _train() -> dict[str, float]:
    """Start Ray and a two-worker TorchTrainer, and note when what happened.

    Events: `ray runs`, `workers start` (the last of their processes begins), `function called` (process group made,
    the last worker is in the training function), `stepped` (the last one's first optimizer step), `fit returned`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer

    function: Any = _first_step
    began, events = time.time(), {}
    with local_ray(NODES), tempfile.TemporaryDirectory(prefix="distlab-ray-") as storage:
        events["ray runs"] = time.time() - began
        trainer = TorchTrainer(
            function,
            scaling_config=ray.train.ScalingConfig(num_workers=NODES),
            run_config=ray.train.RunConfig(storage_path=storage),
        )
        found: Any = trainer.fit()
        times = found.return_value
        events |= {name: at - began for name, at in times.items()}
        events["fit returned"] = time.time() - began
    return events


def _first_step() -> dict[str, float]:
    """Runs in each worker; rank 0 returns the last time of both."""
    called = time.time()
    import torch
    import torch.distributed as dist

    layer = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(256, 256))
    layer(torch.ones(8, 256)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    times = [psutil.Process().create_time(), called, time.time()]
    everybody: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everybody, times)
    return dict(
        zip(
            ("workers start", "function called", "stepped"),
            map(max, zip(*everybody, strict=True)),
            strict=True,
        )
    )


def _search(scheduler: Literal["asha", "pbt"]) -> Search:
    """The same sixteen draws of a learning rate, under one scheduler."""
    began = time.monotonic()
    found = tune(TrainConfig(steps=STEPS, seed=1), SPACE, scheduler, TRIALS, REPORT_EVERY)
    return Search(
        scheduler,
        time.monotonic() - began,
        [trial.steps for trial in found],
        [trial.held_out_loss for trial in found],
        [trial.settings["optimizer.learning_rate"] for trial in found],
    )


def _data() -> dict[str, float]:
    """The same work by Ray Data and by a loop of this process: seconds, by event.

    Events: `loop` (all blocks, one after the other, here), `first batch` and `all batches` (of the dataset's
    iterator, from the moment it was asked for).
    """
    import ray.data

    def prepare(batch: dict[str, Any]) -> dict[str, Any]:
        return {"pixels": [_decode(int(number)) for number in batch["id"]]}

    began = time.monotonic()
    for number in range(IMAGES):
        _decode(number)
    events = {"loop": time.monotonic() - began}
    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.range(IMAGES, override_num_blocks=BLOCKS).map_batches(
        prepare, batch_size=IMAGES // BLOCKS
    )
    began = time.monotonic()
    for batch in dataset.iter_batches(batch_size=IMAGES // BLOCKS):
        events.setdefault("first batch", time.monotonic() - began)
        assert len(batch["pixels"]) == IMAGES // BLOCKS
    events["all batches"] = time.monotonic() - began
    return events


def _decode(number: int) -> Any:
    """Stands for the decoding of one image: some milliseconds of arithmetic, 150 KB of result."""
    import numpy as np

    rng = np.random.default_rng(number)
    pixels: Any = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    for _ in range(3):
        pixels = np.sort(pixels, axis=0)[::-1] ^ 1
    return pixels


def record() -> dict[str, Any]:
    """Run it all. SettingError without Ray, LaunchError where something does not come."""
    own_token()
    require_ray()
    load_average = os.getloadavg()[0]
    scaling, searches = {}, {}
    for version in ("v2", "v1"):
        scaling[version] = dataclasses.asdict(_scale(version))
        print(version, scaling[version]["events"], file=sys.stderr)
    training = _train()
    print("Ray Train", training, file=sys.stderr)
    with environment(QUIET), local_ray(NODES):
        data = _data()
        print("Ray Data", data, file=sys.stderr)
        for scheduler in ("asha", "pbt"):
            searches[scheduler] = dataclasses.asdict(_search(scheduler))
            print(scheduler, searches[scheduler]["steps"], file=sys.stderr)
    return {
        "format": FORMAT,
        "command": command(),
        "versions": {name: importlib.metadata.version(name) for name in ("ray", "torch")},
        "load_average": load_average,
        "stamp": dataclasses.asdict(stamp()),
        "scaling": scaling,
        "training": training,
        "data": data,
        "searches": searches,
    }


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("ray_scaling", record, args)


if __name__ == "__main__":
    exit_as(main)
