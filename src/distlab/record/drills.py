"""Record what a killed rank, and a killed node, cost a real run under each framework's own recovery (on CPU).

    python -m distlab.record.drills --out src/distlab/record/drills.json      # some minutes

Each drill of `distlab.faults.drills` runs once, one after the other. `read` gives chapter and lab what was recorded.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distlab.bench.stamp import command
from distlab.faults.drills.horovod import drill_horovod
from distlab.faults.drills.ray import drill_ray
from distlab.faults.drills.report import Recovery
from distlab.faults.drills.torchrun import drill_torchrun
from distlab.record.one_file import exit_as, read_from_file, record_into_file

FORMAT = "distlab drills"
RECORDED = Path(__file__).with_suffix(".json")
"""In the package: MOD-202's Lab 3 shows it in sandboxes, which the book is not mounted in."""

DRILLS: dict[str, Callable[[], Recovery]] = {
    "torchrun, rank": drill_torchrun,
    "torchrun, node": lambda: drill_torchrun(nodes=2),
    "Ray Train, rank": drill_ray,
    "Ray Train, node": lambda: drill_ray(elastic=True),
    "Horovod, rank": drill_horovod,
}
"""What is killed under which engine. With torchrun and Ray Train a lost rank is replaced and a lost node is not;
Horovod, whose two ranks count as two hosts, goes on without the one it lost."""


@dataclass(frozen=True)
class Drills:
    """The recording."""

    command: str
    versions: dict[str, str]
    """Of the frameworks."""
    load_average: float
    """Processes that wanted a core when it began, over the last minute: above `stamp["cores"]`, times are long."""
    runs: dict[str, Recovery]
    """By the names in DRILLS."""

    @property
    def stamp(self) -> dict[str, Any]:
        """Of `distlab.bench.stamp.Stamp`, from the first drill."""
        return next(iter(self.runs.values())).stamp

    def __str__(self) -> str:
        s, versions = self.stamp, ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"two ranks on the CPU of one machine ({s['hardware']}, {s['cores']} cores, load average "
            f"{self.load_average:.1f} as it began), {versions}, {s['date'][:10]}, {self.command}"
        )


def read(path: Path = RECORDED) -> Drills:
    """SettingError for a file that is no such recording."""
    found = read_from_file(path, FORMAT, "recording of drills")
    runs = {name: _recovery(run) for name, run in found.pop("runs").items()}
    return Drills(**found, runs=runs)


def _recovery(run: dict[str, Any]) -> Recovery:
    fields = {name: value for name, value in run.items() if name != "recovery_s"}
    return Recovery(**fields | {"world_sizes": tuple(run["world_sizes"])})


def record() -> dict[str, Any]:
    """Run every drill. SettingError without Ray or Horovod, DrillError where a run does not come back."""
    load_average, runs = os.getloadavg()[0], {}
    for name, drill in DRILLS.items():
        found = drill()
        runs[name] = found.as_dict()
        print(f"{name}: back after {found.recovery_s:.1f} s", file=sys.stderr)
    return {
        "format": FORMAT,
        "command": command(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "ray", "horovod")},
        "load_average": load_average,
        "runs": runs,
    }


def main(args: Sequence[str]) -> int:
    """Record into a file, replacing it only when all is measured."""
    return record_into_file("drills", record, args)


if __name__ == "__main__":
    exit_as(main)
