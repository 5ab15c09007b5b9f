"""nbgrader's own commands and JupyterLab's Assignment List, unchanged, through the exchange."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_core.application import NoStart
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderApp
from nbgrader.apps.api import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange import ExchangeError
from traitlets.config import Config

from distlab.course.exchange import plugin
from distlab.course.exchange.assignment_list import PlainAssignmentList
from tests.course.exchange_rig import LAB, Rig, lab_folder, running, token

CONFIG = "from distlab.course.exchange import plugin\nplugin.configure(get_config())\n"


class Person:
    """Somebody at a terminal in their own home."""

    def __init__(self, name: str, home: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.name, self.home, self.rig, self.monkeypatch = name, home, rig, monkeypatch
        home.mkdir()
        (home / "nbgrader_config.py").write_text(CONFIG)

    @contextlib.contextmanager
    def at_home(self) -> Iterator[None]:
        with self.monkeypatch.context() as patch:
            patch.setenv("HOME", str(self.home))
            patch.setenv("JUPYTER_CONFIG_DIR", str(self.home / ".jupyter"))
            patch.setenv("JUPYTERHUB_USER", self.name)
            patch.setenv("JUPYTERHUB_API_TOKEN", token(self.name))
            patch.setenv("DISTLAB_EXCHANGE_URL", self.rig.url)
            # nbgrader starts `alembic` by its name when it makes a gradebook.
            patch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)
            patch.setenv("TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR", "1")
            patch.chdir(self.home)
            yield

    def nbgrader(self, *arguments: str) -> tuple[int, str]:
        """Run `nbgrader ...`; its exit code and what it logged."""
        log = self.home / "nbgrader.log"
        log.unlink(missing_ok=True)
        with self.at_home():
            app = NbGraderApp.instance()
            code = 0
            try:
                app.initialize([*arguments, f"--NbGrader.logfile={log}"])
                app.start()
            except NoStart:  # raised after every subcommand that ended well
                pass
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                app.reset()
                NbGraderApp.clear_instance()
        return code, log.read_text()

    def ok(self, *arguments: str) -> str:
        code, log = self.nbgrader(*arguments)
        assert code == 0, log
        return log

    def refused(self, *arguments: str) -> str:
        code, log = self.nbgrader(*arguments)
        assert code == 1, log
        assert "Traceback" not in log
        return log

    @property
    def lab(self) -> Path:
        return self.home / LAB


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running(tmp_path_factory.mktemp("exchange")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    """A running exchange with nothing stored."""
    shared.reset()
    return shared


@pytest.fixture
def person(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Person]:
    return lambda name: Person(name, tmp_path / f"home-{name}", rig, monkeypatch)


@pytest.fixture
def teacher(person: Callable[[str], Person]) -> Person:
    """The instructor, with the lab released."""
    teacher = person("teacher")
    lab_folder(teacher.home / "release", **{"hint.txt": "predict first"})
    teacher.ok("release_assignment", LAB)
    return teacher


def graded(teacher: Person, student: str, text: str) -> None:
    """Put what `generate_feedback` makes beside its timestamp."""
    folder = teacher.home / "feedback" / student / LAB
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{LAB}.html").write_text(text)
    submitted = teacher.home / "submitted" / student / LAB
    (folder / "timestamp.txt").write_text((submitted / "timestamp.txt").read_text())


def test_the_whole_loop(teacher: Person, person: Callable[[str], Person]) -> None:
    alice, bob = person("alice"), person("bob")
    assert LAB in alice.ok("list")
    alice.ok("fetch_assignment", LAB)
    assert sorted(os.listdir(alice.lab)) == ["hint.txt", f"{LAB}.ipynb"]
    assert "already downloaded" in alice.ok("list")
    (alice.lab / "answer.txt").write_text("first")
    assert "Receipt: 3 file(s), sha256 " in alice.ok("submit", LAB)
    bob.ok("fetch_assignment", LAB)
    bob.ok("submit", LAB)

    listed = teacher.ok("list", "--inbound")
    assert f"distlab alice {LAB} 20" in listed
    assert f"distlab bob {LAB} 20" in listed
    teacher.ok("collect", LAB)
    submitted = teacher.home / "submitted"
    assert sorted(os.listdir(submitted)) == ["alice", "bob"]
    assert (submitted / "alice" / LAB / "answer.txt").read_text() == "first"

    # Only --update takes a newer submission in place of an older one.
    (alice.lab / "answer.txt").write_text("second")
    alice.ok("submit", LAB)
    assert "use --update to update" in teacher.ok("collect", LAB)
    assert (submitted / "alice" / LAB / "answer.txt").read_text() == "first"
    assert "no newer one: bob" in teacher.ok("collect", "--update", LAB)
    assert (submitted / "alice" / LAB / "answer.txt").read_text() == "second"
    assert os.listdir(submitted / "alice") == [LAB]

    assert "No feedback on" in alice.ok("fetch_feedback", LAB)
    for student in ("alice", "bob"):
        graded(teacher, student, f"for {student}")
    # nbgrader copies a page that was handed in to where the feedback lies.
    for folder in ("submitted", "feedback"):
        (teacher.home / folder / "bob" / LAB / "own.html").write_text("<p>handed in</p>")
    assert "Feedback released to alice" in teacher.ok("release_feedback", LAB)
    assert "feedback ready to be fetched" in alice.ok("list", "--cached")
    alice.ok("fetch_feedback", LAB)
    (feedback,) = (alice.lab / "feedback").iterdir()
    assert (feedback / f"{LAB}.html").read_text() == "for alice"
    assert "feedback already fetched" in alice.ok("list", "--cached")
    assert "bob" not in alice.ok("list", "--inbound")

    # Fetched feedback is not sent along with the next submission.
    assert "Receipt: 3 file(s)" in alice.ok("submit", LAB)


def test_a_student_that_is_named_must_be_oneself(teacher: Person, person: Callable[[str], Person]) -> None:
    alice = person("alice")
    alice.ok("fetch_assignment", LAB)
    assert "alice may not submit as 'bob'" in alice.refused("submit", LAB, "--student=bob")
    alice.ok("submit", LAB, "--student=alice")
    assert "may see only their own submissions" in alice.refused("list", "--inbound", "--student=bob")
    assert "it needs the scope custom:exchange:teach" in alice.refused("list", "--remove")
    lab_folder(alice.home / "release", evil="1")
    assert "it needs the scope custom:exchange:teach" in alice.refused("release_assignment", LAB)


def test_collect_one_student_and_before_the_due_date(
    teacher: Person, person: Callable[[str], Person]
) -> None:
    alice, bob = person("alice"), person("bob")
    for learner in (alice, bob):
        learner.ok("fetch_assignment", LAB)
        learner.ok("submit", LAB)
    teacher.ok("collect", LAB, "--student=bob")
    assert os.listdir(teacher.home / "submitted") == ["bob"]
    early = teacher.rig.client("alice").submissions()
    (alice.lab / "late.txt").write_text("x")
    alice.ok("submit", LAB)
    database = f"sqlite:///{teacher.home}/gradebook.db"
    with teacher.at_home(), Gradebook(database, "distlab") as gradebook:
        gradebook.update_or_create_assignment(LAB, duedate=early[0]["timestamp"])
    teacher.ok("collect", LAB, "--before-duedate")
    assert not (teacher.home / "submitted/alice" / LAB / "late.txt").exists()


def test_releasing_again_needs_force_and_withdrawing_works(
    teacher: Person, person: Callable[[str], Person]
) -> None:
    assert "already released; use --force" in teacher.refused("release_assignment", LAB)
    (teacher.home / "release" / LAB / "hint.txt").write_text("measure then")
    teacher.ok("release_assignment", LAB, "--force")
    alice = person("alice")
    alice.ok("fetch_assignment", LAB)
    assert (alice.lab / "hint.txt").read_text() == "measure then"
    teacher.ok("list", "--remove", "--assignment", LAB)
    assert "is not released" in person("bob").refused("fetch_assignment", LAB)
    assert "keeps every submission" in teacher.refused("list", "--inbound", "--remove")


def test_fetching_again_restores_what_is_missing_and_overwrites_nothing(
    teacher: Person, person: Callable[[str], Person]
) -> None:
    alice = person("alice")
    alice.ok("fetch_assignment", LAB)
    assert "You already have a copy" in alice.refused("fetch_assignment", LAB)
    (alice.lab / f"{LAB}.ipynb").write_text("my work")
    (alice.lab / "hint.txt").unlink()
    alice.ok("fetch_assignment", LAB, "--replace")
    assert (alice.lab / "hint.txt").read_text() == "predict first"
    assert (alice.lab / f"{LAB}.ipynb").read_text() == "my work"


def test_what_cannot_be_sent_is_named(teacher: Person, person: Callable[[str], Person]) -> None:
    alice = person("alice")
    assert "Assignment not found" in alice.refused("submit", LAB)
    alice.ok("fetch_assignment", LAB)
    (alice.lab / "data").symlink_to("/etc")
    (alice.lab / ".ipynb_checkpoints").mkdir()
    (alice.lab / ".ipynb_checkpoints" / "x.ipynb").write_text("old")
    log = alice.ok("submit", LAB)
    assert '"data" is no ordinary file and is not sent' in log
    assert "Receipt: 2 file(s)" in log
    (alice.lab / "run 1 ").write_text("x")
    assert "'run 1 ' has a part that begins or ends with a space" in alice.refused("submit", LAB)
    (alice.lab / "run 1 ").unlink()
    (alice.lab / f"{LAB}.ipynb").rename(alice.lab / "mine.ipynb")
    assert f"lacks the notebook(s) {LAB}; it was not submitted" in alice.refused("submit", LAB, "--strict")
    assert f"lacks the notebook(s) {LAB}" in alice.ok("submit", LAB)
    assert 'This exchange serves the course "distlab", not "other"' in alice.refused("list", "--course=other")
    assert "is no lab" in alice.refused("fetch_assignment", "../x")


def test_feedback_without_its_submission_is_named(teacher: Person, person: Callable[[str], Person]) -> None:
    alice = person("alice")
    alice.ok("fetch_assignment", LAB)
    alice.ok("submit", LAB)
    teacher.ok("collect", LAB)
    graded(teacher, "alice", "good")
    for student in ("bob", "carol"):
        folder = teacher.home / "feedback" / student / LAB
        folder.mkdir(parents=True)
        (folder / f"{LAB}.html").write_text("x")
    (folder / "timestamp.txt").write_text("2026-11-20 10:00:00.000000 UTC")
    log = teacher.refused("release_feedback", LAB)
    assert "Feedback could not be released to bob, carol" in log
    assert "Feedback released to alice" in log


# JupyterLab's Assignment List


def assignment_list(learner: Person) -> PlainAssignmentList:
    manager = PlainAssignmentList()
    manager.root_dir = str(learner.home)
    return manager


def test_the_assignment_list_sees_each_step(teacher: Person, person: Callable[[str], Person]) -> None:
    alice = person("alice")
    with alice.at_home():
        listing = assignment_list(alice)

        def shown() -> list[dict[str, Any]]:
            answer = listing.list_assignments(course_id="distlab")
            assert answer["success"], answer
            json.dumps(answer)
            found: list[dict[str, Any]] = answer["value"]
            return found

        assert listing.list_courses() == {"success": True, "value": ["distlab"]}
        assert [item["status"] for item in shown()] == ["released"]
        assert listing.fetch_assignment("distlab", LAB) == {"success": True}
        (fetched,) = shown()
        assert (fetched["status"], fetched["path"]) == ("fetched", LAB)
        assert fetched["notebooks"] == [{"notebook_id": LAB, "path": f"{LAB}/{LAB}.ipynb"}]
        for _ in range(2):
            assert listing.submit_assignment("distlab", LAB) == {"success": True}
        submissions = shown()[1]["submissions"]
        assert [item["has_exchange_feedback"] for item in submissions] == [False, False]

    teacher.ok("collect", LAB)
    graded(teacher, "alice", "good")
    teacher.ok("release_feedback", LAB)
    with alice.at_home():
        first, second = shown()[1]["submissions"]
        assert (first["has_exchange_feedback"], second["has_exchange_feedback"]) == (False, True)
        assert listing.fetch_feedback("distlab", LAB) == {"success": True}
        _, second = shown()[1]["submissions"]
        assert second["has_local_feedback"]
        assert not second["feedback_updated"]
        assert second["local_feedback_path"] == f"{LAB}/feedback/{second['timestamp']}"

    graded(teacher, "alice", "better")
    teacher.ok("release_feedback", LAB)
    with alice.at_home():
        assert shown()[1]["submissions"][1]["feedback_updated"]


def test_the_assignment_list_shows_one_sentence_when_something_fails(
    teacher: Person, person: Callable[[str], Person]
) -> None:
    alice = person("alice")
    with alice.at_home():
        listing = assignment_list(alice)
        assert listing.fetch_assignment("distlab", LAB) == {"success": True}
        (alice.lab / "a\\b").write_text("x")
        answer = listing.submit_assignment("distlab", LAB)
        assert answer == {
            "success": False,
            "value": "The file name 'a\\\\b' has a backslash; rename the file.",
        }
        teacher.rig.stop()
        answer = listing.list_assignments(course_id="distlab")
        assert answer["success"] is False
        assert answer["value"].startswith("The exchange cannot be reached; try again in a minute")


# The formgrader's buttons


def test_the_formgraders_buttons(teacher: Person, person: Callable[[str], Person]) -> None:
    lab_folder(teacher.home / "source")
    teacher.ok("generate_assignment", LAB, "--force")
    alice = person("alice")
    alice.ok("fetch_assignment", LAB)
    alice.ok("submit", LAB)
    config = Config()
    plugin.configure(config)
    config.CourseDirectory.root = str(teacher.home)
    with teacher.at_home():
        api = NbGraderAPI(CourseDirectory(config=config), config=config)
        assert api.get_released_assignments() == {LAB}
        assert api.unrelease(LAB)["success"]
        assert api.get_released_assignments() == set()
        assert api.release_assignment(LAB)["success"]
        assert not api.release_assignment(LAB)["success"]
        assert api.collect(LAB)["success"]
        graded(teacher, "alice", "good")
        assert api.release_feedback(LAB)["success"]
        assert api.release_feedback(LAB, "alice")["success"]
        assert api.get_assignment(LAB)["status"] == "released"
    alice.ok("fetch_feedback", LAB)


def test_the_formgrader_opens_when_the_exchange_is_away(teacher: Person) -> None:
    teacher.rig.stop()
    config = Config()
    plugin.configure(config)
    config.CourseDirectory.root = str(teacher.home)
    with teacher.at_home():
        api = NbGraderAPI(CourseDirectory(config=config), config=config)
        assert api.exchange_missing
        assert api.get_released_assignments() == set()
        with pytest.raises(ExchangeError, match="cannot be reached"):
            api.exchange.List(coursedir=api.coursedir, parent=api).start()
