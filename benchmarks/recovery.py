"""From the kill of a rank to the first new step, under each engine: medians over a few drills."""

from __future__ import annotations

import statistics

from benchmarks.results import Result

ROUNDS = 3
PARTS = ("detection_s", "restart_s", "load_s", "recovery_s")


def torchrun() -> list[Result]:
    """torchrun: the agent notices that rank 1 was killed, and starts both ranks again."""
    from distlab.faults.drills.torchrun import drill_torchrun

    return _rows("recovery.torchrun", [drill_torchrun().as_dict() for _ in range(ROUNDS)])


def ray() -> list[Result]:
    """Ray Train with FailureConfig: the controller starts the workers again."""
    from distlab.faults.drills.ray import drill_ray

    return _rows("recovery.ray", [drill_ray().as_dict() for _ in range(ROUNDS)])


def horovod() -> list[Result]:
    """Horovod Elastic: the rank that is left goes on in its own process."""
    from distlab.faults.drills.horovod import drill_horovod

    return _rows("recovery.horovod", [drill_horovod().as_dict() for _ in range(ROUNDS)])


def _rows(name: str, drills: list[dict[str, float]]) -> list[Result]:
    """The whole recovery, and its parts: `<name>.detection`, `.restart`, `.load`."""
    medians = {part: statistics.median(drill[part] for drill in drills) for part in PARTS}
    whole = medians["recovery_s"]
    rows = [Result(name, whole, "s")]
    return rows + [Result(f"{name}.{part.removesuffix('_s')}", medians[part], "s") for part in PARTS[:-1]]
