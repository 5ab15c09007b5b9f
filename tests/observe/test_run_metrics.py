"""Runs are followed by their logs: what is new is counted once, whatever a run or a learner does to its folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distlab.observe import logfiles, runs
from distlab.observe.cost import account_of
from distlab.observe.exposition import Page
from distlab.observe.logfiles import RunFiles
from distlab.observe.runs import KEEP_S, MOST_RUNS, STALLED_S, Run, Runs
from distlab.train.records import LOCK, LOG, RUN
from tests.observe.made_runs import MadeRun, write_info, write_lines

DEADLINE_S = 120


def metrics(*followed: Run) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What the runs export: value by name and labels, as Prometheus' own parser reads it."""
    page = Page()
    for run in followed:
        run.write(page)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.render().decode())
        for sample in family.samples
    }


def value(run: Run, name: str, **labels: str) -> float | None:
    own = {"run": run.name, "job_name": run.job, "tier": "cpu"} | labels
    return metrics(run).get((f"distlab_train_{name}", tuple(sorted(own.items()))))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """As while a run trains."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """A finished run of 8 steps, with a restart after step 6."""
    made = MadeRun(now=time.time() - 100)
    made.attempt(0, 7, flush_after={3})
    made.attempt(4, 8, down_s=10, flush_after={7})
    write_info(tmp_path / "demo")
    write_lines(tmp_path / "demo", made.kept)
    return tmp_path / "demo"


def test_a_finished_run(demo: Path) -> None:
    followed = Runs(demo.parent)
    followed.poll()
    [run] = followed.followed()
    assert (run.job, run.running, run.finished) == ("team", False, True)
    assert value(run, "running") == 0
    assert value(run, "step") == 7
    assert value(run, "steps_goal") == 8
    assert value(run, "restarts_total") == 1
    assert value(run, "goodput_ratio") == pytest.approx(account_of(str(demo)).goodput or 0)
    assert value(run, "loss") is None, "a run that has ended has no loss now"
    for rank in "01":
        assert value(run, "steps_total", rank=rank) == 8
        assert value(run, "step_seconds_total", rank=rank) == pytest.approx(8)
        assert value(run, "compute_seconds_total", rank=rank) == pytest.approx(5.6)
        assert value(run, "tokens_total", rank=rank) == pytest.approx(640)
        assert value(run, "mfu_ratio", rank=rank) is None


def test_who_follows_and_who_reads_afterwards_agree(tmp_path: Path) -> None:
    folder, made = tmp_path / "demo", MadeRun(now=time.time() - 100)
    write_info(folder)
    made.attempt(0, 7, flush_after={3})
    for rank in (0, 1):  # a rank's log is there before any rank makes a step
        (folder / LOG / f"rank_{rank}.jsonl").touch()
    run, counted = Run(folder), []
    with locked(folder):
        for line in list(made.kept):
            write_lines(folder, [line])
            run.poll(line.time)
            counted.append(value(run, "steps_total", rank="0") or 0)
        assert run.running
        assert value(run, "loss") == pytest.approx(2 / 6)
        assert len(run.account.steps.step) == 6
        made.attempt(4, 8, down_s=10, flush_after={7})
        # As a run that is taken up again: the file is cut where it is, and grows on at once.
        for rank in (0, 1):
            lines = [json.dumps(vars(line)) + "\n" for line in made.kept if line.rank == rank]
            with (folder / LOG / f"rank_{rank}.jsonl").open("r+") as file:
                file.truncate(sum(map(len, lines[:4])))
                file.seek(0, os.SEEK_END)
                file.write("".join(lines[4:]))
        run.poll(made.now)
        counted.append(value(run, "steps_total", rank="0") or 0)
    run.poll(made.now)
    assert counted == sorted(counted)
    assert counted[-1] == 6 + 4, "undone steps are counted, and those that were taken again"
    assert value(run, "restarts_total") == 1
    offline = account_of(str(folder))
    assert run.account.paid_s == pytest.approx(offline.paid_s)
    assert run.account.useful_s == pytest.approx(offline.useful_s)
    assert sum(run.account.wasted_s.values()) == pytest.approx(sum(offline.wasted_s.values()))
    assert run.account.tokens == pytest.approx(offline.tokens)


def hung(folder: Path) -> MadeRun:
    """A run of steps of a second, that has logged four of eight and says no more."""
    made = MadeRun(now=time.time() - 5000)
    made.attempt(0, 5)
    write_info(folder)
    write_lines(folder, made.kept)
    return made


def test_a_run_that_hangs_costs_on_and_has_failed(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    made = hung(folder)
    with locked(folder):
        run = Run(folder)
        run.poll(made.now + 50)
        paid_s = run.account.paid_s
        assert run.spent_s == pytest.approx(paid_s + 2 * 50)
        assert run.wasted_s["failure"] == 0, "a long step, maybe"
        run.poll(made.now + 100)
        assert run.spent_s == pytest.approx(paid_s + 2 * 100)
        assert run.wasted_s["failure"] == pytest.approx(2 * (100 - STALLED_S))
    run.poll(made.now + 500)
    assert run.spent_s == pytest.approx(paid_s + 2 * 100), "it has ended, and no longer costs"
    assert run.wasted_s["failure"] == pytest.approx(2 * 100)


@pytest.mark.parametrize("down_s", [200, 4000])
def test_what_a_hang_cost_stays_when_the_run_goes_on(tmp_path: Path, down_s: float) -> None:
    folder = tmp_path / "demo"
    made = hung(folder)
    with locked(folder):
        run = Run(folder)
        run.poll(made.now + 100)
        paid_s = run.account.paid_s
    run.poll(made.now + 150)
    kept = len(made.kept)
    made.attempt(4, 8, down_s=down_s, flush_after={7})
    with locked(folder):
        write_lines(folder, made.kept[kept:])
        run.poll(made.now)
    run.poll(made.now)
    held_s = down_s if down_s < 600 else 100
    assert run.spent_s == pytest.approx(paid_s + 2 * (held_s + 2 + 4 + 1)), "GPUs are held for ten minutes"
    assert run.spent_s >= sum(run.wasted_s.values()) + run.account.useful_s - 1e-6
    # The step that was never logged, the hang, and the start until the first step.
    assert run.wasted_s["failure"] == pytest.approx(2 * (1 + held_s + 2))


def test_the_end_of_a_finished_run_is_idle(demo: Path) -> None:
    last = account_of(str(demo)).ranks[0].last.time
    with locked(demo):
        run = Run(demo)
        run.poll(last + 3)
    run.poll(time.time())
    assert run.spent_s == pytest.approx(run.account.paid_s + 2 * 3)
    assert run.wasted_s["idle"] == pytest.approx(run.account.idle_s + 2 * 3)
    assert run.wasted_s["failure"] == pytest.approx(run.account.failure_s)


def test_a_run_before_its_first_step_is_shown(tmp_path: Path) -> None:
    ranks = [{"rank": rank, "host": "here", "pid": 9 + rank, "device": "cpu"} for rank in range(2)]
    write_info(tmp_path / "begun", ranks=ranks)
    os.utime(tmp_path / "begun" / LOG / RUN, (1e9, 1e9))
    with locked(tmp_path / "begun"):
        followed = Runs(tmp_path)
        followed.poll()
        [run] = followed.followed()
        assert value(run, "running") == 1
        assert value(run, "start_timestamp_seconds") == 1e9
        assert value(run, "world_size") == 2
        assert value(run, "step") is None
        before = {labels for name, labels in metrics(run) if name == "distlab_train_running"}
        made = MadeRun(now=time.time() - 20)
        made.attempt(0, 2, flush_after={1})
        write_lines(tmp_path / "begun", made.kept)
        followed.poll()
        assert value(run, "step") == 1
        assert before == {labels for name, labels in metrics(run) if name == "distlab_train_running"}
    run.poll(time.time())
    assert value(run, "running") == 0


def test_a_jump_of_the_systems_clock_is_charged_to_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "demo"
    hung(folder)
    now = time.time
    with locked(folder):
        followed = Runs(tmp_path / "runs")
        followed.poll()
        [run] = followed.followed()
        spent_s = run.spent_s
        monkeypatch.setattr(time, "time", lambda: now() + 86400)
        followed.poll()
        assert spent_s <= run.spent_s < spent_s + 3600


def test_a_run_that_begins_later_is_found(tmp_path: Path) -> None:
    now = time.time()
    clock = [now]
    followed = Runs(tmp_path / "runs", clock=lambda: clock[0])
    followed.poll()
    assert followed.followed() == []
    made = MadeRun(now=now)
    made.attempt(0, 3)
    write_info(tmp_path / "runs" / "late")
    write_lines(tmp_path / "runs" / "late", made.kept)
    followed.poll()
    assert followed.followed() == [], "not at every second"
    clock[0] += runs.SCAN_S
    followed.poll()
    assert [run.name for run in followed.followed()] == ["late"]


def test_a_new_run_of_an_old_name_is_another(demo: Path) -> None:
    clock = [time.time()]
    followed = Runs(demo.parent, clock=lambda: clock[0])
    followed.poll()
    (demo / LOG).rename(demo / "log.1")
    made = MadeRun(now=time.time())
    made.attempt(0, 3, flush_after={2})
    write_info(demo)
    write_lines(demo, made.kept)
    for _ in range(2):
        clock[0] += runs.SCAN_S
        followed.poll()
    [run] = followed.followed()
    assert (value(run, "step"), value(run, "restarts_total")) == (2, 0)


def test_old_runs_are_let_go_and_hanging_ones_are_not(demo: Path) -> None:
    old = time.time() - KEEP_S - 10
    for path in (*(demo / LOG).iterdir(), demo / LOG):
        os.utime(path, (old, old))
    followed = Runs(demo.parent)
    followed.poll()
    assert followed.followed() == []
    with locked(demo):
        followed = Runs(demo.parent)
        followed.poll()
        assert [run.name for run in followed.followed()] == ["demo"]


def test_only_so_many_runs_are_followed(tmp_path: Path) -> None:
    made = MadeRun(ranks=1, now=time.time() - 10)
    made.attempt(0, 2)
    for number in range(MOST_RUNS + 3):
        write_lines(tmp_path / f"run_{number}", made.kept)
    followed = Runs(tmp_path)
    followed.poll()
    assert len(followed.followed()) == MOST_RUNS
    assert followed.problems == 3


# --- Hostile folders ---


def _outside(demo: Path) -> Path:
    """Somebody else's log."""
    other = demo.parent / "elsewhere" / "secret"
    made = MadeRun(now=time.time() - 50)
    made.attempt(0, 5)
    write_info(other, job="secret")
    write_lines(other, made.kept)
    return other


def _link_of_the_run(demo: Path) -> None:
    (demo.parent / "linked").symlink_to(_outside(demo))


def _link_of_the_log(demo: Path) -> None:
    (demo.parent / "linked").mkdir()
    (demo.parent / "linked" / LOG).symlink_to(_outside(demo) / LOG)


def _link_of_a_rank(demo: Path) -> None:
    (demo.parent / "linked" / LOG).mkdir(parents=True)
    for name in ("rank_0.jsonl", RUN):
        (demo.parent / "linked" / LOG / name).symlink_to(_outside(demo) / LOG / name)


def _pipe(demo: Path) -> None:
    (demo.parent / "linked" / LOG).mkdir(parents=True)
    for name in ("rank_0.jsonl", RUN):
        os.mkfifo(demo.parent / "linked" / LOG / name)
    os.mkfifo(demo.parent / "linked" / LOCK)


def _file_for_a_log(demo: Path) -> None:
    (demo.parent / "linked").mkdir()
    (demo.parent / "linked" / LOG).write_text("a log")


@pytest.mark.parametrize(
    "attack", [_link_of_the_run, _link_of_the_log, _link_of_a_rank, _pipe, _file_for_a_log]
)
def test_links_and_pipes_are_not_followed(demo: Path, attack: Callable[[Path], None]) -> None:
    attack(demo)
    followed = Runs(demo.parent)
    followed.poll()
    names = {run.name for run in followed.followed() if run.newest is not None}
    assert names == {"demo"}
    assert all(run.files.info is None for run in followed.followed() if run.name != "demo")
    assert not any("secret" in str(key) for key in metrics(*followed.followed()))


def test_forged_lines_are_left_out_and_counted(demo: Path) -> None:
    path = demo / LOG / "rank_1.jsonl"
    line = json.loads(path.read_text().splitlines()[-1])
    forged = [
        "{" * 100_000,
        "[]",
        json.dumps(line | {"step": -1}),
        json.dumps(line | {"rank": 0}),
        json.dumps(line | {"run_s": 1e299}),
        json.dumps(line | {"time": 1e12}),
        json.dumps(line | {"step_s": float("inf")}),
        json.dumps(line | {"step": 8, "step_s": 10**299, "samples_per_s": 10**299}),
        json.dumps({}),
        "\xff\x00",
    ]
    with path.open("a") as file:
        file.write("\n".join(forged) + "\n")
    run = Run(demo)
    run.poll(time.time())
    assert run.files.problems == len(forged)
    assert value(run, "steps_total", rank="1") == 8


def test_a_run_that_cannot_be_read_leaves_the_others_alone(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "z"):
        shutil.copytree(demo, demo.parent / name)
    whole = Run.poll

    def poll(self: Run, now: float, until: float) -> None:
        if self.name == "demo":
            raise OverflowError("int too large to convert to float")
        whole(self, now, until)

    monkeypatch.setattr(Run, "poll", poll)
    followed = Runs(demo.parent)
    followed.poll()
    assert {run.name: run.newest.step for run in followed.followed() if run.newest} == {"a": 7, "z": 7}


def test_an_endless_line_is_not_read_again_and_again(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (demo / LOG / "rank_1.jsonl").open("a") as file:
        file.write("x" * (3 * logfiles.CHUNK_BYTES))
    run = Run(demo)
    for _ in range(3):
        run.poll(time.time())
    assert run.files.caught_up
    monkeypatch.setattr(os, "pread", lambda *_: pytest.fail("nothing is new"))
    run.poll(time.time())
    assert value(run, "steps_total", rank="1") == 8


def test_a_long_log_is_caught_up_on_in_parts(tmp_path: Path) -> None:
    made = MadeRun(now=time.time() - 10_000)
    made.attempt(0, 1500, flush_after={1499})
    write_info(tmp_path / "long", steps=1500)
    write_lines(tmp_path / "long", made.kept)
    run = Run(tmp_path / "long")
    run.poll(time.time())
    assert not run.files.caught_up
    assert not run.caught_up, "what a restarted exporter shows of it would be less than before"
    polls = 1
    while not run.files.caught_up:
        run.poll(time.time())
        polls += 1
        assert polls < 20
    assert run.caught_up
    assert run.account.paid_s == pytest.approx(account_of(str(tmp_path / "long")).paid_s)
    assert run.spent_s == pytest.approx(run.account.paid_s)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"x" * (2**20 + 2), b'{"config": 1, "stamp": 2, "shards": 3}']
)
def test_a_forged_description_is_none(demo: Path, content: bytes) -> None:
    (demo / LOG / RUN).write_bytes(content)
    run = Run(demo)
    run.poll(time.time())
    assert run.files.info is None
    assert (run.job, run.files.problems) == ("demo", 1)
    assert value(run, "step") == 7


def test_labels_of_a_learner_stay_in_their_quotes(tmp_path: Path) -> None:
    folder, made = tmp_path / "demo", MadeRun(now=time.time() - 10)
    made.attempt(0, 3)
    write_info(folder, job='a"} 1\\ \\n' + "ü" * 1000)
    write_lines(folder, made.kept)
    run = Run(folder)
    run.poll(time.time())
    [job] = {dict(labels)["job_name"] for _, labels in metrics(run)}
    assert job.startswith('a"} 1\\ \\n')
    assert len(job) == runs.MOST_LABEL


def test_asking_whether_a_run_goes_on_does_not_stop_one_from_starting(demo: Path) -> None:
    files = RunFiles(demo)
    files.look()
    assert files.running is False
    with locked(demo):
        files.look()
        assert files.running is True
    (demo / LOCK).unlink()
    files.look()
    assert files.running is False


# --- A real run ---


def test_a_real_run_that_a_kill_interrupts(tmp_path: Path) -> None:
    settings = {
        "name": "real",
        "folder": str(tmp_path / "runs"),
        "strategy": "single",
        "world_size": 1,
        "steps": 16,
        "max_restarts": 1,
        "model": {"width": 64},
        "data": {"global_batch": 256},
        "checkpoint": {"every_steps": 5},
        "faults": [{"kind": "kill", "step": 13, "rank": 0}],
    }
    (tmp_path / "real.yaml").write_text(json.dumps(settings))
    environment = os.environ | {"DISTLAB_JOB": "team-a", "OMP_NUM_THREADS": "1"}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    command = [sys.executable, "-m", "distlab.cli", "train", "--config", str(tmp_path / "real.yaml")]
    output = tmp_path / "output"
    with output.open("w") as said:
        training = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=said, stderr=said)
    followed = Runs(tmp_path / "runs")
    seen_running, steps, until = False, [], time.monotonic() + DEADLINE_S
    while training.poll() is None and time.monotonic() < until:
        followed._scanned_at = None
        followed.poll()
        for run in followed.followed():
            seen_running = seen_running or bool(run.running)
            steps.append(value(run, "steps_total", rank="0") or 0)
        time.sleep(0.01)
    assert training.wait(1) == 0, output.read_text()
    followed._scanned_at = None
    followed.poll()
    [run] = followed.followed()
    assert seen_running
    assert steps == sorted(steps)
    assert (run.job, run.running, run.finished) == ("team-a", False, True)
    assert value(run, "restarts_total") == 1
    assert 16 <= (value(run, "steps_total", rank="0") or 0) <= 16 + 4
    offline = account_of(str(tmp_path / "runs" / "real"))
    assert list(run.account.steps.step) == list(offline.steps.step) == list(range(16))
    assert run.account.paid_s == pytest.approx(offline.paid_s, abs=0.05)
    assert sum(run.account.wasted_s.values()) == pytest.approx(sum(offline.wasted_s.values()), abs=0.05)
    assert offline.failure_s > 0
    assert run.spent_s >= offline.paid_s - 0.05
