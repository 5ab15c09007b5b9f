"""A lab whose own model answer fails a test is not released; one that passed is not run again."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from distlab.course import check_lab, up
from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.work import OWN_FAULT, Graded, Result, Verdict, Work
from distlab.course.proved import inputs_digest, is_proved, prove, report_path
from distlab.course.release import ReleaseError, release_all
from distlab.course.sandbox import availability
from distlab.course.site import Site
from tests.course.small_lab import LAB, LAB_ID, write_lab

needs_sandboxes = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")
GRADE = check_lab.grade
RIGHT = "assert triple(7) == 21"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    write_lab(tmp_path)
    return Site(tmp_path)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=1000)


def said(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Runs:
    """Stands for the grader: how often it ran, and what the lab's hidden test comes to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.verdict, self.message = Verdict.PASSED, ""
        monkeypatch.setattr(check_lab, "grade", self.grade)

    def grade(self, work: Work, _: Children) -> Result:
        self.times += 1
        cell = Graded("hidden_triple", self.verdict, 0.0, 5.0, self.message)
        return Result(work.lab, self.verdict, "", (cell,))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(monkeypatch)


@needs_sandboxes
@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("assert triple(7) == 22", "failed, 0 of 5 points: triple is wrong"),
        ("assert triple(7)['x']", "failed, 0 of 5 points"),
        ("import no_such_module; assert triple(7)", "not gradable, 0 of 5 points"),
        ("assert double(triple)", "error, 0 of 5 points"),
    ],
)
def test_a_test_that_fails_on_the_model_answer_is_refused_with_cell_and_line(
    site: Site, console: Console, wrong: str, why: str
) -> None:
    text = LAB.replace(RIGHT, wrong)
    path = write_lab(site.root, text)
    with pytest.raises(ReleaseError) as refused:
        release_all(site, partial(prove, site, console=console))
    line = (
        text.split("\n").index("### BEGIN HIDDEN TESTS", text.split("\n").index("    return x + double(x)"))
        + 1
    )
    what = f"the test 'hidden_triple' does not pass on the model answer: hidden_triple {why}"
    assert str(refused.value).startswith(f"{path}: cell 7, line {line}: {what}")
    assert not (site.course / "release").exists()
    assert not is_proved(site, LAB_ID)


@needs_sandboxes
def test_a_model_answer_that_passed_is_remembered(site: Site, console: Console, runs: Runs) -> None:
    with pytest.MonkeyPatch.context() as real:
        real.setattr(check_lab, "grade", GRADE)
        assert release_all(site, partial(prove, site, console=console)) == [LAB_ID]
    assert said(console).startswith(f"{LAB_ID} is new or changed")
    assert is_proved(site, LAB_ID)
    (site.course / "released.json").unlink()
    assert release_all(site, partial(prove, site, console=console)) == [LAB_ID]
    assert runs.times == 0
    write_lab(site.root, LAB.replace(RIGHT, "assert triple(8) == 24"))
    prove(site, LAB_ID, console)
    assert runs.times == 1


def test_a_report_of_todays_lab_spares_the_run(site: Site, console: Console, runs: Runs) -> None:
    path = report_path(site.root, LAB_ID)
    path.parent.mkdir(parents=True)
    for broken in ("", "[]", "{}", json.dumps({"inputs": "of yesterday's lab"})):
        path.write_text(broken)
        assert not is_proved(site, LAB_ID)
    path.write_text(json.dumps({"inputs": inputs_digest(site.root, LAB_ID)}))
    prove(site, LAB_ID, console)
    assert (runs.times, said(console)) == (0, "")


def test_a_fault_of_the_machine_refuses_nothing_and_proves_nothing(
    site: Site, console: Console, runs: Runs
) -> None:
    runs.verdict, runs.message = Verdict.NOT_GRADABLE, "Not graded: the sandbox of the tests was lost."
    assert release_all(site, partial(prove, site, console=console)) == [LAB_ID]
    assert "The model answer of mod-1-lab-1 was not run: hidden_triple: Not graded" in said(console)
    assert not is_proved(site, LAB_ID)
    runs.message = OWN_FAULT
    with pytest.raises(ReleaseError, match="'hidden_triple' does not pass on the model answer"):
        prove(site, LAB_ID, console)


def test_a_machine_without_sandboxes_releases_and_says_so(
    site: Site, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(work: Work, _: Children) -> Result:
        raise SandboxFailed("bubblewrap is missing")

    monkeypatch.setattr(check_lab, "grade", none)
    assert release_all(site, partial(prove, site, console=console)) == [LAB_ID]
    assert "was not run: bubblewrap is missing" in said(console)
    assert not is_proved(site, LAB_ID)


def test_a_source_that_cannot_be_read_is_refused_by_name(site: Site, console: Console) -> None:
    write_lab(site.root, LAB.replace("    ### END SOLUTION\n", "", 1))
    with pytest.raises(ReleaseError, match=r"lab\.md: cell 3, line \d+: BEGIN SOLUTION without END"):
        prove(site, LAB_ID, console)


def test_the_site_does_not_start_with_such_a_lab(
    site: Site, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.verdict, runs.message = Verdict.FAILED, "triple is wrong"
    monkeypatch.setattr("distlab.course.book.build_book", lambda _: None)
    monkeypatch.setattr(up, "_claim_port", lambda _: None)
    up.prepare_folders(site)
    with pytest.raises(up.SiteError, match="'hidden_triple' does not pass on the model answer"):
        up.prepare(site)


def test_the_site_starts_where_such_a_lab_was_released_before(
    site: Site, runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distlab.course.book.build_book", lambda _: None)
    monkeypatch.setattr(up, "_claim_port", lambda _: None)
    up.prepare_folders(site)
    up.prepare(site)
    assert f"Released: {LAB_ID}." in capsys.readouterr().err
    runs.verdict, runs.message = Verdict.FAILED, "triple is wrong"
    write_lab(site.root, LAB.replace("triple(7) == 21", "triple(7) == 22"))
    up.prepare(site)
    said = capsys.readouterr().err
    assert f"{LAB_ID} is not released again; learners keep the version that they have:" in said
    assert "'hidden_triple' does not pass on the model answer" in said
    assert "Released:" not in said
