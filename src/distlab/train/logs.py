"""What a run writes down about each step: one JSON object a line, in one file a rank.

`<run folder>/log/rank_0.jsonl` holds the fields of `StepRecord` and those of `LogLine` below. A line that was
written survives the process. A run that resumes cuts what lies beyond its checkpoint and goes on appending, so
that a file read in order has each step once.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.meters import ram_bytes, vram_bytes
from distlab.train.result import StepRecord

if TYPE_CHECKING:
    from distlab.train.strategies.base import Strategy


class RunLog:
    """The log of one rank; does nothing where the run has no folder."""

    def __init__(self, config: TrainConfig, strategy: Strategy, first_step: int) -> None:
        """SettingError where the run's folder cannot be written. first_step: of those to come."""
        self.config = config
        self.strategy = strategy
        self.share = strategy.data_size / strategy.world_size
        self.file: TextIO | None = None
        if config.run_folder is not None and config.log.jsonl:
            path = Path(config.run_folder) / "log" / f"rank_{strategy.rank}.jsonl"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _cut(path, first_step)
                self.file = path.open("a", buffering=1, encoding="utf-8")  # a line goes out as it is written
            except OSError as error:
                raise SettingError(
                    f"Cannot write the log {path}: {os.strerror(error.errno or 0)}; set folder to a writable one."
                ) from None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.file is not None:
            self.file.close()

    def step(self, record: StepRecord, ids: list[list[int]]) -> None:
        """Write down a step; ids: its samples on this rank, by micro-batch."""
        if self.file is None:
            return
        line: dict[str, Any] = {
            **vars(record),
            "rank": self.strategy.rank,
            "world_size": self.strategy.world_size,
            "tier": "gpu" if self.strategy.device.type == "cuda" else "cpu",
            "time": time.time(),
            "samples_per_s": record.samples * self.share / record.step_s,
            "tokens_per_s": record.tokens * self.share / record.step_s,
            "ram_bytes": ram_bytes(),
            "vram_bytes": vram_bytes(self.strategy.device),
        }
        if self.config.log.samples:
            line["sample_ids"] = ids
        self.file.write(json.dumps(line) + "\n")


def _cut(path: Path, first_step: int) -> None:
    """Keep the whole lines of the steps before `first_step`."""
    if not path.exists():
        return
    kept = 0
    with path.open("rb+") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] >= first_step:
                    break
            except ValueError:
                break
            kept += len(line)
        file.truncate(kept)
