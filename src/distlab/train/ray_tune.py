"""Ray Tune: many runs of one configuration with a few settings varied, and time for the promising ones only.

    tune(TrainConfig(), {"optimizer.learning_rate": (0.01, 1.0)}, scheduler="pbt")
    search(TrainConfig(steps=80), {"optimizer.learning_rate": (0.01, 1.0)}, "asha", trials=64, budget=640).reports

- `asha` stops the worse half of the trials that have come as far, at so many steps, twice as many, four times
  as many: most of the time goes to few trials. (Li et al. 2020, A System for Massively Parallel Hyperparameter
  Tuning.)
- `pbt`, population-based training, gives up nothing: a trial that is behind goes on from the checkpoint of one
  that leads, with settings a little changed. What it finds is not one value but a schedule: each trial's
  `lineage` says which settings its weights were trained with. (Jaderberg et al. 2017, Population Based Training
  of Neural Networks.)
- `random` trains every trial to the end: what the others have to beat on the same `budget` of steps.

A trial is one process, with strategy `single`: a configuration is the same mathematics with every exact strategy
at every world size, so that what is found holds for the distributed run. As many trials run at a time as there
are cores, or GPUs.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from distlab.errors import LaunchError, SettingError
from distlab.machine import cores
from distlab.train.config import CheckpointConfig, TrainConfig
from distlab.train.ray_local import environment, local_ray, require_ray
from distlab.train.variation import CHANGES, Stage, as_trial, vary

Range = tuple[float, float]
"""Values between two positive ones, drawn so that each factor between them is as likely as any other."""
Space = Mapping[str, Sequence[Any] | Range]
"""What to vary: a list of choices, or a `Range`, by the dotted name of a setting."""

Scheduler = Literal["asha", "pbt", "random"]

OWN_CTRL_C = {"TUNE_DISABLE_SIGINT_HANDLER": "1"}
"""Ray would end the trials in its own time, and return those that have no result yet as if they had one."""

NEWEST = "newest.json"
"""What Ray keeps for a trial beside our checkpoint: where that lies, and the lineage of its weights."""


@dataclass(frozen=True)
class Trial:
    """What one trial came to."""

    name: str
    settings: dict[str, Any]
    """Of its last step, by dotted name."""
    steps: int
    """Optimizer steps behind its weights; fewer than the run's where the scheduler stopped it."""
    held_out_loss: float
    accuracy: float
    lineage: list[Stage]
    """How its weights came about, in order."""


@dataclass(frozen=True)
class Report:
    """What a trial told its scheduler."""

    trial: str
    step: int
    """Optimizer steps behind its weights; those before a copy were taken by others."""
    taken: int
    """Steps that this trial took since it last reported."""
    held_out_loss: float


@dataclass(frozen=True)
class Search:
    """What a search came to."""

    trials: list[Trial]
    """Those that have reported, lowest held-out loss first; what diverged comes last."""
    reports: list[Report]
    """In the order in which they came."""

    @property
    def spent(self) -> int:
        """Optimizer steps, over all trials."""
        return sum(report.taken for report in self.reports)


def tune(
    config: TrainConfig, space: Space, scheduler: Scheduler = "asha", trials: int = 8, report_every: int = 10
) -> list[Trial]:
    """Try settings from `space` in place of those of `config`: the trials of `search`."""
    return search(config, space, scheduler, trials, report_every).trials


def search(
    config: TrainConfig,
    space: Space,
    scheduler: Scheduler = "asha",
    trials: int = 8,
    report_every: int = 10,
    budget: int | None = None,
) -> Search:
    """Try settings from `space` in place of those of `config`, and keep what was reported on the way.

    report_every: optimizer steps between looks of the scheduler at a trial.
    budget: optimizer steps over all trials. With the report that uses it up the search ends, whatever still runs: up
        to `report_every` steps of each other trial that runs then were for nothing, and are not counted. None: it ends
        when every trial has ended.

    Settings are drawn by `config.seed`; which trials a scheduler looks at first depends on the machine.

    Raises SettingError where Ray is missing or a setting cannot be varied so, LaunchError where a trial failed.
    Ctrl-C is KeyboardInterrupt, with Ray ended.
    """
    require_ray()
    config = as_trial(config)
    _check(config, space, scheduler, trials, report_every, budget)
    import ray
    import torch
    from ray.tune.search.basic_variant import BasicVariantGenerator

    resources = {"cpu": 1.0, "gpu": float(torch.cuda.is_available())}
    trainable = ray.tune.with_resources(
        partial(_trial, config=config, report_every=report_every, saves=scheduler == "pbt"), resources
    )
    reports: list[Report] = []
    with (
        environment(OWN_CTRL_C),
        local_ray(cores()),
        tempfile.TemporaryDirectory(prefix="distlab-ray-") as storage,
    ):
        results: Any = ray.tune.Tuner(
            trainable,
            param_space={name: _domain(values) for name, values in space.items()},
            tune_config=ray.tune.TuneConfig(
                metric="held_out_loss",
                mode="min",
                num_samples=trials,
                search_alg=BasicVariantGenerator(random_state=config.seed),
                scheduler=_scheduler(scheduler, space, config.steps, report_every),
                reuse_actors=True,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=ray.tune.RunConfig(
                storage_path=storage,
                verbose=0,
                # In a notebook Ray's own would clear what the cell has printed.
                progress_reporter=ray.tune.CLIReporter(),
                callbacks=[_progress(reports)],
                stop=_at(budget, reports),
            ),
        ).fit()
        if results.errors:
            raise LaunchError(f"{len(results.errors)} of {trials} trials failed: {results.errors[0]}", rank=0)
        table = [_outcome(i, result) for i, result in enumerate(results) if "step" in (result.metrics or {})]
    ordered = sorted(table, key=lambda trial: (math.isnan(trial.held_out_loss), trial.held_out_loss))
    return Search(ordered, reports)


def _trial(values: dict[str, Any], config: TrainConfig, report_every: int, saves: bool) -> None:
    """One trial, from the beginning or from the checkpoint that Ray hands it; ends where Ray stops it."""
    import ray.tune

    from distlab.train.loop import Trainer

    name = ray.tune.get_context().get_trial_name()
    handed = ray.tune.get_checkpoint()
    with (
        tempfile.TemporaryDirectory() as folder,
        handed.as_directory() if handed else nullcontext() as begun,
    ):
        # Ray may put a later checkpoint of a trial into the same directory: names of their own keep them apart.
        config = replace(vary(config, values), folder=folder, name=uuid.uuid4().hex)
        if saves:
            config = replace(config, checkpoint=CheckpointConfig(report_every, kind="full", keep=1))
        lineage = []
        if begun:
            before = json.loads(Path(begun, NEWEST).read_text())
            lineage = before["lineage"]
            config = replace(config, resume_from_checkpoint=f"{begun}/{before['checkpoint']}")
        with Trainer(config) as trainer:
            if not lineage or (lineage[-1]["trial"], lineage[-1]["settings"]) != (name, values):
                lineage.append(dataclasses.asdict(Stage(name, trainer.first, values)))
            reported = trainer.first
            for step in trainer.steps():
                if (step + 1) % report_every and step + 1 < config.steps:
                    continue
                result = trainer.result()
                report = {
                    "step": step + 1,
                    "taken": step + 1 - reported,
                    "held_out_loss": result.held_out_loss,
                    "accuracy": result.accuracy,
                    "lineage": lineage,
                }
                ours = None
                if saves:
                    newest = {"checkpoint": f"{config.name}/step_{step + 1}.ckpt", "lineage": lineage}
                    Path(folder, NEWEST).write_text(json.dumps(newest))
                    ours = ray.tune.Checkpoint.from_directory(folder)
                reported = step + 1
                ray.tune.report(report, checkpoint=ours)


def _check(
    config: TrainConfig, space: Space, scheduler: str, trials: int, report_every: int, budget: int | None
) -> None:
    """SettingError for what no trial could run with."""
    from distlab.train.strategies.options import check_options, setting

    if scheduler not in get_args(Scheduler):
        raise SettingError(f"scheduler is {scheduler!r}; expected one of {', '.join(get_args(Scheduler))}.")
    for name, count in (("trials", trials), ("report_every", report_every), ("budget", budget)):
        if count is not None and count < 1:
            raise SettingError(f"{name} is {count}; it must be 1 or more.")
    if not space:
        raise SettingError(
            "There is nothing to vary; name a setting, such as optimizer.learning_rate=0.01..1."
        )
    for name, values in space.items():
        if scheduler == "pbt" and name not in CHANGES:
            raise SettingError(
                f"{name} cannot change in the middle of a run, as population-based training would have it; vary "
                f"{' or '.join(CHANGES)}, or use scheduler 'asha'."
            )
        if not values or (isinstance(values, tuple) and not 0 < values[0] < values[1]):
            raise SettingError(
                f"{name} is to be drawn from {values!r}; expected choices, or two positive numbers, lower first."
            )
        for value in values:
            check_options(vary(config, {name: value}))
        if isinstance(values, tuple) and isinstance(setting(config, name), int):
            raise SettingError(f"{name} is a whole number and cannot be drawn from a range; give choices.")


def _domain(values: Sequence[Any] | Range) -> Any:
    """Ray's words for what a setting is drawn from."""
    import ray.tune

    return ray.tune.loguniform(*values) if isinstance(values, tuple) else ray.tune.choice(list(values))


def _scheduler(name: str, space: Space, steps: int, report_every: int) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining

    if name == "random":
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    if name == "asha":
        return ASHAScheduler("step", max_t=steps, grace_period=min(report_every, steps), reduction_factor=2)
    return PopulationBasedTraining(
        "step",
        perturbation_interval=report_every,
        hyperparam_mutations={setting: _domain(values) for setting, values in space.items()},
        custom_explore_fn=partial(_keep_in_range, space=dict(space)),
        log_config=False,
    )


def _keep_in_range(settings: dict[str, Any], space: Space) -> dict[str, Any]:
    """Ray changes a number by a fifth up or down, whatever its range is."""
    for name, values in space.items():
        if isinstance(values, tuple):
            settings[name] = min(max(settings[name], values[0]), values[1])
    return settings


def _progress(reports: list[Report]) -> Any:
    """Keeps each report, and tells people of it on standard error."""
    from ray.tune import Callback

    class Progress(Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            told = {name: result[name] for name in ("step", "taken", "held_out_loss")}
            reports.append(Report(str(trial), **told))
            settings = ", ".join(f"{name} {short(value)}" for name, value in result["config"].items())
            print(
                f"{trial}: step {result['step']}, held-out loss {result['held_out_loss']:.4f}, "
                f"{100 * result['accuracy']:.1f}% right ({settings})",
                file=sys.stderr,
            )

    return Progress()


def _at(budget: int | None, reports: list[Report]) -> Any:
    """Ends a search whose reports have used up its budget; None without one."""
    from ray.tune import Stopper

    if budget is None:
        return None
    most: int = budget

    class Spent(Stopper):
        def __call__(self, trial_id: str, result: Any) -> bool:
            return False

        def stop_all(self) -> bool:
            return sum(report.taken for report in reports) >= most

    return Spent()


def short(value: Any) -> str:
    """A setting's value as people read it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _name(trial: Any) -> str:
    """`trial_0` and so on; Ray counts within its own identifiers."""
    return f"trial_{int(trial.trial_id.rpartition('_')[2])}"


def _outcome(number: int, result: Any) -> Trial:
    told = result.metrics
    lineage = [Stage(**stage) for stage in told["lineage"]]
    name, settings = f"trial_{number}", lineage[-1].settings
    return Trial(name, settings, told["step"], told["held_out_loss"], told["accuracy"], lineage)
