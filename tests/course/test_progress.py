"""The rules of what is done and what is missing, the table that they read, and what they take from the exchange."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
from contextlib import closing, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_notebook

from distlab.course.accounts.store import Accounts
from distlab.course.exchange.store import RECEIPT, SECRET, Receipt
from distlab.course.grade.autograded import write_stage
from distlab.course.progress.command import progress
from distlab.course.progress.record import HEAD_BYTES, mark_in, standings
from distlab.course.progress.standing import Mark, State, Work, standing
from distlab.course.progress.table import Module, Part, modules, modules_of, parse
from distlab.course.site import Site
from distlab.errors import SettingError
from distlab.labs import labs
from tests.course.batch_rig import grade_all, quick_folder, released, submit
from tests.course.grading_rig import nbgrader
from tests.course.progress_rig import DESIGN, HEAD, LAB, MODULE, PROJECT, QUIZ, ROOT, Exchange
from tests.course.small_lab import LAB_ID

ASKED = ("passed", "submitted", "nothing")
TIMES = [f"2026-11-30 12:00:0{second}.000000 UTC" for second in range(6)]


def of(**works: Work) -> dict[str, Work]:
    """Works by the name of the part, in small letters without blanks."""
    names = {"lab": LAB.id, "quiz": QUIZ.id, "design": DESIGN.id, "project": PROJECT.id}
    return {names[name]: work for name, work in works.items()}


def handed_in(points: float | None = None, max_points: float = 100, again: bool = False) -> Work:
    """A submission, with a released mark where `points` are given."""
    if points is None:
        return Work(True, True, TIMES[0])
    return Work(True, True, TIMES[1 if again else 0], Mark(points, max_points), TIMES[0])


# --- The rules, by hand


def test_nothing_is_there() -> None:
    found = standing(MODULE, {})
    assert not found.complete
    assert {item.state for item in found.items} == {State.UNAVAILABLE}
    assert found.sentence == (
        "Not complete, 0 of 3 parts are done; still missing are Lab 1, Quiz, Project: not yet available."
    )


def test_the_sentence_says_of_each_part_what_is_missing() -> None:
    found = standing(
        MODULE, of(lab=Work(True), quiz=handed_in(64), design=Work(True, True), project=Work(True, True))
    )
    assert found.sentence == (
        "Not complete, 0 of 3 parts are done; still missing are Lab 1: not opened; "
        "Quiz: 64% of the 80% needed; Project: opened, not submitted."
    )
    found = standing(MODULE, of(lab=handed_in(), quiz=handed_in(80), project=handed_in()))
    assert found.sentence == (
        "Not complete, 2 of 3 parts are done; still missing are Lab 1: submitted, no marks released."
    )


def test_a_project_is_done_when_it_is_handed_in_and_a_lab_when_it_is_passed() -> None:
    found = standing(MODULE, of(lab=handed_in(80), quiz=handed_in(100), project=handed_in()))
    assert found.complete
    assert found.sentence == "Complete: all 3 parts are done."
    low = standing(MODULE, of(lab=handed_in(80), quiz=handed_in(100), project=handed_in(10)))
    assert low.complete
    assert not low.items[3].passed


def test_what_is_asked_for_nothing_changes_nothing() -> None:
    for design in (Work(), handed_in(), handed_in(100)):
        found = standing(MODULE, of(lab=handed_in(79.9), design=design))
        assert (found.done, len(found.asked)) == (0, 3)


@pytest.mark.parametrize(
    ("points", "max_points", "passed", "shown"),
    [
        (80, 100, True, "80%"),
        (79.99, 100, False, "79.9%"),
        (sum([0.1] * 8), 1, True, "80%"),  # 0.7999999999999999
        (20, 25, True, "80%"),
        (19.95, 25, False, "79.8%"),
        (0, 0, True, "100%"),
        (-3, 100, False, "-3%"),
        (110, 100, True, "110%"),
    ],
)
def test_where_the_threshold_lies(points: float, max_points: float, passed: bool, shown: str) -> None:
    found = standing(MODULE, of(lab=handed_in(points, max_points))).items[0]
    assert found.passed is passed
    assert found.work.mark is not None
    assert found.work.mark.shown_percent == shown


def test_a_mark_that_was_released_stays_while_a_newer_submission_waits() -> None:
    item = standing(MODULE, of(lab=handed_in(85, again=True))).items[0]
    assert (item.state, item.submitted_again, item.done) == (State.MARKED, True, True)
    assert not standing(MODULE, of(lab=handed_in(85))).items[0].submitted_again


# --- The rules, by property

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
percents = st.integers(1, 100)
marks = st.builds(Mark, st.floats(0, 120), st.sampled_from([0.0, 1.0, 25.0, 60.0, 100.0]))
works = st.one_of(
    st.builds(Work, st.booleans(), st.booleans()),
    st.builds(Work, st.booleans(), st.booleans(), st.sampled_from(TIMES)),
    st.builds(
        lambda available, opened, mark, at: Work(available, opened, TIMES[max(at)], mark, TIMES[min(at)]),
        *(st.booleans(), st.booleans(), marks, st.tuples(st.integers(0, 5), st.integers(0, 5))),
    ),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Module, dict[str, Work]]:
    count = draw(st.integers(1, 6))
    parts = tuple(
        Part(f"mod-9-lab-{number}", f"Lab {number}", "mod-9/index", draw(percents), draw(st.sampled_from(ASKED)), "x")
        for number in range(count)
    )  # fmt: skip
    return Module("mod-9", "Nine", "mod-9/index", parts), {part.id: draw(works) for part in parts}


@patient
@given(cases(), st.data())
def test_order_does_not_matter(case: tuple[Module, dict[str, Work]], data: st.DataObject) -> None:
    module, done = case
    before = standing(module, done)
    parts = tuple(data.draw(st.permutations(module.parts)))
    shuffled = dict(data.draw(st.permutations(list(done.items()))))
    after = standing(replace(module, parts=parts), shuffled)
    assert (after.complete, after.done) == (before.complete, before.done)
    names = {reason: {item.part.id for item in items} for reason, items in before.missing.items()}
    assert {reason: {item.part.id for item in items} for reason, items in after.missing.items()} == names


@patient
@given(cases(), st.data())
def test_a_better_mark_takes_nothing_away(case: tuple[Module, dict[str, Work]], data: st.DataObject) -> None:
    module, done = case
    chosen = data.draw(st.sampled_from(sorted(done)))
    work = done[chosen]
    points, of_points = (work.mark.points, work.mark.max_points) if work.mark else (0.0, 100.0)
    better = Mark(points + data.draw(st.floats(0, 100)), of_points)
    at = work.marked or work.submitted or TIMES[0]
    raised = {**done, chosen: Work(work.available, work.opened, max(at, work.submitted), better, at)}
    before, after = standing(module, done), standing(module, raised)
    assert {item.part.id for item in before.items if item.done} <= {
        item.part.id for item in after.items if item.done
    }
    assert after.done >= before.done
    assert after.complete or not before.complete


@patient
@given(cases())
def test_complete_and_the_list_of_what_is_missing_agree(case: tuple[Module, dict[str, Work]]) -> None:
    module, done = case
    found = standing(module, done)
    missing = [item for items in found.missing.values() for item in items]
    assert found.complete == (not missing)
    assert found.done + len(missing) == len(found.asked)
    assert all(item.part.counts and item.missing and not item.done for item in missing)
    assert found.sentence.startswith("Complete: " if found.complete else "Not complete, ")
    assert found.sentence.count(".") - len(re.findall(r"\d\.\d", found.sentence)) == 1, "one sentence"


@patient
@given(cases(), st.data())
def test_without_a_released_mark_a_submission_says_that_it_is_one_and_when(
    case: tuple[Module, dict[str, Work]], data: st.DataObject
) -> None:
    """Whatever is known of a part beside: it is no other line than that of any submission of that time."""
    module, done = case
    part = data.draw(st.sampled_from(module.parts))
    at = data.draw(st.sampled_from(TIMES))
    lines = [
        standing(module, {**done, part.id: Work(available, opened, at)}).to_json()
        for available in (True, False)
        for opened in (True, False)
    ]
    assert all(line == lines[0] for line in lines)


# --- The table


def test_the_courses_own_table() -> None:
    (module,) = [module for module in modules() if module.module == "mod-202"]
    by_id = {part.id: part for part in module.parts}
    assert [part.gate for part in module.parts if part.name.startswith("Lab ")] == ["passed"] * 6
    assert {f"mod-202-lab-{number}" for number in range(1, 7)} <= set(by_id)
    assert (by_id["mod-202-quiz"].gate, by_id["mod-202-quiz"].pass_percent) == ("passed", 80)
    assert by_id["mod-202-lab-9"].gate == "submitted"
    for lab in labs():
        if lab.id in by_id:
            assert by_id[lab.id].title == lab.title


def test_the_modules_page_has_the_same_checklist() -> None:
    """And nothing of any learner's: it is public, and built before anyone signs in."""
    page = (ROOT / "book" / "mod-202" / "index.md").read_text()
    listed = page.split("\n## Completion\n")[1].split("\n## ")[0]
    (module,) = [module for module in modules() if module.module == "mod-202"]
    rows = re.findall(r"^\| ☐ \| ([^|]+) \| ([^|]+) \|$", listed, re.MULTILINE)
    words = {"passed": "80% of the points", "submitted": "a submission", "nothing": "nothing"}
    assert rows == [(part.name, words[part.gate]) for part in module.parts]
    assert {part.pass_percent for part in module.parts} == {80}
    assert 'href="/hub/progress"' in listed


GOOD = """
- module: mod-9
  title: Nine
  page: mod-9/index
  parts:
    - {id: mod-9-lab-1, name: Lab 1, title: Add, page: mod-9/lab-1, pass_percent: 50, gate: passed}
"""


def test_an_installation_can_have_a_table_of_its_own(tmp_path: Path) -> None:
    site = Site(root=ROOT, state=tmp_path)
    assert modules_of(site) == modules()
    (tmp_path / "completion.yml").write_text(GOOD)
    (module,) = modules_of(site)
    assert module.parts == (Part("mod-9-lab-1", "Lab 1", "mod-9/lab-1", 50, "passed", "Add"),)
    (tmp_path / "completion.yml").write_text(GOOD.replace("50", "60"))
    os.utime(tmp_path / "completion.yml", ns=(1, 1))  # the clock of a disk may be coarse
    assert modules_of(site)[0].parts[0].pass_percent == 60


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("gate: passed", "gate: pass", "gate is 'pass'; it must be passed, submitted or nothing"),
        ("gate: passed", "gate: nothing", "nothing is asked for"),
        ("gate: passed", "gates: passed", "there is no setting 'gates'; did you mean gate?"),
        (", gate: passed", "", "gate is missing"),
        ("pass_percent: 50", "pass_percent: 0", "pass_percent is '0'; it must be above 0"),
        ("pass_percent: 50", "pass_percent: true", "pass_percent is 'True'"),
        ("pass_percent: 50", "pass_percent: .nan", "pass_percent is 'nan'"),
        ("mod-9-lab-1", "lab-1", "id is 'lab-1'; it must be such as mod-202-lab-1"),
        ("page: mod-9/index", "page: ../index", "page is '../index'"),
        ("module: mod-9", "module: MOD", "module 1: module is 'MOD'"),
        ("title: Add, ", "", "title is 'None'"),
        (GOOD, GOOD + GOOD, "the module mod-9 stands there twice"),
        (GOOD, GOOD + GOOD.replace("module: mod-9", "module: mod-8"), "the part mod-9-lab-1 stands there twice"),
        (GOOD, "a: [1", "mine.yml: while parsing"),
        (GOOD, "a: 1", "a list of modules is expected"),
        (GOOD, "[1]", "module 1: settings (`name: value`) are expected"),
        (GOOD, GOOD.replace("title: Nine", "title: Nine\n  title: Ten"), "title is set twice"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_told_where_it_is_wrong(old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(SettingError) as error:
        parse(GOOD.replace(old, new, 1), "mine.yml")
    assert str(error.value).startswith("mine.yml: ")
    assert says in str(error.value)


# --- What the site has of a learner


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    site = Site(root=ROOT, state=tmp_path / "var")
    site.var.mkdir()
    return Exchange(site, tmp_path)


def test_only_what_is_released_is_available(exchange: Exchange) -> None:
    assert exchange.work("ann", LAB) == Work(available=True)
    assert exchange.work("ann", DESIGN) == Work()
    exchange.store.unrelease(LAB.id)
    assert exchange.work("ann", LAB) == Work()


def test_a_lab_is_opened_when_its_folder_is_in_the_home(exchange: Exchange, tmp_path: Path) -> None:
    home = exchange.site.homes / "ann"
    (home / LAB.id).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (home / QUIZ.id).symlink_to(tmp_path / "elsewhere")
    (home / PROJECT.id).write_text("a file")
    assert exchange.work("ann", LAB).opened
    assert not exchange.work("ann", QUIZ).opened
    assert not exchange.work("ann", PROJECT).opened
    assert not exchange.work("bob", LAB).opened
    assert not exchange.work("../ann", LAB).opened


def test_the_mark_is_that_of_the_last_submission_whose_feedback_is_released(exchange: Exchange) -> None:
    first = exchange.submit("ann", LAB.id)
    assert exchange.work("ann", LAB) == Work(True, False, first.timestamp)
    second = exchange.submit("ann", LAB.id)
    exchange.release(first, HEAD.format(30.0, 100.0))
    assert exchange.work("ann", LAB) == Work(True, False, second.timestamp, Mark(30, 100), first.timestamp)
    exchange.release(second, HEAD.format("1e+01", 12.5))
    expected = Work(True, False, second.timestamp, Mark(10, 12.5), second.timestamp)
    assert exchange.work("ann", LAB) == expected
    exchange.release(first, HEAD.format(99.0, 100.0))
    assert exchange.work("ann", LAB) == expected
    exchange.release(second, HEAD.format(11.0, 12.5))
    assert exchange.work("ann", LAB).mark == Mark(11, 12.5)


def test_each_learner_has_what_is_their_own(exchange: Exchange) -> None:
    ann = exchange.submit("ann", LAB.id)
    exchange.submit("bob", LAB.id)
    exchange.submit("bob", PROJECT.id)
    exchange.release(ann, HEAD.format(90.0, 100.0))
    found = standings(exchange.site, ["ann", "bob", "carl"])
    states = {name: [str(item.state) for item in each[0].items] for name, each in found.items()}
    assert states == {
        "ann": ["marked", "not opened", "not yet available", "not opened"],
        "bob": ["submitted", "not opened", "not yet available", "submitted"],
        "carl": ["not opened", "not opened", "not yet available", "not opened"],
    }
    for name, each in found.items():
        assert standings(exchange.site, [name]) == {name: each}
    assert standings(exchange.site, []) == {}


def test_feedback_on_another_notebook_is_no_mark(exchange: Exchange) -> None:
    receipt = exchange.submit("ann", LAB.id, LAB.id, "own")
    exchange.release(receipt, HEAD.format(100.0, 100.0), notebook="own")
    assert exchange.work("ann", LAB).mark is None
    other = exchange.submit("bob", LAB.id, "own")
    exchange.release(other, HEAD.format(100.0, 100.0), notebook="own")
    assert exchange.work("bob", LAB) == Work(True, False, other.timestamp)


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><html><head><title>from before there were marks</title></head></html>",
        "<html><body>" + HEAD.format(100.0, 100.0).replace("<head>", ""),
        "<html><head>" + " " * HEAD_BYTES + '<meta content="100.0 of 100.0" name="distlab-mark"/>',
        HEAD.format("nan", 100.0),
        HEAD.format("--", 100.0),
        HEAD.format("1e999", 100.0),
        HEAD.format(1.0, "-1.0"),
        HEAD.format("", 100.0),
        "",
    ],
)
def test_a_page_that_names_no_mark_in_its_head_counts_as_none(exchange: Exchange, page: str) -> None:
    receipt = exchange.submit("ann", LAB.id)
    exchange.release(receipt, page)
    assert exchange.work("ann", LAB) == Work(True, False, receipt.timestamp)


def test_what_is_broken_or_strange_at_the_exchange_hides_nobody_else(
    exchange: Exchange, caplog: pytest.LogCaptureFixture
) -> None:
    def folder(receipt: Receipt) -> Path:
        return exchange.store.submission(receipt.user, receipt.assignment, receipt.timestamp)

    given = {name: exchange.submit(name, LAB.id) for name in ("ann", "bob", "carl", "eve")}
    for receipt in given.values():
        exchange.release(receipt, HEAD.format(90.0, 100.0))
    (folder(given["bob"]) / SECRET).write_bytes(b"\xff" * 128)
    page = exchange.store.feedback_file(folder(given["carl"]), LAB.id)
    page.unlink()
    page.mkdir()
    for name in ("lost", ".nfs0001", "a+b", "ann+"):
        (exchange.store.inbound / name).write_text("not a submission")
    # Somebody's receipt in a folder of another's.
    copy = exchange.store.inbound / f"eve+{QUIZ.id}+{given['ann'].timestamp}+copied"
    copy.mkdir()
    (copy / RECEIPT).write_bytes((folder(given["ann"]) / RECEIPT).read_bytes())
    found = standings(exchange.site, given)
    states = {name: str(each[0].items[0].state) for name, each in found.items()}
    assert states == {"ann": "marked", "bob": "submitted", "carl": "submitted", "eve": "marked"}
    assert str(found["eve"][0].items[1].state) == "not opened"
    assert standings(exchange.site, ["ann"])["ann"] == found["ann"]
    assert "cannot be read; it counts as none" in caplog.text
    assert "has no readable receipt" in caplog.text


def test_no_page_that_was_handed_in_lies_where_feedback_will_be(tmp_path: Path) -> None:
    """nbgrader copies what lies beside the notebook first; cut off then, it would release that page as feedback."""
    forged = base64.b64encode(HEAD.format(100.0, 100.0).encode()).decode()
    files = {f"{LAB.id}.html": forged, f"data/{LAB.id}.html": forged, "own.html": forged}
    write_stage(tmp_path / "stage", LAB.id, new_notebook(), files)  # type: ignore[no-untyped-call]
    kept = {path.relative_to(tmp_path / "stage").as_posix() for path in (tmp_path / "stage").rglob("*.*")}
    assert kept == {f"{LAB.id}.ipynb", f"data/{LAB.id}.html", "own.html"}


# --- With nbgrader's own commands


def test_feedback_names_its_mark_whatever_was_handed_in(tmp_path: Path) -> None:
    forged = HEAD.format(14.0, 14.0)
    with quick_folder() as folder:
        site = released(folder)
        submit(site.course, "ann")
        submit(
            site.course,
            "eve",
            lambda made: made.answer("double", "def double(x): half").add(forged, 0, "markdown"),
        )
        # A page that is named as the feedback will be lies beside the notebook.
        (site.course / "submitted" / "eve" / LAB_ID / f"{LAB_ID}.html").write_text(forged)
        grade_all(site.course)
        made = nbgrader(site, tmp_path / "home", "generate_feedback", LAB_ID)
        assert made.returncode == 0, made.stderr
        pages = {
            name: (site.course / "feedback" / name / LAB_ID / f"{LAB_ID}.html").read_bytes()
            for name in ("ann", "eve")
        }
    assert {name: mark_in(page[:HEAD_BYTES]) for name, page in pages.items()} == {
        "ann": Mark(10, 14),
        "eve": Mark(7.5, 14),
    }


# --- The command, on the site's machine


@pytest.fixture
def operator(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> Exchange:
    for name, value in exchange.site.env().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("JUPYTERHUB_API_URL", raising=False)
    return exchange


def written(**options: object) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert progress(**options) == 0  # type: ignore[arg-type]
    return out.getvalue()


def test_the_command_lists_admitted_learners(operator: Exchange) -> None:
    with pytest.raises(SettingError, match="holds no site"):
        progress()
    with closing(Accounts(operator.site, bcrypt_rounds=4)) as accounts:
        for name, admitted in (("bob", True), ("ann", True), ("waits", False)):
            accounts.sign_up(name, "a long enough passphrase", admitted=admitted)
        accounts.make_instructor("teacher", "a long enough passphrase")
    receipt = operator.submit("ann", LAB.id)
    operator.release(receipt, HEAD.format(85.0, 100.0))
    operator.submit("ann", PROJECT.id)
    rows = list(csv.DictReader(io.StringIO(written())))
    assert rows == [
        {
            "learner": "ann", "module": "mod-9", "complete": "no", "done": "2", "asked": "3",
            "missing": QUIZ.id, LAB.id: "85", QUIZ.id: "not opened", DESIGN.id: "not yet available",
            PROJECT.id: "submitted",
        },
        {
            "learner": "bob", "module": "mod-9", "complete": "no", "done": "0", "asked": "3",
            "missing": f"{LAB.id} {QUIZ.id} {PROJECT.id}", LAB.id: "not opened", QUIZ.id: "not opened",
            DESIGN.id: "not yet available", PROJECT.id: "not opened",
        },
    ]  # fmt: skip
    assert [row["learner"] for row in csv.DictReader(io.StringIO(written(learner="bob")))] == ["bob"]
    ((module,),) = json.loads(written(learner="ann", json=True)).values()
    assert module["sentence"].startswith("Not complete, 2 of 3 parts are done; still missing are Quiz")
    assert module["parts"][0]["marked_submission_utc"] == receipt.timestamp
    with pytest.raises(SettingError, match="no admitted learner"):
        progress(learner="waits")
