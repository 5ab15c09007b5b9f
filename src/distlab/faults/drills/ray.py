"""Recovery through Ray Train.

    distlab drill ray              # rank 1 gets SIGKILL; Ray starts both workers again (FailureConfig)
    distlab drill ray --elastic    # one of two nodes is killed; Ray goes on with the one worker that has a place

Ray's controller, an actor, watches the workers. When one fails it stops the others, asks the cluster for
places, and starts as many workers as it gets and as `ScalingConfig(num_workers=(1, 2))` allows.
"""

from __future__ import annotations

import json as jsonlib
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from distlab.faults.drills.launcher import Launcher
from distlab.faults.drills.rank import drill_config, train_noting
from distlab.faults.drills.report import (
    DrillError,
    Event,
    Recovery,
    events,
    measure,
    note,
    present,
    struck_at,
)
from distlab.train.config import TrainConfig, from_dict
from distlab.train.ray_local import (
    OBJECT_STORE_BYTES,
    QUIET,
    START_ATTEMPTS,
    TIMED_OUT,
    local_ray,
    require_ray,
)

MAX_FAILURES = 3
KILLED, NOTICED = "killed", "noticed"
"""Events: the second node was killed; Ray's controller learnt that workers failed."""
POLL_S = 0.01
ENVIRONMENT = {
    # At first Ray wants the places back that went with a dead node. By default it waits a minute for them.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    **QUIET,
}


def ray(
    elastic: bool = False,
    strategy: Literal["ddp", "fsdp"] = "ddp",
    step: int = 12,
    steps: int = 30,
    json: bool = False,
) -> int:
    """Kill a worker, or a whole node, of a run under Ray Train, and report what the recovery cost.

    Args:
        elastic: kill one of two nodes, and let Ray go on with one worker. Otherwise one worker is killed.
        strategy: how the ranks train.
        step: the fault strikes after this many optimizer steps; a checkpoint is saved after every fifth.
        steps: of the whole run.
        json: print the report as JSON.
    """
    return present(drill_ray(elastic, strategy, step, steps), json)


def drill_ray(elastic: bool = False, strategy: str = "ddp", step: int = 12, steps: int = 30) -> Recovery:
    """The drill behind `distlab drill ray`. Ray runs below a process of its own, and is gone afterwards.

    SettingError without Ray, DrillError where the run does not come back.
    """
    require_ray()
    with tempfile.TemporaryDirectory(prefix="distlab-drill-") as folder:
        # A rank that is to vanish with its node only stops, so that the drill knows the step it was at.
        config = drill_config(Path(folder), strategy, "hang" if elastic else "kill", step, steps)
        path = Path(folder) / "config.json"
        path.write_text(jsonlib.dumps(config.as_dict()))
        command = [sys.executable, "-m", "distlab.faults.drills.ray", str(path), "elastic" * elastic]
        driver = Launcher(command, ENVIRONMENT | os.environ)
        try:
            driver.finish()
        finally:
            driver.kill()
        moments = {event.name: event.time_s for event in reversed(events(config))}  # the first of each name
        broken_at = moments.get(KILLED) if elastic else struck_at(config)
        if broken_at is None or NOTICED not in moments:
            raise DrillError(f"The fault did not strike, or Ray did not notice.\n{driver.tail()}")
        fault = "node 1 killed" if elastic else "rank 1 killed"
        return measure(config, "ray", fault, broken_at, moments[NOTICED])


def main(path: Path, elastic: bool) -> None:
    """Run as the file says under Ray, and kill a node when rank 1 stops if `elastic`."""
    config = from_dict(jsonlib.loads(path.read_text()))
    with _two_nodes() if elastic else nullcontext() as kill_node, local_ray(2):
        if kill_node is not None:
            threading.Thread(target=_kill_when_struck, args=(config, kill_node), daemon=True).start()
        _fit(config, path.parent, elastic)


def _kill_when_struck(config: TrainConfig, kill_node: Callable[[], None]) -> None:
    while struck_at(config) is None:
        time.sleep(POLL_S)
    note(config, Event(KILLED, 1, 2, time.time()))
    kill_node()


def _fit(config: TrainConfig, folder: Path, elastic: bool) -> None:
    import ray.train
    import torch
    from ray.train.torch import TorchTrainer

    class Watch(ray.train.UserCallback):
        """Runs in Ray's controller."""

        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            note(config, Event(NOTICED, min(worker_exceptions), len(worker_exceptions), time.time()))

    TorchTrainer(
        lambda: train_noting(config),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, 2) if elastic else 2,  # type: ignore[arg-type]
            use_gpu=torch.cuda.device_count() >= 2,
        ),
        run_config=ray.train.RunConfig(
            name=config.name,
            storage_path=str(folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Watch()],  # type: ignore[list-item]
        ),
    ).fit()


@contextmanager
def _two_nodes() -> Iterator[Callable[[], None]]:
    """A Ray cluster of two nodes with room for one worker each, which this process is connected to.

    Yields what kills the second node, at once.
    """
    import ray
    import torch
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the path of a socket in it has to be short
    # A Cluster notes its address for every Ray of the machine: here only for those of this process.
    os.environ["RAY_TMPDIR"] = folder
    os.mkdir(f"{folder}/ray")
    gpus = 1 if torch.cuda.device_count() >= 2 else 0
    room: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster()
    try:
        _start_node(cluster, **room, include_dashboard=False, temp_dir=folder)
        second = _start_node(cluster, **room)
        ray.init(address=cluster.address)
        yield lambda: cluster.remove_node(second, allow_graceful=False)
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]
        shutil.rmtree(folder, ignore_errors=True)


def _start_node(cluster: Any, **options: Any) -> Any:
    """Start a node, again where it took too long."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return cluster.add_node(**options)
        except Exception as error:
            if TIMED_OUT not in str(error):
                raise
    return cluster.add_node(**options)


if __name__ == "__main__":
    main(Path(sys.argv[1]), elastic=sys.argv[2] == "elastic")
