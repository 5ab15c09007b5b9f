"""`distlab tune`: Ray Tune from a terminal.

distlab tune --vary optimizer.learning_rate=0.01..1 model.width=32,64,128 --trials 8
distlab tune --config configs/fsdp_2gpu.yaml --vary optimizer.learning_rate=0.0001..0.01 --scheduler pbt
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import tyro

from distlab.errors import SettingError
from distlab.train.config import TrainConfig, from_yaml
from distlab.train.ray_tune import Range, Scheduler, Trial, search, short
from distlab.train.result import finite


def parse_space(vary: Sequence[str]) -> dict[str, list[Any] | Range]:
    """`name=low..high` is a range, `name=a,b,c` choices, each as YAML reads it.

    SettingError for anything else.
    """
    import yaml

    space: dict[str, list[Any] | Range] = {}
    for text in vary:
        name, equals, values = text.partition("=")
        low, dots, high = values.partition("..")
        try:
            if not (name and equals and values):
                raise ValueError
            space[name] = (
                (float(low), float(high)) if dots else [yaml.safe_load(value) for value in values.split(",")]
            )
        except (ValueError, yaml.YAMLError):
            raise SettingError(
                f"Cannot vary {text!r}; expected a range such as optimizer.learning_rate=0.01..1, or choices such "
                "as model.width=32,64."
            ) from None
    return space


def main(
    vary: tuple[str, ...],
    config: Path | None = None,
    scheduler: Scheduler = "asha",
    trials: int = 8,
    report_every: int = 10,
    budget: int | None = None,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> int:
    """Find good settings by trying many, with Ray Tune.

    Args:
        vary: `name=low..high` for a range, `name=a,b,c` for choices; names as in a configuration file.
        config: YAML file with all other settings.
        scheduler: asha stops trials that are behind; pbt lets them go on from the weights of better ones; random
            trains all to the end.
        trials: How many settings to draw.
        report_every: Optimizer steps between looks at a trial.
        budget: Optimizer steps over all trials, with which the search ends; else with its last trial.
        as_json: Print the trials as JSON.
    """
    base = from_yaml(config) if config else TrainConfig()
    print(f"Starting Ray and {trials} trials ...", file=sys.stderr)
    with _answering_ctrl_c():
        table = search(base, parse_space(vary), scheduler, trials, report_every, budget).trials
    if as_json:
        rows = [dataclasses.asdict(trial) | {"held_out_loss": finite(trial.held_out_loss)} for trial in table]
        print(json.dumps(rows))
    else:
        _print_table(table)
    return 0


@contextmanager
def _answering_ctrl_c() -> Iterator[None]:
    """Say at once what the first Ctrl-C does, as ending Ray takes seconds; further ones would leave parts of it."""

    def answer(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(
            "Interrupted: ending the trials and Ray, which takes some seconds. What they came to stands above.",
            file=sys.stderr,
            flush=True,
        )
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _print_table(table: Sequence[Trial]) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table("trial", *table[0].settings, "steps", "held-out loss", "right", "stages")
    for trial in table:
        settings = [short(value) for value in trial.settings.values()]
        numbers = [str(trial.steps), f"{trial.held_out_loss:.4f}", f"{100 * trial.accuracy:.1f}%"]
        shown.add_row(trial.name, *settings, *numbers, str(len(trial.lineage)))
    Console().print(shown)
