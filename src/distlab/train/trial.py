"""A trial of a search: one configuration with a few settings varied, on one process.

    with LocalTrial(TrainConfig(steps=80), {"optimizer.learning_rate": 0.1}) as leads:
        print(leads.advance(20), leads.steps)             # held-out loss after 20 optimizer steps

Ray Tune's trials (`ray_tune.py`) are processes. A `LocalTrial` lies in this one's memory: a scheduler of your own can
advance it, leave it, take it up again, and let it go on from another one's weights, in milliseconds and without Ray.
`replay` trains with the schedule of settings that a population found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

from distlab.errors import SettingError
from distlab.train.config import TrainConfig
from distlab.train.loop import Trainer
from distlab.train.result import TrainResult
from distlab.train.variation import CHANGES, Stage, as_trial, vary


class LocalTrial:
    """A trial in this process; `steps` of its optimizer steps are done.

    It is made with its data and first weights, which are those of `config.seed`. Several may be open at a time; only
    dropout would tell, as all draw from one source of random numbers.
    """

    def __init__(self, config: TrainConfig, settings: Mapping[str, Any]) -> None:
        """settings: values by dotted name, in place of those of `config`. SettingError for what there is not."""
        self.settings = dict(settings)
        self.steps = 0
        self._trainer = Trainer(vary(as_trial(config), settings))
        self._open = ExitStack()

    def __enter__(self) -> LocalTrial:
        self._open.enter_context(self._trainer)
        self._trainer.reports.log.progress = None  # it would tell a trial that waits its turn for a slow run
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def advance(self, steps: int) -> float:
        """Take so many optimizer steps more, at most up to the configuration's last; the held-out loss then.

        The loss of weights that diverged is nan or infinite.
        """
        for _ in range(min(steps, self._trainer.config.steps - self.steps)):
            self._trainer.step(self.steps)
            self.steps += 1
        return self.result().held_out_loss

    def result(self) -> TrainResult:
        """What it has come to so far."""
        return self._trainer.result()

    def copy(self, donor: LocalTrial) -> None:
        """Go on from the donor's weights, optimizer state and step; the settings stay one's own."""
        self._trainer.strategy.load_state(deepcopy(donor._trainer.strategy.state()))
        self.steps = donor.steps

    def change(self, settings: Mapping[str, Any]) -> None:
        """Use other values from the next step on. SettingError for a setting that cannot change in the middle."""
        for name in settings:
            if name not in CHANGES:
                raise SettingError(
                    f"{name} cannot change in the middle of a run; expected {' or '.join(CHANGES)}."
                )
        config = vary(self._trainer.config, settings)
        self._trainer.config = self._trainer.strategy.config = config
        self.settings |= settings


def replay(config: TrainConfig, lineage: Sequence[Stage]) -> TrainResult:
    """Train with a schedule of settings, each in force from its stage's first step on, as one run from the beginning.

    With the `seed` of the search it gives the trial's own weights again, with another one it tells how much of what
    was found holds for other first weights and another order of the data. SettingError for a lineage that does not
    begin at step 0, whose stages are out of order, or that changes what cannot change in the middle of a run.
    """
    steps = [stage.first_step for stage in lineage]
    if steps[:1] != [0]:
        begins = f"begins at step {steps[0]}" if steps else "has no stage"
        raise SettingError(f"The lineage {begins}; give one whose first stage begins at step 0.")
    if steps != sorted(steps):
        raise SettingError(f"The stages begin at steps {', '.join(map(str, steps))}; give them in order.")
    with LocalTrial(config, lineage[0].settings) as trial:
        for stage in lineage[1:]:
            trial.advance(stage.first_step - trial.steps)
            trial.change(stage.settings)
        trial.advance(config.steps - trial.steps)
        return trial.result()
