"""The drills of the training runbooks: each breaks a real run, and the report tells what really became of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distlab.cli import main
from distlab.errors import SettingError
from distlab.faults.drills import pair
from distlab.faults.drills.checkpoint import drill_checkpoint
from distlab.faults.drills.cost import drill_cost
from distlab.faults.drills.hang import drill_hang
from distlab.faults.drills.injection import drill_injection
from distlab.faults.drills.rank import drill_config
from distlab.faults.drills.report import DrillError, Report, present
from distlab.faults.drills.storage import drill_storage


def shows(report: Report, capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """The report for people has these words, and the one for programs its fields."""
    capsys.readouterr()
    assert present(report, json=False) == 0
    shown = re.sub(r"[\s│]+", " ", capsys.readouterr().out)
    assert [word for word in words if word not in shown] == []
    assert present(report, json=True) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_dict()))


@pytest.mark.timeout(300)
def test_the_rank_that_missed_a_collective_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    report = drill_hang(timeout_s=8)  # longer than a step on a busy machine
    assert (report.culprits, report.waiting) == ((1,), (0,))
    assert report.said.startswith("Rank 1 of 2 did not take part in a collective.")
    assert re.match(r"Rank 1 never came to collective \d+ of group '0', gloo:", report.verdict)
    assert re.search(r'faults/inject.py", line \d+, in hang$', report.where)
    assert report.detection_s > 0
    assert report.recovery_s > report.detection_s + report.end_s
    assert report.end_s > 0
    assert report.steps_lost == 2  # step 12 was the last, and the checkpoint had 10
    shows(report, capsys, "Rank 1 hangs", "Rank 1 never came", "steps lost 2", "timeout 8 s")


def test_a_damaged_checkpoint_costs_the_steps_back_to_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = drill_checkpoint()
    assert report.damaged == "step_10.ckpt"
    assert (report.resumed_from, report.steps_lost, report.steps_lost_whole) == (5, 7, 2)
    assert report.is_exact
    assert len(report.said) == 1
    assert report.said[0].startswith("Skipped damaged checkpoint drill/step_10.ckpt: ")
    assert "its sha256 is now" in report.said[0]
    shows(report, capsys, "Checkpoint damaged", "resumed from step 5", "7, with a whole one 2")


def test_a_command_prints_nothing_but_its_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["drill", "checkpoint", "--truncate", "--json"])
    assert ended.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["resumed_from"], report["steps_lost"], report["is_exact"]) == (5, 7, True)
    assert re.search(r"step_10\.ckpt/\w+ has \d+ bytes of \d+", report["said"][0])


@pytest.mark.parametrize(("asynchronous", "meanwhile"), [(True, 7), (False, 2)])
def test_training_goes_on_until_it_needs_its_storage(
    asynchronous: bool, meanwhile: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Silent after step 12, saves after 15 and 20: in the foreground the first holds the run, else the second."""
    report = drill_storage(asynchronous=asynchronous)
    assert report.steps_meanwhile == meanwhile
    assert (report.steps_lost, report.said, report.resumed_from) == (0, "", None)
    assert report.checkpoints == (5, 10, 15, 20, 25, 30)
    assert report.is_exact
    shows(report, capsys, f"steps while it was silent {meanwhile}", "and answers again")


@pytest.mark.timeout(300)
def test_storage_that_never_answers_ends_the_run_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    report = drill_storage(forever=True, timeout_s=6)
    assert not report.answered
    assert re.search(
        r"not taken it within 6 s|[Tt]imed out waiting|not take part in a collective", report.said
    )
    assert report.failed_s is not None
    assert report.failed_s > 0
    # The save of step 10 may have been under way when the silence began.
    assert report.resumed_from in (5, 10)
    assert 0 < report.steps_lost <= 15
    assert report.is_exact
    assert report.checkpoints[-3:] == (20, 25, 30)
    shows(report, capsys, "Storage is silent", "of silence", f"resumed from step {report.resumed_from}")


@pytest.mark.timeout(300)
def test_faults_strike_as_written_and_are_gone_when_they_are_taken_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = drill_injection()
    assert "A fault is set for rank 2; there are 2 ranks" in report.refused[0]
    assert "A fault is set for step 21; the run ends after 20 steps" in report.refused[1]
    assert report.struck == ("slow on rank 1 after step 3", "fill_disk on rank 1 after step 12")
    assert "File too large" in report.said or "No space left" in report.said
    assert report.compute_s["slow"] > 0.1
    assert set(report.compute_s) == {"before", "slow", "without faults"}
    assert (report.resumed_from, report.steps_lost) == (10, 5)
    assert report.left == ()
    shows(report, capsys, "Faults on purpose", "left behind nothing")


@pytest.mark.timeout(300)
def test_a_run_over_its_budget_fires_the_rules_and_stopping_it_ends_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = drill_cost(budget=6)
    assert {"BudgetProjectedOver", "BudgetSpent"} <= set(report.alerts)
    assert set(report.alerts) <= {"BudgetProjectedOver", "BudgetBurnFast", "BudgetSpent"}
    assert report.spent_at_alert >= report.budget, "the budget was really spent"
    assert report.spent >= report.budget
    assert report.saved_step > 0
    assert report.quiet_s > 0
    shows(report, capsys, "A run over its budget", "BudgetSpent fired after", "the price is made up")


@pytest.mark.parametrize(
    ("drill", "says"),
    [
        (lambda: drill_hang(timeout_s=0.5), "timeout is 0.5; give 1 to 3600"),
        (lambda: drill_storage(step=10), "step is 10 and steps 30"),
        (lambda: drill_storage(step=11), "step is 11 and steps 30"),
        (lambda: drill_storage(step=3), "give one of 7 to 20"),
        (lambda: drill_storage(step=22), "give one of 7 to 20"),
        (lambda: drill_cost(budget=0), "budget is 0; give an amount above 0"),
    ],
)
def test_what_no_drill_can_do_is_refused(drill: Callable[[], Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        drill()


def test_a_run_that_goes_on_to_its_end_or_begins_anew_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = drill_config(tmp_path, "ddp", "kill", 12, 30)
    monkeypatch.setattr(pair, "train_pair", lambda *_: SimpleNamespace(resumed_from=None))
    with pytest.raises(DrillError, match="to its end; expected that kill after step 12 ends it"):
        pair.train_until_it_fails(config)
    with pytest.raises(DrillError, match=f"a checkpoint in {tmp_path}/drill: it began anew"):
        pair.resume(config)
