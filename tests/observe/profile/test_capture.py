"""Recording a loop of one's own: `with profiled() as profiler`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from distlab.errors import SettingError, WorkError
from distlab.observe.profile.analysis import Analysis
from distlab.observe.profile.analyze import analyze
from distlab.observe.profile.capture import FOLDER, OPTIONS, CaptureOptions, Profiler, profiled, read_report

WEIGHTS = torch.ones(300, 300)


def work(products: int = 4) -> None:
    for _ in range(products):
        torch.mm(WEIGHTS, WEIGHTS)


def loop(steps: int, load: Callable[[], None], compute: Callable[[], None]) -> None:
    with profiled() as profiler:
        for _ in range(steps):
            with profiler.data():
                load()
            compute()
            profiler.step()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of one product wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Ask for a recording, as `distlab profile run` does."""

    def ask(**options: int | bool) -> Path:
        for name, value in (
            CaptureOptions(**{"wait": 3, "warmup": 1, "steps": 6, **options}).environment(tmp_path).items()
        ):  # type: ignore[arg-type]
            monkeypatch.setenv(name, value)
        return tmp_path

    return ask


def largest(analysis: Analysis) -> str:
    """Which part of the rank's steps is."""
    mean = analysis.ranks[0].mean()
    return max(("compute_s", "exposed_s", "data_s", "idle_s"), key=lambda part: mean[part])


def test_nothing_is_recorded_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    with profiled() as profiler:
        assert type(profiler) is Profiler
    loop(2, work, work)


def test_a_starved_loop_and_a_well_fed_one(recorded: Callable[..., Path]) -> None:
    folder = recorded()
    loop(10, lambda: time.sleep(0.1), work)
    starved = analyze(folder)
    assert [step.step for step in starved.ranks[0].steps] == [4, 5, 6, 7, 8, 9]
    assert min(step.data_s for step in starved.ranks[0].steps) >= 0.1
    assert largest(starved) == "data_s"

    loop(10, lambda: None, lambda: work(20))
    fed = analyze(folder)
    assert largest(fed) == "compute_s"
    assert fed.ranks[0].operators[0].name == "aten::mm"
    assert fed.ranks[0].operators[0].shapes == "[300, 300], [300, 300]"
    assert fed.ranks[0].operators[0].count == 20 * 6
    assert (fed.world_size, fed.missing_ranks, fed.stragglers, fed.tier) == (1, (), (), "cpu")


def test_the_profilers_own_cost_is_stated(recorded: Callable[..., Path]) -> None:
    folder = recorded()
    loop(14, lambda: None, work)
    (rank,) = analyze(folder).ranks
    assert rank.unprofiled_steps == 2 + 4  # two before it, as the first one is cold, and those after it
    assert rank.steps_seen == 14
    assert rank.profiled_step_s is not None
    assert rank.unprofiled_step_s is not None
    assert rank.overhead == pytest.approx(rank.profiled_step_s / rank.unprofiled_step_s - 1)


def test_memory(recorded: Callable[..., Path]) -> None:
    folder = recorded(memory=True)
    counter = itertools.count()

    def hold() -> None:
        if next(counter) == 6:
            torch.ones(10_000_000, dtype=torch.uint8)
        work()

    loop(10, lambda: None, hold)
    (line,) = analyze(folder).ranks[0].memory
    assert (line.device, line.peak_step) == ("cpu", 6)
    assert 10_000_000 <= line.peak_bytes < 20_000_000
    assert (folder / "rank_0.memory.json").is_file()


def test_a_run_that_is_too_short_says_how_many_steps_it_had(recorded: Callable[..., Path]) -> None:
    folder = recorded()
    loop(3, lambda: None, work)
    with pytest.raises(WorkError) as error:
        analyze(folder)
    said = str(error.value)
    assert "the run was over after 3 steps, and recording begins after 4" in said
    assert "needs a run of 10" in said


def test_a_run_that_ends_while_it_is_recorded_keeps_its_whole_steps(recorded: Callable[..., Path]) -> None:
    folder = recorded()
    loop(7, lambda: None, work)
    analysis = analyze(folder)
    assert [step.step for step in analysis.ranks[0].steps] == [4, 5, 6]  # not the seventh, which never ended
    assert any(
        "recorded 3 of 6 steps: the run had 7, and 10 are needed" in problem for problem in analysis.problems
    )


def test_a_run_that_fails_while_it_is_recorded_keeps_its_whole_steps(recorded: Callable[..., Path]) -> None:
    folder = recorded()
    counter = itertools.count()

    def fail() -> None:
        work()
        if next(counter) == 6:
            raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        loop(10, lambda: None, fail)
    assert [step.step for step in analyze(folder).ranks[0].steps] == [4, 5]


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CaptureOptions(3, 1, 1).environment(tmp_path / "gone").items():
        monkeypatch.setenv(name, value)
    done = []
    loop(10, lambda: None, lambda: done.append(1))
    assert len(done) == 10
    assert read_report(tmp_path / "gone", 0) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"stepz": 1}', '{"steps": "many"}'])
def test_options_that_nobody_set_so_are_one_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(OPTIONS, text)
    with pytest.raises(SettingError, match=OPTIONS), profiled():
        pass


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("steps", 1001), ("warmup", -1), ("wait", -1)])
def test_counts_have_bounds(name: str, value: int) -> None:
    with pytest.raises(SettingError, match=f"{name} is {value}"):
        CaptureOptions(**{name: value})  # type: ignore[arg-type]
