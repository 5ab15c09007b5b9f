"""Reports of runs that never were: whatever is typed in, a training of the test's own gives it away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distlab.course.grade.children import Children
from distlab.course.grade.grader import grade
from distlab.course.grade.labwork import lab_work
from distlab.course.grade.work import Cell, Verdict
from distlab.course.sandbox import availability

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

TYPED_IN_RUNS = """
def result(rank, size):
    step = {"data_s": 0.01, "compute_s": 0.03, "communication_s": 0.005 * (size - 1)}
    step = {**step, "step_s": sum(step.values()), "samples": 480 // size}
    config = {"strategy": "single" if size == 1 else "ddp", "steps": 12, "seed": 0}
    return {
        "rank": rank, "world_size": size, "weights_sum": 1.0, "accuracy": 0.9,
        "config": {**config, "model": {}, "data": {}, "optimizer": {}},
        "stamp": {"backend": "gloo", "threads_per_rank": 1},
        "steps": [{**step, "loss": 2.4 * 0.87**number} for number in range(12)],
    }


runs = {
    key: [{name: result(rank, size) for name in ("mlp", "cnn")} for rank in range(size)]
    for key, size in (("one", 1), ("two", 2))
}
"""
"""Without a contradiction: all that is compared within the report is as a run would have it."""

ANOTHER_SEED = """
from distlab.train.config import DataConfig, ModelConfig, TrainConfig
from distlab.train.loop import train

models = {"mlp": ModelConfig("mlp", width=512), "cnn": ModelConfig("cnn", width=32)}
configs = {
    name: TrainConfig(strategy="single", model=model, data=DataConfig(global_batch=480), steps=5, seed=11)
    for name, model in models.items()
}
known = {name: [step.loss for step in train(config).steps] for name, config in configs.items()}
"""
"""What a learner who has trained once can type in."""

LOSSES = {
    "the typed in curve": "def losses_of(size, seed, steps):\n"
    "    return {name: [2.4 * 0.87**step for step in range(steps)] for name in ('mlp', 'cnn')}",
    "losses of another seed": f"{ANOTHER_SEED}\ndef losses_of(size, seed, steps):\n    return known",
}

TYPED_IN_DRILL = """
def drill(how, seed, after_steps):
    ended = {"crash_exit": 0 if how == "interrupt" else -9, "saved": [5], "exit": 0, "resumed_from": 5}
    return {**ended, "bits": final_bits("", seed), "losses": {step: LOSS for step in range(24)}, "left": 0}


def crash_and_resume(config_file, run_folder, how, after_steps):
    return drill(how, 0, after_steps)


def final_bits(name, seed):
    return "0" * 64


def reference(seed):
    return "0" * 64
"""


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    with Children() as children:
        yield children


def forged(lab: str, answers: str, test: str, children: Children, kept: tuple[str, ...] = ()) -> str:
    """What `test` says to `answers` in place of all cells but `kept`; it must give no point."""
    work = lab_work(ROOT, lab, display=False)
    cells = {cell.grade_id: cell for cell in work.cells if cell.grade_id}
    own = [*(cells[name] for name in kept), Cell(answers), cells[test]]
    (found,) = grade(replace(work, cells=tuple(own)), children).cells
    assert (found.verdict, found.points) == (Verdict.FAILED, 0)
    return found.message


@pytest.mark.parametrize("losses", LOSSES.values(), ids=LOSSES)
def test_runs_typed_in(losses: str, children: Children) -> None:
    said = forged("mod-107-lab-3", f"{TYPED_IN_RUNS}\n{losses}", "run-hidden", children)
    assert said.startswith("on a fresh seed train_models gives other losses")


@pytest.mark.parametrize("loss", ["2.4 * 0.95**step", "float('nan')"])
def test_a_crash_typed_in(loss: str, children: Children) -> None:
    answers = TYPED_IN_DRILL.replace("LOSS", loss)
    said = forged("mod-14-lab-1", answers, "crash-hidden", children, ("setup", "config"))
    assert said == "the losses that were logged are not those of the configured training"
