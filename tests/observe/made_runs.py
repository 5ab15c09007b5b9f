"""Runs that were never run: their ranks' log lines, as a run of these times would have written them.

run = MadeRun(ranks=2)
run.attempt(0, 6, flush_after={3})             # steps 0 to 5
run.attempt(4, 8, down_s=30)                   # taken up again from step 4: 4 and 5 are undone
run.written                                    # every line, in the order of its time
run.kept                                       # what is left in the log
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distlab.train.config import TrainConfig
from distlab.train.records import LOG, RUN, LogLine

Times = Callable[[int, int], tuple[float, float]]
"""data_s and compute_s of a step and rank."""


def steady(step: int, rank: int) -> tuple[float, float]:
    return 0.1, 0.7


@dataclass
class MadeRun:
    """A synchronous run: the step lasts as long as its slowest rank, the others wait."""

    ranks: int = 2
    times: Times = steady
    wire_s: float = 0.2
    """Of communication that even the slowest rank takes part in."""
    now: float = 1e9
    steps_per_epoch: int = 4
    written: list[LogLine] = field(default_factory=list)
    kept: list[LogLine] = field(default_factory=list)
    attempts: int = 0
    before_s: float = 0.0

    def attempt(
        self,
        first: int,
        end: int,
        *,
        start_s: float = 2.0,
        down_s: float = 0.0,
        flush_after: set[int] | None = None,
    ) -> None:
        """Steps first..end-1. A line comes at the end of the step after its own, or at once where a save asks for it.

        A save lasts a second. The last step's line comes at once where it is in flush_after, and never where not: the
        run was killed before.
        """
        self.kept = [line for line in self.kept if line.step < first]
        self.now += down_s
        began, waiting = self.now, list[tuple[int, list[dict[str, Any]]]]()
        self.now += start_s
        for step in range(first, end):
            parts = [self.times(step, rank) for rank in range(self.ranks)]
            step_s = max(map(sum, parts)) + self.wire_s
            self.now += step_s
            self._write(waiting, began)
            waiting = [(step, [self._values(step, rank, step_s, *part) for rank, part in enumerate(parts)])]
            if step in (flush_after or set()):
                self._write(waiting, began)
                waiting = []
                self.now += 1.0
        self.before_s = max((line.run_s for line in self.written), default=0.0)
        self.attempts += 1

    def _values(self, step: int, rank: int, step_s: float, data_s: float, compute_s: float) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": step // self.steps_per_epoch,
            "loss": 2.0 / (1 + step),
            "learning_rate": 0.1,
            "samples": 8,
            "tokens": 80,
            "step_s": step_s,
            "data_s": data_s,
            "compute_s": compute_s,
            "communication_s": step_s - data_s - compute_s,
            "rank": rank,
            "world_size": self.ranks,
            "attempt": self.attempts,
            "tier": "cpu",
            "samples_per_s": 8 / step_s,
            "tokens_per_s": 80 / step_s,
            "ram_bytes": 10**9,
            "vram_bytes": None,
            "mfu": None,
            "cost": 0.0,
        }

    def _write(self, waiting: list[tuple[int, list[dict[str, Any]]]], began: float) -> None:
        for _, ranks in waiting:
            for values in ranks:
                line = LogLine(**values, time=self.now, run_s=self.before_s + self.now - began)
                self.written.append(line)
                self.kept.append(line)


def write_info(folder: Path, **values: Any) -> None:
    """`log/run.json` of a run in this folder."""
    (folder / LOG).mkdir(parents=True, exist_ok=True)
    config = TrainConfig(name=folder.name, steps=values.pop("steps", 8)).as_dict()
    stamp = {"tier": "cpu", "hardware": "A processor"}
    info = {"config": config, "stamp": stamp, "shards": [], "job": "team", "ranks": []} | values
    (folder / LOG / RUN).write_text(json.dumps(info))


def write_lines(folder: Path, lines: list[LogLine]) -> None:
    """Append lines to the logs of their ranks."""
    (folder / LOG).mkdir(parents=True, exist_ok=True)
    for line in lines:
        with (folder / LOG / f"rank_{line.rank}.jsonl").open("a") as file:
            file.write(json.dumps(vars(line)) + "\n")
