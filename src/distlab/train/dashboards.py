"""The same numbers for TensorBoard and for Weights & Biases; rank 0 writes them.

    tensorboard --logdir runs            # every run below this folder
    wandb sync runs/demo/log/wandb/*     # sends an offline run to a server, if you want that

Each costs the training thread several times what the JSON line does.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.records import LogLine

SHOWN = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "step_s",
    "data_s",
    "compute_s",
    "communication_s",
    "samples_per_s",
    "tokens_per_s",
    "ram_bytes",
    "vram_bytes",
    "mfu",
    "cost",
)


class Dashboard(Protocol):
    """A place that draws the numbers of a run."""

    def write(self, line: LogLine) -> None:
        """Take up a step."""
        ...

    def close(self, failed: bool) -> None:
        """Write what is left."""
        ...


def check_dashboards(config: TrainConfig) -> None:
    """SettingError for a dashboard that is switched on and cannot work; the same on every rank."""
    for name in ("tensorboard", "wandb"):
        if not getattr(config.log, name):
            continue
        if config.run_folder is None:
            raise SettingError(f"log.{name} is on but folder is not set; set folder, such as 'runs'.")
        if importlib.util.find_spec(name) is None:
            raise SettingError(
                f"log.{name} is on but {name} is not installed; run `pip install {name}`, or switch it off."
            )


def build_dashboards(config: TrainConfig, folder: Path, first_step: int) -> list[Dashboard]:
    """Those that are switched on; they write below `folder`. SettingError where a link leads out of it."""
    for name in ("tensorboard", "wandb"):
        if getattr(config.log, name) and (folder / name).is_symlink():
            raise SettingError(
                f"{folder / name} is a link, and what it leads to may be someone else's; put a folder in its place, "
                f"or switch log.{name} off."
            )
    dashboards: list[Dashboard] = []
    if config.log.tensorboard:
        dashboards.append(TensorBoard(folder / "tensorboard", first_step))
    if config.log.wandb:
        dashboards.append(WeightsAndBiases(config, folder))
    return dashboards


def shown(line: LogLine) -> dict[str, float]:
    """The numbers that are drawn; one that is not known is left out."""
    return {name: value for name in SHOWN if (value := getattr(line, name)) is not None}


class TensorBoard:
    """Event files; their reader hides what an earlier attempt wrote for `first_step` and later ones."""

    def __init__(self, folder: Path, first_step: int) -> None:
        # With this module present, TensorBoard uses its own file access. Else it imports TensorFlow for that
        # where it finds it: seconds, and half a GB of the memory that the log is to report.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, line: LogLine) -> None:
        for name, value in shown(line).items():
            self.writer.add_scalar(name, value, line.step)

    def close(self, failed: bool) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run in `<folder>/wandb`. Offline, unless WANDB_MODE says otherwise, it needs no account or network.

    Each attempt is a run of its own; they share a group.
    """

    def __init__(self, config: TrainConfig, folder: Path) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its own failures go to no server either
        import wandb

        settings = wandb.Settings(
            console="off",  # it would take over standard output
            silent=True,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,  # a thread that samples the machine
            x_disable_meta=True,
            x_save_requirements=False,
        )
        self.run: Any = wandb.init(
            project="distlab",
            group=config.name,
            name=config.name,
            dir=folder,
            mode=None if "WANDB_MODE" in os.environ else "offline",
            config=config.as_dict(),
            reinit="create_new",
            settings=settings,
        )

    def write(self, line: LogLine) -> None:
        self.run.log(shown(line), step=line.step)

    def close(self, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))
