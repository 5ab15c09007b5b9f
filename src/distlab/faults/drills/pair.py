"""Drills of two ranks over gloo: a run that its fault ends, and the same run taken up again."""

from __future__ import annotations

import time

from distlab.errors import LaunchError
from distlab.faults.drills.report import DrillError, aside
from distlab.train.config import TrainConfig
from distlab.train.launch import launch
from distlab.train.loop import train
from distlab.train.result import TrainResult

WORLD_SIZE = 2


def train_pair(config: TrainConfig, timeout_s: float = 60.0) -> TrainResult:
    """Train on both ranks, one thread each; rank 0's result. LaunchError where one fails.

    timeout_s: how long a rank waits in a collective for the other.
    """
    with aside():
        results = launch(train, WORLD_SIZE, config, backend="gloo", threads_per_rank=1, timeout_s=timeout_s)
    return results[0]


def train_until_it_fails(config: TrainConfig, timeout_s: float = 60.0) -> tuple[str, float]:
    """Train until a fault ends the run: the first line of its error, and when it had ended (Unix time).

    DrillError where the run goes on to its end.
    """
    try:
        train_pair(config, timeout_s)
    except LaunchError as error:
        return str(error).splitlines()[0], time.time()
    faults = " and ".join(f"{fault.kind} after step {fault.step}" for fault in config.faults)
    raise DrillError(f"The run went on to its end; expected that {faults} ends it.")


def resume(config: TrainConfig) -> tuple[int, TrainResult]:
    """Take the run up again, as it is configured now: the steps that it had behind it, and rank 0's result.

    DrillError where it begins anew.
    """
    result = train_pair(config)
    if not result.resumed_from:
        raise DrillError(f"The run did not resume from a checkpoint in {config.run_folder}: it began anew.")
    return result.resumed_from, result
