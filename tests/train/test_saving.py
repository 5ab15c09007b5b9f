"""Where a run begins that was started again: at its own last checkpoint, else where it was first told to.

And that a checkpoint which no run wrote is refused before anything of the run is touched.
"""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distlab.errors import SettingError
from distlab.faults.config import Fault
from distlab.faults.inject import InjectedError
from distlab.train.checkpoint.folder import Folder
from distlab.train.config import CheckpointConfig, DataConfig, ModelConfig, TrainConfig
from distlab.train.loop import train
from tests.train.checkpoint.test_checkpoints import reforge

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


@pytest.fixture
def three(tmp_path: Path) -> TrainConfig:
    """A run with checkpoints of steps 3, 6 and 9."""
    config = replace(BASE, folder=str(tmp_path), steps=9, checkpoint=EVERY_3)
    train(config)
    return config


def latest(config: TrainConfig) -> int | None:
    return train(replace(config, resume_from_checkpoint="latest", checkpoint=CheckpointConfig())).resumed_from


def test_a_run_that_returns_to_an_older_checkpoint_leaves_the_later_ones(
    three: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it ends before its first save, and however the older checkpoint is named."""
    monkeypatch.chdir(str(three.folder))
    back = replace(three, resume_from_checkpoint="base/step_3.ckpt")
    with pytest.raises(InjectedError):
        train(replace(back, faults=(Fault("raise", step=4, rank=0),)))
    said = capsys.readouterr().err
    assert "base goes on from step_3, which is the latest checkpoint again: step_6, step_9 of " in said
    with monkeypatch.context() as restarted:
        restarted.setenv("TORCHELASTIC_RESTART_COUNT", "1")
        assert train(replace(back, steps=4)).resumed_from == 3
    assert capsys.readouterr().err == "", "there is nothing left to leave"
    assert latest(three) == 4

    assert train(replace(three, resume_from_checkpoint="step_9", steps=10)).resumed_from == 9
    assert "step_3, step_4 of" in capsys.readouterr().err, "the way back is the same, and step_6 made room"
    assert latest(three) == 10


def test_only_a_run_that_goes_on_leaves_later_checkpoints(three: TrainConfig) -> None:
    older = replace(three, resume_from_checkpoint="step_3")
    train(replace(older, steps=3))
    assert latest(three) == 9, "it was finished"
    train(replace(older, steps=4, checkpoint=CheckpointConfig()))
    assert latest(three) == 9, "it saves nothing"
    url = f"{three.run_folder}/step_3.ckpt"
    train(replace(three, name="other", resume_from_checkpoint=url, steps=4))
    assert latest(three) == 9, "it is another run"
    shutil.rmtree(f"{three.run_folder}/log")
    Path(f"{three.run_folder}/log").symlink_to("elsewhere")
    with pytest.raises(SettingError, match="it is a link"):
        train(older)
    Path(f"{three.run_folder}/log").unlink()
    assert latest(three) == 9, "it was refused"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with one checkpoint, in one file."""
    folder = tmp_path_factory.mktemp("runs")
    train(replace(BASE, folder=str(folder), checkpoint=replace(EVERY_3, kind="full")))
    return folder / "base"


def refused(folder: Path, says: str) -> None:
    """A resume is one error, of one line, and everything in the run's folder is as it was."""

    def content() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "run.lock"}

    before = content()
    more = replace(BASE, folder=str(folder.parent), steps=4, checkpoint=EVERY_3)
    with pytest.raises(SettingError, match=rf"step_3\.ckpt .*{says}") as caught:
        train(replace(more, resume_from_checkpoint="latest"))
    assert "\n" not in str(caught.value)
    assert content() == before


@pytest.mark.parametrize(
    "kinds", [[], [{}], ["numpy"], ["cuda", "numpy", "python", "torch", "x"], "python", None]
)
def test_a_mark_of_other_random_numbers_is_refused(saved: Path, tmp_path: Path, kinds: Any) -> None:
    shutil.copytree(saved, tmp_path / "base")
    reforge(tmp_path / "base/step_3.json", lambda mark: mark.update(random=kinds))
    refused(tmp_path / "base", "was not saved by this release")


def with_random(kind: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda progress: progress["random"]["rank_0"].update({kind: value})


def with_scale(**changed: Any) -> Callable[[dict[str, Any]], None]:
    return lambda progress: progress["scale"].update(changed)


TOO_FAR = ["MT19937", [1] * 624, 10**6, 0, 0.0]
NO_RUN = "no run has; choose another checkpoint"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *[(with_random("python", value), NO_RUN) for value in ("x", None, (3, (1, 2), None), (3, 5, None))],
        (with_random("python", (*random.Random(0).getstate()[:2], "x")), NO_RUN),
        *[(with_random("numpy", value), NO_RUN) for value in ("x", [], ["MT19937", "x", 0, 0, 0.0], TOO_FAR)],
        (with_random("torch", torch.zeros(5056, dtype=torch.uint8)), NO_RUN),
        *[(with_scale(factor=value), NO_RUN) for value in ("x", None, float("nan"), -1.0)],
        (with_scale(good_steps="x"), NO_RUN),
        (
            lambda progress: progress.update(scale={1: 2}),
            "keys of a state are strings.*; choose another checkpoint",
        ),
    ],
)
def test_a_state_that_no_run_has_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], says: str
) -> None:
    shutil.copytree(saved, tmp_path / "base")
    forge(tmp_path / "base", lambda state: change(state["progress"]))
    refused(tmp_path / "base", says)


def forge(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the checkpoint of step 3 holds, with all checksums right again."""
    (path,) = (folder / "step_3.ckpt").glob("*.pt")
    state = torch.load(path, weights_only=True)
    change(state)
    content = io.BytesIO()
    torch.save(state, content)
    file = Folder(folder).put("step_3.ckpt", content.getvalue(), ".pt")

    def swap(mark: dict[str, Any]) -> None:
        files = mark["checkpoint"]["files"]
        del files[f"step_3.ckpt/{path.name}"]
        files[file] = len(content.getvalue())

    reforge(folder / "step_3.json", swap)


@pytest.mark.parametrize("value", ["x", None, -1.0])
def test_an_optimizers_settings_are_the_runs_own_whatever_a_checkpoint_says(
    saved: Path, tmp_path: Path, value: Any
) -> None:
    weights = []
    for name, forged in (("a", False), ("b", True)):
        shutil.copytree(saved, tmp_path / name / "base")
        if forged:
            forge(tmp_path / name / "base", lambda state: _set_some(state["optimizer"], value))
        more = replace(BASE, folder=str(tmp_path / name), steps=5, resume_from_checkpoint="latest")
        weights.append(train(more).weights_sum)
    assert weights[0] == weights[1]


def _set_some(optimizer: dict[str, Any], value: Any) -> None:
    names = [name for name in optimizer if name.startswith("param_groups.")]
    assert names
    optimizer.update(dict.fromkeys(names[:3], value))  # torch wants them to be the same in a group
