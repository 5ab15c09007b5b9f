"""Ray Train and Ray Tune, in one local Ray: it takes seconds to start."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from distlab.errors import LaunchError, SettingError
from distlab.faults.config import Fault
from distlab.train.config import CheckpointConfig, DataConfig, MemoryConfig, ModelConfig, TrainConfig
from distlab.train.ray_local import local_ray
from distlab.train.ray_train import RankPrefix, WorkerError, first_failure, train_with_ray
from distlab.train.ray_tune import Search, Trial, search, tune
from distlab.train.records import read_log
from distlab.train.result import StepRecord
from distlab.train.trial import replay
from distlab.train.tune import main, parse_space
from distlab.train.variation import Stage
from tests.train.strategies.equivalence import assert_same

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason="Ray is not installed: pip install 'distlab[frameworks]'",
)

SMALL = TrainConfig(steps=6, seed=3, model=ModelConfig(width=32), data=DataConfig(global_batch=479))
RATE = "optimizer.learning_rate"


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    with local_ray(2):
        import ray

        assert ray.cluster_resources()["CPU"] >= 2
        yield
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not ray.is_initialized()


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_fsdp_on_ray_equals_plain_training_also_after_a_killed_worker(tmp_path: Path) -> None:
    config = replace(
        SMALL,
        strategy="fsdp",
        folder=str(tmp_path),
        checkpoint=CheckpointConfig(every_steps=2),
        max_restarts=1,
        faults=(Fault("kill", step=3, rank=1),),
    )
    ranks = train_with_ray(config)
    assert [(result.rank, result.world_size) for result in ranks] == [(0, 2), (1, 2)]
    assert [result.resumed_from for result in ranks] == [2, 2]
    whole = [replace(result, steps=_logged(result.config, result.rank)) for result in ranks]
    plain = replace(config, faults=(), max_restarts=0, folder=None, checkpoint=CheckpointConfig())
    assert_same(plain, whole)


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_a_worker_that_fails_is_one_clear_error() -> None:
    config = replace(SMALL, strategy="single", faults=(Fault("raise", step=2, rank=0),))
    with pytest.raises(LaunchError, match="Rank 0 of 1 failed: InjectedError: Rank 0 fails") as caught:
        train_with_ray(config, num_workers=1)
    assert caught.value.rank == 0
    assert "in steps" in str(caught.value)


@needs_ray
def test_ctrl_c_ends_a_run_of_the_command_line_in_order(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "distlab.cli",
        "train",
        "--launcher",
        "ray",
        "--strategy",
        "ddp",
        "--json",
    ]
    settings = {"folder": str(tmp_path), "steps": 10**6, "checkpoint.every_steps": 10**6, "model.width": 16}
    options = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as run:
        _wait_for_step(tmp_path / "run", run)
        run.send_signal(signal.SIGINT)
        assert run.stdout is not None
        said = json.loads(run.stdout.read())
    assert run.returncode == 0
    assert (said["interrupted"], said["world_size"]) == (True, 2)
    lines = read_log(str(tmp_path / "run"))
    assert [(line.step, line.rank) for line in lines] == [
        (step, rank) for step in range(said["steps"]) for rank in (0, 1)
    ]
    assert (tmp_path / f"run/step_{said['steps']}.json").exists()


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_ctrl_c_ends_a_run_without_checkpoints_and_leaves_ray(tmp_path: Path) -> None:
    def press() -> None:
        _wait_for_step(tmp_path / "run")
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    pressing = threading.Thread(target=press, daemon=True)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        train_with_ray(replace(SMALL, steps=10**6, folder=str(tmp_path)))
    pressing.join()
    assert signal.getsignal(signal.SIGINT) == before


def _wait_for_step(run_folder: Path, process: subprocess.Popen[str] | None = None) -> None:
    log = run_folder / "log/rank_0.jsonl"
    while not (log.exists() and log.stat().st_size):
        assert process is None or process.poll() is None, "it ended before its first step"
        time.sleep(0.01)


def test_the_worker_that_failed_first_is_named() -> None:
    early, late = (WorkerError(at, f"KeyError: {at}", "frames", None) for at in (1.0, 2.0))
    setting = WorkerError(0.5, "SettingError: steps is 0", "frames", "steps is 0")
    died = RuntimeError("The actor died")
    assert str(first_failure({0: late, 1: early}, 2)) == "Rank 1 of 2 failed: KeyError: 1.0\n\nframes"
    assert str(first_failure({0: early, 1: died}, 2)) == "Rank 1 of 2 died: The actor died"
    mistake = first_failure({0: late, 1: setting}, 2)
    assert isinstance(mistake, SettingError)
    assert str(mistake) == "steps is 0"


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_asha_finds_a_learning_rate_and_stops_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(SMALL, steps=24, seed=240)  # draws the best first and the worst last, which has to stop
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(_plain(config.as_dict())))
    assert main((f"{RATE}=0.00001,0.0001,0.001,0.1",), file, trials=4, report_every=6, as_json=True) == 0
    shown = capsys.readouterr()
    trials = [_trial(values) for values in json.loads(shown.out)]
    assert {trial.name for trial in trials} == {f"trial_{i}" for i in range(4)}
    assert [trial.held_out_loss for trial in trials] == sorted(trial.held_out_loss for trial in trials)
    assert (trials[0].settings, trials[0].steps) == ({RATE: 0.1}, 24)
    assert next(trial.steps for trial in trials if trial.settings == {RATE: 1e-5}) == 6
    for trial in trials:
        _assert_reproduced(config, trial)
        assert f"{trial.name}: step {trial.steps}, held-out loss {trial.held_out_loss:.4f}" in shown.err


class Pressing(io.StringIO):
    """Presses Ctrl-C, twice as people do, once something is written of a trial."""

    pressed = False

    def write(self, text: str) -> int:
        if "trial_" in text and not self.pressed:
            self.pressed = True
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_ctrl_c_ends_a_search_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "endless.yaml"
    file.write_text(yaml.safe_dump(_plain(replace(SMALL, steps=10**6).as_dict())))
    before = signal.getsignal(signal.SIGINT)
    said = Pressing()
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(KeyboardInterrupt):
        main((f"{RATE}=0.1",), file, trials=1)
    assert said.getvalue().count("Interrupted: ending the trials and Ray") == 1
    assert signal.getsignal(signal.SIGINT) == before


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_population_goes_on_from_the_weights_that_lead() -> None:
    config = replace(SMALL, steps=24)
    trials = tune(config, {RATE: (1e-5, 0.3)}, "pbt", trials=3, report_every=6)
    assert [trial.steps for trial in trials] == [24] * 3
    assert any(trial.lineage[0].trial != trial.name for trial in trials)
    for trial in trials:
        assert all(1e-5 <= stage.settings[RATE] <= 0.3 for stage in trial.lineage)
        _assert_reproduced(config, trial)


@needs_ray
@pytest.mark.usefixtures("ray_here")
def test_a_search_ends_with_its_budget_and_keeps_what_was_reported() -> None:
    found = search(SMALL, {RATE: (1e-3, 0.3)}, "random", trials=5, report_every=2, budget=14)
    assert found.spent == 14
    assert [report.taken for report in found.reports] == [2] * 7
    assert 3 <= len(found.trials) <= 4  # 14 of the 30 steps that five trials take
    _assert_last_reports(found)
    found = search(SMALL, {RATE: (1e-3, 0.3)}, "asha", trials=4, report_every=2)
    assert found.spent == sum(trial.steps for trial in found.trials) <= 4 * 6
    assert len(found.trials) == 4
    _assert_last_reports(found)


def _assert_last_reports(found: Search) -> None:
    last = {report.trial: report for report in found.reports}
    for trial in found.trials:
        told = last[trial.name]
        assert (told.step, told.held_out_loss) == (trial.steps, trial.held_out_loss)
        assert trial.steps == sum(report.taken for report in found.reports if report.trial == trial.name)
    losses = [trial.held_out_loss for trial in found.trials]
    assert losses == sorted(losses)


def _assert_reproduced(config: TrainConfig, trial: Trial) -> None:
    """Training with the settings of the lineage, in one piece and without Ray, ends at the same weights."""
    result = replay(replace(config, steps=trial.steps), trial.lineage)
    assert result.held_out_loss == pytest.approx(trial.held_out_loss, abs=1e-6)
    assert result.accuracy == trial.accuracy


def _logged(config: TrainConfig, rank: int) -> list[StepRecord]:
    """What a rank wrote down in all its lives."""
    assert config.run_folder is not None
    return [line for line in read_log(config.run_folder) if line.rank == rank]


def _trial(values: dict[str, Any]) -> Trial:
    return Trial(**values | {"lineage": [Stage(**stage) for stage in values["lineage"]]})


def _plain(value: Any) -> Any:
    """With lists in place of tuples, as YAML has it."""
    return json.loads(json.dumps(value))


def test_lines_carry_their_rank() -> None:
    stream = io.StringIO()
    prefixed = RankPrefix(stream, 1)
    print("step 1\nst", end="", file=prefixed)
    print("ep 2", file=prefixed)
    assert stream.getvalue() == "[rank 1] step 1\n[rank 1] step 2\n"


def test_ranges_and_choices_are_read() -> None:
    space = parse_space([f"{RATE}=0.01..1", "model.width=32,64", "model.kind=mlp,cnn"])
    assert space == {RATE: (0.01, 1.0), "model.width": [32, 64], "model.kind": ["mlp", "cnn"]}


@pytest.mark.parametrize("text", ["model.width", "=1,2", f"{RATE}=low..high", f"{RATE}=", "model.width=[1,2"])
def test_what_is_neither_range_nor_choices_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="Cannot vary"):
        parse_space([text])


@needs_ray
@pytest.mark.parametrize(
    ("config", "space", "options", "message"),
    [
        (SMALL, {}, {}, "nothing to vary"),
        (SMALL, {"optimizer.learnin_rate": [1]}, {}, r"did you mean optimizer.learning_rate"),
        (SMALL, {"steps.most": [1]}, {}, "There is no setting steps.most"),
        (SMALL, {RATE: ["fast"]}, {}, "optimizer.learning_rate is 'fast'"),
        (SMALL, {RATE: (1.0, 0.1)}, {}, "lower first"),
        (SMALL, {RATE: []}, {}, "expected choices"),
        (SMALL, {"model.width": (8.0, 16.0)}, {}, "model.width is a whole number"),
        (SMALL, {"memory.offload": [True, False]}, {}, "memory.offload is True"),
        (SMALL, {"model.width": [8, 16]}, {"scheduler": "pbt"}, "model.width cannot change in the middle"),
        (SMALL, {RATE: [0.1]}, {"trials": 0}, "trials is 0"),
        (SMALL, {RATE: [0.1]}, {"budget": 0}, "budget is 0"),
        (
            SMALL,
            {RATE: [0.1]},
            {"scheduler": "hyperband"},
            "scheduler is 'hyperband'; expected one of asha, pbt",
        ),
        (replace(SMALL, memory=MemoryConfig(offload=True)), {RATE: [0.1]}, {}, "memory.offload is True"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_anything_starts(
    config: TrainConfig, space: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        search(config, space, **options)


@needs_ray
def test_strategies_with_processes_of_their_own_are_refused() -> None:
    with pytest.raises(SettingError, match="strategy 'horovod' starts its own processes"):
        train_with_ray(replace(SMALL, strategy="horovod"))


def test_missing_ray_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for call in (lambda: train_with_ray(SMALL), lambda: tune(SMALL, {RATE: [0.1]})):
        with pytest.raises(SettingError, match=r"pip install 'distlab\[frameworks\]'"):
            call()
