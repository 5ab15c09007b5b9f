"""A machine that can make no sandbox: each command says so in a sentence, and no submission is to blame."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from distlab import cli
from distlab.course import check_lab, grade_file
from distlab.course.grade import children, grader, graders
from distlab.course.grade.children import SandboxFailed
from distlab.course.grade.queue import Queue, State
from distlab.course.grade.work import Result
from distlab.course.release import learner_notebook
from tests.course.batch_rig import submit
from tests.course.small_lab import LAB_ID, write_lab

REASON = "the learner sandbox did not start: bwrap is missing"


class Unready:
    """Children that never start."""

    def get_ready(self) -> None:
        raise SandboxFailed(REASON)


@pytest.fixture(autouse=True)
def no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    def grade(*_: object) -> Result:
        raise SandboxFailed(REASON)

    for module in (grader, grade_file, check_lab):
        monkeypatch.setattr(module, "grade", grade)
    for module in (children, grade_file, check_lab):
        monkeypatch.setattr(module, "Children", lambda: nullcontext(Unready()))


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What `distlab course ...` says when it ends with exit code 1."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["course", *arguments])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_files_and_labs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_lab(tmp_path)
    mine = tmp_path / "mine.ipynb"
    mine.write_bytes(learner_notebook(tmp_path, LAB_ID))
    root = ["--root", str(tmp_path)]
    said = failed(capsys, "grade-file", LAB_ID, str(mine), *root)
    assert said == f"distlab course grade-file: {REASON}\n"
    assert failed(capsys, "check-lab", LAB_ID, *root) == f"distlab course check-lab: {REASON}\n"


def test_a_batch_stops_and_nothing_counts_as_tried(
    course: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(course, "ann")
    submit(course, "ben")
    monkeypatch.setenv("DISTLAB_COURSE", str(course))
    monkeypatch.delenv(graders.FOLDER_ENV, raising=False)
    monkeypatch.setattr(graders, "service_socket", lambda: None)
    assert f"This machine can make no sandbox ({REASON})." in failed(capsys, "grade", LAB_ID)
    with Queue(course) as queue:
        assert [(job.state, job.faults) for job in queue.jobs()] == [(State.QUEUED, 0)] * 2
