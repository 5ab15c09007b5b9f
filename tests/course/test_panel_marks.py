"""Documents and archives go through the exchange, and a panel's marks through the gradebook, as a lab's do."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from distlab.course.exchange.bundle import find_files
from distlab.course.export import KEPT_BACK
from distlab.course.grade.batch import Batch
from distlab.course.grade.gradescsv import write_grades
from distlab.course.grade.queue import Queue
from distlab.course.grade.work import Result, Verdict, Work
from distlab.course.release import release_all
from distlab.course.site import COURSE_ID, Site
from tests.course.batch_rig import quick_folder
from tests.course.exchange_rig import Rig, running
from tests.course.small_lab import write_lab

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "assessments" / "mod-202"
LABS = {"design-document": "mod-202-lab-8", "final-project": "mod-202-lab-9"}
POINTS = re.compile(r'"grade_id": "([\w-]+)", "task": true, "points": (\d+)')


def nothing_to_run(work: Work) -> Result:
    """A notebook without tests has no cell that is run for points."""
    assert not [cell for cell in work.cells if cell.is_test]
    return Result(work.lab, Verdict.PASSED, "", (), (), {})


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running(tmp_path_factory.mktemp("exchange")) as rig:
        yield rig


@pytest.fixture
def course(rig: Rig) -> Iterator[Path]:
    """Both assignments released."""
    rig.reset()
    with quick_folder() as folder:
        site = Site(folder)
        for name, lab in LABS.items():
            write_lab(site.root, (FOLDER / f"{name}.md").read_text(), lab)
        assert release_all(site) == sorted(LABS.values())
        for lab in LABS.values():
            released = find_files(site.course / "release" / lab)[0]
            rig.client("teacher").release(lab, released, replace=False)
        yield site.course


def hand_in(rig: Rig, course: Path, work: Path, lab: str, text: str) -> None:
    """As alice: the notebook with her words, a document and an archive; collected by the teacher."""
    work.mkdir(exist_ok=True)
    notebook = json.loads((course / "release" / lab / f"{lab}.ipynb").read_text())
    (cell,) = [
        cell
        for cell in notebook["cells"]
        if cell["metadata"].get("nbgrader", {}).get("grade_id") == "handed-in"
    ]
    cell["source"] = text
    (work / f"{lab}.ipynb").write_text(json.dumps(notebook))
    (work / "design.pdf").write_bytes(b"%PDF-1.7\n" + bytes(range(256)))
    with tarfile.open(work / "code.tar.gz", "w:gz") as archive:
        archive.add(FOLDER / "final-project.md", "README.md")
    receipt = rig.client("alice").submit(lab, find_files(work)[0], None)
    rig.client("teacher").collect(receipt, course / "submitted" / "alice" / lab)


def graded(course: Path, lab: str) -> None:
    with Queue(course) as queue:
        batch = Batch(course, queue, grader=nothing_to_run, assignment=lab, workers=1)
        batch.ask(lab, ["alice"], by="teacher", reason="")
        batch.run()


def row(course: Path, lab: str) -> dict[str, str]:
    table = io.StringIO()
    write_grades(course, table, lab)
    (only,) = csv.DictReader(io.StringIO(table.getvalue()))
    return only


@pytest.mark.parametrize("name", LABS)
def test_the_points_are_those_of_the_page(name: str) -> None:
    page = {"design-document": "design-document.md", "final-project": "project.md"}[name]
    points = {
        grade_id: int(number) for grade_id, number in POINTS.findall((FOLDER / f"{name}.md").read_text())
    }
    assert sum(points.values()) == 100
    rubric = re.findall(
        r"^\| `([\w-]+)` [^|]*\| *(\d+) \|(.*)\|$", (ROOT / "book/mod-202" / page).read_text(), re.M
    )
    assert {grade_id: int(number) for grade_id, number, _ in rubric} == points
    for grade_id, _, levels in rubric:
        assert len(levels.split("|")) == 4, f"{grade_id}: four levels are described"
        assert all(len(level.split()) >= 3 for level in levels.split("|"))


@pytest.mark.parametrize("lab", LABS.values())
def test_document_archive_and_panel_marks(rig: Rig, course: Path, tmp_path: Path, lab: str) -> None:
    hand_in(rig, course, tmp_path / "work", lab, "Alice's design: design.pdf, code.tar.gz")
    graded(course, lab)
    beside = course / "autograded" / "alice" / lab
    assert (beside / "design.pdf").read_bytes() == (tmp_path / "work" / "design.pdf").read_bytes()
    with tarfile.open(beside / "code.tar.gz") as archive:
        assert archive.getnames() == ["README.md"]
    before = row(course, lab)
    assert (before["needs_grading"], float(before["score"]), float(before["max_score"])) == ("yes", 0, 100)

    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", COURSE_ID) as gradebook:
        for grade in gradebook.find_submission_notebook(lab, lab, "alice").grades:
            grade.manual_score = 0.8 * grade.max_score  # what Formgrader does with a number typed in
            grade.needs_manual_grade = False
        gradebook.db.commit()
    after = row(course, lab)
    assert (after["needs_grading"], float(after["score"])) == ("no", 80)

    graded(course, lab)
    assert float(row(course, lab)["score"]) == 80, "grading again keeps what the panel gave"
    hand_in(rig, course, tmp_path / "work", lab, "A second version")
    graded(course, lab)
    again = row(course, lab)
    assert (again["needs_grading"], float(again["score"])) == ("yes", 80), "a new version wants a new look"


def test_more_than_the_grader_takes_can_still_be_marked(rig: Rig, course: Path, tmp_path: Path) -> None:
    lab, work = LABS["design-document"], tmp_path / "work"
    work.mkdir()
    (work / "figures.bin").write_bytes(bytes(17 * 2**20))
    hand_in(rig, course, work, lab, "A large one")
    graded(course, lab)
    assert (course / "submitted" / "alice" / lab / "figures.bin").stat().st_size == 17 * 2**20
    assert not (course / "autograded" / "alice" / lab / "figures.bin").exists()
    notebook = (course / "autograded" / "alice" / lab / f"{lab}.ipynb").read_text()
    assert "more than 200 files and 16 MiB" in notebook
    assert row(course, lab)["needs_grading"] == "yes"


@pytest.mark.skipif(not (ROOT / "solutions").is_dir(), reason="a learner's copy has no bank")
def test_the_panels_questions_are_kept_back() -> None:
    path = "assessments/keys/mod-202-oral-defence.md"
    assert any(fnmatch(path, pattern) for pattern in KEPT_BACK)
    questions = re.findall(r"^### (\d+)\. .*?(?=^##|\Z)", (ROOT / path).read_text(), re.M | re.S)
    assert questions == [str(number) for number in range(1, len(questions) + 1)]
    assert len(questions) >= 40
    for _, question in re.findall(r"^### (\d+)\. (.*?)(?=^##|\Z)", (ROOT / path).read_text(), re.M | re.S):
        for part in ("**Strong.**", "**Weak.**", "**Follow-up.**"):
            assert question.count(part) == 1, question[:60]
