"""Where a run begins that was started again: at its own last checkpoint, else where it was first told to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from distlab.train.config import CheckpointConfig, DataConfig, ModelConfig, TrainConfig
from distlab.train.loop import train

BASE = TrainConfig(
    name="base",
    strategy="single",
    steps=3,
    model=ModelConfig(width=16),
    data=DataConfig(global_batch=479),
)
EVERY_3 = CheckpointConfig(every_steps=3)


def test_a_restart_before_the_first_save_begins_at_the_given_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = replace(BASE, folder=str(tmp_path), checkpoint=EVERY_3)
    train(base)
    given = f"{tmp_path}/base/step_3.ckpt"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    more = replace(base, name="more", steps=5, resume_from_checkpoint=given)
    assert train(more).resumed_from == 3, "nothing of its own is saved yet"
    assert train(replace(more, steps=6)).resumed_from == 5, "its own last one is further than the given one"


def test_a_restart_of_a_run_that_had_saved_nothing_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert train(replace(BASE, folder=str(tmp_path), checkpoint=EVERY_3)).resumed_from is None
