"""Hostile submissions, by the whole path to the learner: none gets a point that it did not earn, none learns a test."""

from __future__ import annotations

import base64
import functools
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from bs4 import BeautifulSoup

from distlab.course.grade.batch import Batch
from distlab.course.grade.child import Child
from distlab.course.grade.children import Children
from distlab.course.grade.collected import Lab
from distlab.course.grade.grader import grade
from distlab.course.grade.queue import Job, Queue, State
from distlab.course.grade.records import Record
from distlab.course.grade.work import Cell, Kind, Limits, Result, Verdict, Work
from distlab.course.release import release_all
from distlab.course.sandbox import availability
from distlab.course.site import Site
from distlab.errors import SettingError
from tests.course.batch_rig import gradebook, quick_folder, scores
from tests.course.cheat_rig import (
    ALL,
    CANARIES,
    LAB,
    POINTS,
    Cheat,
    answer_honestly,
    corpus,
    leaked,
    visible_outputs,
)
from tests.course.children_rig import MIB, is_gone
from tests.course.grading_rig import nbgrader
from tests.course.small_lab import LAB_ID, Submission, write_lab

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

CORPUS = {cheat.name: cheat for cheat in corpus()}
HONEST = ("a-honest", "m-honest", "zz-honest")
"""Graded before, among and after the cheats, which go by name."""

LIMITS = Limits(
    cell_s=6, wall_s=60, cpu_s=40, memory_bytes=700 * MIB, tmp_bytes=64 * MIB, file_bytes=32 * MIB,
    output_bytes=MIB, processes=64,
)  # fmt: skip
WORKERS = 6
"""More than there are cores: many cheats only wait."""


class Watched(Children):
    """Children that remembers all that it started."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Child] = []

    def start_together(
        self, limits: Limits, wanted: Sequence[tuple[str, Sequence[socket.socket]]]
    ) -> list[Child]:
        children = super().start_together(limits, wanted)
        self.started += children
        return children


@dataclass
class Course:
    """A course after all cheats and honest submissions were graded and had their feedback."""

    site: Site
    jobs: dict[str, Job]
    children: Watched

    def result(self, student: str) -> Result:
        record = self.jobs[student].record
        assert record is not None, self.jobs[student].message
        return Record.from_json(record).result

    def notebook(self, student: str) -> dict[str, Any]:
        path = self.site.course / "autograded" / student / LAB_ID / f"{LAB_ID}.ipynb"
        notebook: dict[str, Any] = json.loads(path.read_text())
        return notebook

    def outputs(self, student: str) -> str:
        return visible_outputs(self.notebook(student))

    def page(self, student: str) -> str:
        """The feedback, without the style sheets, which are nbconvert's."""
        text = (self.site.course / "feedback" / student / LAB_ID / f"{LAB_ID}.html").read_text()
        return text[: text.index("<style")] + text[text.index("<body") :]


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    home = tmp_path_factory.mktemp("home")
    with quick_folder() as folder, Watched() as children:
        site = Site(folder)
        write_lab(site.root, LAB)
        release_all(site)
        for student in HONEST:
            starter = Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb")
            answer_honestly(starter).submit(site.course, student)
        for cheat in CORPUS.values():
            cheat.submit(site)
        with Queue(site.course) as queue:
            grader = functools.partial(grade, children=children)
            batch = Batch(site.course, queue, grader, assignment=LAB_ID, workers=WORKERS, limits=LIMITS)
            batch.ask(LAB_ID, batch.lab(LAB_ID).students(), by="teacher", reason="test")
            batch.run()
            jobs = {job.student: job for job in queue.jobs(LAB_ID)}
        feedback = nbgrader(site, home, "generate_feedback", LAB_ID)
        assert feedback.returncode == 0, feedback.stderr
        yield Course(site, jobs, children)


@pytest.fixture(params=CORPUS.values(), ids=CORPUS)
def cheat(request: pytest.FixtureRequest) -> Cheat:
    found: Cheat = request.param
    return found


def test_the_corpus_is_of_distinct_mechanisms() -> None:
    assert len({cheat.attack for cheat in CORPUS.values()}) == len(CORPUS) >= 40
    assert all(cheat.after for cheat in CORPUS.values())


# Points


def test_no_point_is_forged(course: Course, cheat: Cheat) -> None:
    job, result = course.jobs[cheat.name], course.result(cheat.name)
    assert result.points <= cheat.points, result.cells
    if cheat.honest:
        assert result.points == cheat.points, "its honest part was to be seen to the end: " + result.message
    assert (job.state, job.faults) == (State.DONE, 0), job.message
    assert result.max_points == ALL
    assert [(cell.grade_id, cell.max_points) for cell in result.cells if cell.points > cell.max_points] == []
    assert scores(course.site.course, cheat.name) == {cell.grade_id: cell.points for cell in result.cells}


def test_what_stopped_a_cheat_is_its_own_doing(course: Course, cheat: Cheat) -> None:
    """None escapes its zero as "not gradable"."""
    result = course.result(cheat.name)
    assert Verdict.NOT_GRADABLE not in {result.verdict, *(cell.verdict for cell in result.cells)}
    if cheat.verdict:
        assert result.verdict == cheat.verdict, result.message


def test_a_test_that_no_alarm_interrupts_ends_as_the_submissions_timeout(course: Course) -> None:
    test = Cell("assert sum(range(large())) == 1, 'no'", "t", Kind.HIDDEN, 2.0)
    cells = (Cell("def large():\n    return 10**12"), test)
    work = Work(LAB_ID, cells, ("large",), limits=replace(LIMITS, cpu_s=2), display=False)
    result = grade(work, course.children)
    assert [(cell.verdict, cell.points) for cell in result.cells] == [(Verdict.TIMEOUT, 0.0)]


def test_the_points_that_there_are_stay(course: Course) -> None:
    with gradebook(course.site.course) as book:
        assignment = book.find_assignment(LAB_ID)
        assert assignment.max_score == ALL
        [notebook] = assignment.notebooks
        assert {cell.name: cell.max_score for cell in notebook.grade_cells} == POINTS


@pytest.mark.parametrize("student", HONEST)
def test_honest_submissions_are_what_they_were(course: Course, student: str) -> None:
    result = course.result(student)
    assert (result.verdict, result.points) == (Verdict.PASSED, ALL)
    assert "Traceback" not in course.page(student)


def test_nothing_runs_on(course: Course) -> None:
    started = course.children.started
    assert len(started) > 2 * len(CORPUS)
    assert [child for child in started if child.running or not is_gone(child)] == []


# What learners get


@pytest.mark.parametrize("student", [*HONEST, *CORPUS])
def test_nothing_of_hidden_tests_is_shown(course: Course, student: str) -> None:
    page, outputs = course.page(student), course.outputs(student)
    assert leaked(page) == set()
    assert leaked(outputs) == set()
    assert leaked(json.dumps([cell.message for cell in course.result(student).cells])) == set()
    assert "tests_s" not in page, "how long a test takes is the learner's choice"
    assert "HIDDEN TESTS" not in page.replace("### BEGIN HIDDEN TESTS\n13", "")
    assert "hidden_mirror" in page


def test_nothing_of_hidden_tests_is_at_the_exchange_or_with_the_feedback(course: Course) -> None:
    exchange = course.site.exchange
    given = [path.resolve() for path in (exchange / "outbound").iterdir()]
    files = [path for folder in given for path in folder.rglob("*")] + list(exchange.rglob("*"))
    files += [path for path in (course.site.course / "feedback").rglob("*") if path.suffix != ".html"]
    assert [path.name for path in files if path.suffix == ".ipynb"]
    for path in files:
        if path.is_file():
            assert leaked(path.read_bytes().decode(errors="replace")) == set(), path
        assert not path.is_symlink() or path.parent == exchange / "outbound", path


def test_pages_run_no_scripts_and_ask_no_other_host(course: Course, cheat: Cheat) -> None:
    page = BeautifulSoup(course.page(cheat.name), "html.parser")
    (mark,) = page.find_all(
        "meta", attrs={"name": "distlab-mark"}
    )  # for the progress page, and nobody else's
    assert mark.parent.name == "head"
    mark.decompose()
    assert not page.find_all(
        ["script", "iframe", "object", "embed", "form", "svg", "link", "base", "meta", "math"],
        attrs={"charset": None},
    )
    for element in page.find_all(True):
        assert not [name for name in element.attrs if name.startswith("on") or name in ("srcdoc", "style")]
        for name in ("src", "href", "action", "formaction"):
            value = element.attrs.get(name, "")
            allowed = ("#", "data:image/png;base64,", "data:image/jpeg;base64,", "https://", "http://")
            assert not value or value.startswith(allowed), value
        assert not element.attrs.get("src", "").startswith("http")


# What a sandbox sees


def test_a_sandbox_sees_nothing_of_the_course(course: Course) -> None:
    seen = course.outputs("what-it-sees")
    assert '\\"environment\\"' in seen
    places = [str(course.site.root), "/submitted", "/solutions", "gradebook.db", "lab.md", "tests/course"]
    assert [place for place in (*places, *HONEST) if place in seen] == []
    assert not [word for word in ("TOKEN", "JUPYTERHUB", "GRADER_SOCKET", "DISTLAB_VAR") if word in seen]


@pytest.mark.parametrize(
    ("student", "says"),
    [
        ("memory-hunt", "in memory: []"),
        ("other-processes-memory", "read of others: []"),
        ("gc-hunt", "found [] []"),
        ("read-only-written", "left behind: []"),
        ("files-hunt", "hunted []"),
        ("others-watched", "told by []"),
        ("scripts-by-programs", "by Python"),
        ("terminals-taken", "terminals: 64"),
        ("shown-flood", "left out: the notebook shows more than is kept"),
        ("shown-flood", "still there"),
    ],
)
def test_who_looks_finds_nothing(course: Course, student: str, says: str) -> None:
    assert says in course.outputs(student)


def test_files_of_the_course_are_not_read_by_links(course: Course) -> None:
    for student in ("linked-files", "linked-notebook", "special-files"):
        left = course.site.course / "autograded" / student / LAB_ID
        assert not [path for path in left.rglob("*") if not (path.is_file() or path.is_dir())]
        assert not [path for path in left.rglob("*") if path.is_symlink()]
    assert "root:" not in course.outputs("linked-files")


@pytest.mark.parametrize(
    "name",
    ["../mod-1-lab-1", "mod-1-lab-1/..", "/etc", "..", ".", "", "mod-1-lab-1\n", "*", "~"],
)
def test_a_path_is_no_assignment(course: Course, name: str) -> None:
    with pytest.raises(SettingError):
        Lab(course.site.course, name)


# The search itself


def _disguises() -> dict[str, tuple[str, str]]:
    word, number = CANARIES[3], int(CANARIES[-1])
    raw = word.encode()
    words = {
        "plain": word, "upper case": word.upper(), "backwards": word[::-1], "dashes": "-".join(word),
        "spaces": " ".join(word), "lines": "\n".join(word), "tags": f"<b>{word[:5]}</b>{word[5:]}",
        "base64": base64.b64encode(b"ab " + raw).decode(), "base32": base64.b32encode(b"a" + raw).decode(),
        "hex": raw.hex(), "hex with spaces": raw.hex(" "), "utf-16": word.encode("utf-16").decode("latin-1"),
        "bytes of utf-16": repr(word.encode("utf-16")), "url": "".join(f"%{byte:02X}" for byte in raw),
        "entities": "".join(f"&#{byte};" for byte in raw), "json": "".join(f"\\u{byte:04x}" for byte in raw),
        "numbers": str(list(raw)), "bits": " ".join(f"{byte:08b}" for byte in raw),
    }  # fmt: skip
    numbers = {
        "thousands": f"{number:,}", "underscores": f"{number:_}", "hex number": hex(number),
        "bits of a number": bin(number), "tensor": f"tensor([{number}.])", "number backwards": str(number)[::-1],
    }  # fmt: skip
    return {
        **{name: (text, word) for name, text in words.items()},
        **{name: (text, str(number)) for name, text in numbers.items()},
    }


@pytest.mark.parametrize(("text", "canary"), _disguises().values(), ids=_disguises())
def test_the_search_finds_a_canary_in_disguise(text: str, canary: str) -> None:
    assert leaked(f"before {text} after") == {canary}
