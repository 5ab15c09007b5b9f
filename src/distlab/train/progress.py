"""How far a run is, for people: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import sys
import time
from datetime import timedelta

from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from distlab.train.config import TrainConfig
from distlab.train.records import LogLine

BAR_EVERY_S = 1.0
LINE_EVERY_S = 5.0


class Progress:
    """Shows loss, throughput of all ranks and remaining time; a run that is over in seconds prints no line."""

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        self.steps = config.steps
        self.text = config.model.kind == "gpt"
        self.first_step = first_step
        self.started = self.shown = time.perf_counter()
        on_terminal = sys.stdout.isatty()
        self.every_s = BAR_EVERY_S if on_terminal else LINE_EVERY_S
        self.bar: Bar | None = None
        if on_terminal:
            count, status = "step {task.completed}/{task.total}", "{task.fields[status]}"
            # No thread that draws while a step is timed: `step` does it.
            self.bar = Bar(TextColumn(count), BarColumn(), TextColumn(status), auto_refresh=False)
            self.bar.start()
            self.task = self.bar.add_task("", total=config.steps, completed=first_step, status="")

    def step(self, line: LogLine) -> None:
        """Show a step, unless the last one shown is too fresh."""
        now = time.perf_counter()
        done = line.step + 1
        if now - self.shown < self.every_s and not (self.bar is not None and done == self.steps):
            return
        self.shown = now
        left_s = (self.steps - done) * (now - self.started) / (done - self.first_step)
        rate = (line.tokens_per_s if self.text else line.samples_per_s) * line.world_size
        status = (
            f"loss {line.loss:.4f}, {rate:,.0f} {'tokens' if self.text else 'samples'}/s, "
            f"{timedelta(seconds=round(left_s))} left"
        )
        if self.bar is None:
            print(f"step {done}/{self.steps}: {status}", flush=True)
        else:
            self.bar.update(self.task, completed=done, status=status)
            self.bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.stop()
