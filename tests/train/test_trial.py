"""Trials in memory: the same training as in one piece, whatever is interleaved, copied and changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.train.config import DataConfig, ModelConfig, TrainConfig
from distlab.train.loop import train
from distlab.train.trial import LocalTrial, replay
from distlab.train.variation import Stage, vary

RATE, CLIP = "optimizer.learning_rate", "optimizer.clip_norm"
SMALL = TrainConfig(steps=6, seed=3, model=ModelConfig(width=16), data=DataConfig(global_batch=479))


def whole(**settings: Any) -> Any:
    """Held-out loss of plain training."""
    optimizer = replace(SMALL.optimizer, **settings)
    return pytest.approx(
        train(replace(SMALL, strategy="single", optimizer=optimizer)).held_out_loss, abs=1e-6
    )


def test_trials_that_take_turns_end_as_if_each_were_alone() -> None:
    with LocalTrial(SMALL, {RATE: 0.05}) as one, LocalTrial(SMALL, {RATE: 0.2, CLIP: 0.5}) as other:
        for steps in (1, 3):
            one.advance(steps)
            other.advance(steps)
        assert one.steps == other.steps == 4
        assert one.advance(99) == whole(learning_rate=0.05)
        assert other.advance(2) == whole(learning_rate=0.2, clip_norm=0.5)
        assert one.steps == 6


def test_a_copy_goes_on_as_its_donor_would_and_leaves_it_alone() -> None:
    with LocalTrial(SMALL, {RATE: 0.1}) as donor, LocalTrial(SMALL, {RATE: 0.001}) as behind:
        behind.advance(2)
        donor.advance(4)
        behind.copy(donor)
        assert (behind.steps, behind.settings) == (4, {RATE: 0.001})
        behind.change({RATE: 0.1})
        assert behind.advance(2) == whole(learning_rate=0.1)  # momentum came along
        assert donor.advance(2) == whole(learning_rate=0.1)


def test_a_change_takes_effect_in_the_middle() -> None:
    lineage = [Stage("a", 0, {RATE: 0.1, CLIP: 0.3}), Stage("b", 2, {RATE: 0.02}), Stage("c", 3, {CLIP: 5.0})]
    with LocalTrial(SMALL, {RATE: 0.1, CLIP: 0.3}) as trial:
        trial.advance(2)
        trial.change({RATE: 0.02})
        before = trial.advance(1)
        trial.change({CLIP: 5.0})
        ended = trial.advance(3)
        assert trial.settings == {RATE: 0.02, CLIP: 5.0}
    assert replay(SMALL, lineage).held_out_loss == pytest.approx(ended, abs=1e-6)
    other = replay(SMALL, [*lineage[:1], Stage("b", 2, {CLIP: 5.0})]).held_out_loss
    assert abs(other - ended) > 1e-3
    assert before != ended


def test_a_stage_that_begins_with_another_takes_its_place() -> None:
    lineage = [Stage("a", 0, {RATE: 0.001}), Stage("b", 0, {RATE: 0.07})]
    assert replay(SMALL, lineage).held_out_loss == whole(learning_rate=0.07)


def test_one_stage_is_plain_training_and_another_seed_another_run() -> None:
    lineage = [Stage("a", 0, {RATE: 0.07})]
    assert replay(SMALL, lineage).held_out_loss == whole(learning_rate=0.07)
    assert (
        abs(replay(replace(SMALL, seed=4), lineage).held_out_loss - whole(learning_rate=0.07).expected) > 1e-4
    )


def test_what_cannot_be_is_refused() -> None:
    with LocalTrial(SMALL, {}) as trial, pytest.raises(SettingError, match="cannot change in the middle"):
        trial.change({"model.width": 8})
    for lineage in ([], [Stage("a", 2, {})]):
        with pytest.raises(SettingError, match="whose first stage begins at step 0"):
            replay(SMALL, lineage)
    with pytest.raises(SettingError, match=r"begin at steps 0, 4, 2; give them in order"):
        replay(SMALL, [Stage("a", step, {}) for step in (0, 4, 2)])
    with pytest.raises(SettingError, match=r"did you mean optimizer.learning_rate"):
        vary(SMALL, {"optimizer.learnin_rate": 1})
