"""A learner at the real site hands in, is graded, sees nothing of it, gets feedback, sees the marks, is through."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup

from distlab.course.quiz.own import Quizzes
from distlab.course.release import release_all
from distlab.course.site import Site
from tests.course.small_lab import LAB, write_lab
from tests.course.small_quiz import write_bank
from tests.site.client import Learner, localhost_names
from tests.site.running import distlab

pytestmark = [pytest.mark.site, pytest.mark.timeout(900)]

SMALL, QUIZ, PROJECT = "mod-1-lab-1", "mod-1-quiz", "mod-1-lab-9"
TABLE = f"""
- module: mod-1
  title: One
  page: mod-1/index
  parts:
    - {{id: {SMALL}, name: Lab 1, title: Small, page: mod-1/lab-1, pass_percent: 80, gate: passed}}
    - {{id: {QUIZ}, name: Quiz, title: Five, page: mod-1/quiz, pass_percent: 80, gate: passed}}
    - {{id: {PROJECT}, name: Project, title: Own, page: mod-1/project, pass_percent: 80, gate: submitted}}
"""
STEPS = (["collect", "--update"], ["autograde"], ["generate_feedback", "--force"])
"""All that an instructor does before anything is released."""


@pytest.fixture
def course(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The shared site with a small module, whose table is its own for as long as this test runs."""
    small = Site(root=tmp_path_factory.mktemp("small"), state=site.var)
    write_lab(small.root, LAB, SMALL)
    write_lab(small.root, LAB, PROJECT)
    write_bank(small.root)
    assert sorted(release_all(small)) == sorted([SMALL, QUIZ, PROJECT])
    table = site.var / "completion.yml"
    table.write_text(TABLE)
    yield site
    table.unlink()


def person(site: Site, name: str, password: str = "") -> tuple[Learner, str]:
    """Someone whose server runs, and a kernel in it."""
    if password:
        learner = Learner(site, name, password)
    else:
        learner = Learner(site, name)
        learner.sign_up((site.secrets / "enrolment-code").read_text().strip())
    learner.log_in()
    learner.open("lab")
    return learner, learner.kernel()


def run(learner: Learner, kernel: str, *command: str, folder: str = "") -> tuple[int, str, str]:
    """A command in a terminal of one's server."""
    code = (
        "import json, os, subprocess\n"
        f"folder = {folder!r} or os.path.expanduser('~')\n"
        f"done = subprocess.run({command!r}, cwd=folder, capture_output=True, text=True)\n"
        "print(json.dumps([done.returncode, done.stdout, done.stderr]))"
    )
    status, out, err = json.loads(learner.execute(kernel, code, timeout_s=300))
    return status, out, err


def hand_in(site: Site, learner: Learner, kernel: str, lab: str, answers: dict[str, str]) -> None:
    """Fetch the assignment, fill in answers, submit, as one does it in the Assignment List."""
    learner.open_lab(lab)
    code = f"""
import json, os
path = os.path.expanduser("~/{lab}/{lab}.ipynb")
notebook = json.load(open(path))
answers = json.loads({json.dumps(answers)!r})
for cell in notebook["cells"]:
    cell["source"] = answers.get(cell["metadata"].get("nbgrader", {{}}).get("grade_id"), cell["source"])
json.dump(notebook, open(path, "w"))
"""
    learner.execute(kernel, code)
    status, _, log = run(learner, kernel, "nbgrader", "submit", lab)
    assert status == 0, log
    assert "Receipt: " in log


def lab_answers(site: Site) -> dict[str, str]:
    return solutions(nbformat.read(site.course / "source" / SMALL / f"{SMALL}.ipynb", as_version=4))  # type: ignore[no-untyped-call]


def quiz_answers(site: Site, user: str) -> dict[str, str]:
    return solutions(Quizzes.of(site).source(QUIZ, user))


def solutions(source: Any) -> dict[str, str]:
    named = [cell for cell in source.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    return {cell.metadata.nbgrader.grade_id: cell.source for cell in named}


def nbgrader(instructor: Learner, kernel: str, command: str, lab: str, *options: str) -> None:
    status, out, log = run(instructor, kernel, "nbgrader", command, lab, *options, folder="/srv/course")
    assert status == 0, out + log


def give_points(instructor: Learner, kernel: str, lab: str, user: str, cell: str, points: float) -> None:
    """As Formgrader enters them."""
    code = f"""
from nbgrader.api import Gradebook
with Gradebook("sqlite:////srv/course/gradebook.db", "distlab") as book:
    grade = book.find_grade({cell!r}, {lab!r}, {lab!r}, {user!r})
    grade.manual_score, grade.needs_manual_grade = {points}, False
    book.db.commit()
"""
    instructor.execute(kernel, code)


def page(learner: Learner, path: str = "/hub/progress") -> str:
    """What one reads there."""
    reply = learner.http.get(learner.site.url + path)
    main = BeautifulSoup(reply.content, "html.parser").find("main")
    assert reply.ok, reply.status_code
    assert main is not None
    return re.sub(r" (?=[,:.;])", "", " ".join(main.get_text(" ").split()))


def told(learner: Learner, kernel: str) -> Any:
    """The same of the command in one's own server."""
    status, out, err = run(learner, kernel, "distlab", "course", "progress", "--json")
    assert status == 0, err
    ((module,),) = json.loads(out).values()
    return module


def seen(learner: Learner, kernel: str) -> tuple[str, Any, str]:
    """Everything that tells a learner how their work stands: page, command, and the exchange's own list."""
    _, _, listed = run(learner, kernel, "nbgrader", "list", "--cached")
    return page(learner), told(learner, kernel), re.sub(r"^\[.*?\] ?", "", listed, flags=re.MULTILINE)


def test_from_the_first_submission_to_the_open_gate(course: Site) -> None:
    with localhost_names():
        ida, ida_kernel = person(course, "ida")
        assert "0 of 3 parts are done; still missing are Lab 1, Quiz, Project: not opened." in page(ida)

        ida.open_lab(SMALL)
        assert "still missing are Lab 1: opened, not submitted; Quiz, Project: not opened." in page(ida)

        hand_in(course, ida, ida_kernel, SMALL, lab_answers(course))
        ida.open_lab(QUIZ)  # now there are questions of her own
        without_first = {
            name: text for name, text in quiz_answers(course, "ida").items() if "q01" not in name
        }
        hand_in(course, ida, ida_kernel, QUIZ, without_first)
        hand_in(course, ida, ida_kernel, PROJECT, {})
        submitted = seen(ida, ida_kernel)
        assert (
            "1 of 3 parts is done; still missing are Lab 1, Quiz: submitted, no marks released."
            in submitted[0]
        )
        assert [part["points"] for part in submitted[1]["parts"]] == [None] * 3

        password = (course.secrets / "instructor-password").read_text().strip()
        teacher, kernel = person(course, "instructor", password)
        for command, *options in STEPS:
            for lab in (SMALL, QUIZ, PROJECT):
                nbgrader(teacher, kernel, command, lab, *options)
            assert seen(ida, ida_kernel) == submitted, f"{command} shows"
        give_points(teacher, kernel, SMALL, "ida", "explain", 4)
        assert seen(ida, ida_kernel) == submitted, "a mark in the gradebook shows"
        assert cells(teacher, kernel, "ida", "learner", "complete", SMALL) == ["ida", "no", "submitted"]

        # The feedback of the lab was generated before its prose was marked: it is what counts, once it is out.
        nbgrader(teacher, kernel, "release_feedback", SMALL)
        assert "10 of 14 (71.4%), not passed" in page(ida)
        assert "still missing are Lab 1: 71.4% of the 80% needed; Quiz: submitted" in page(ida)
        nbgrader(teacher, kernel, "generate_feedback", SMALL, "--force")
        assert "10 of 14" in page(ida)
        nbgrader(teacher, kernel, "release_feedback", SMALL)
        nbgrader(teacher, kernel, "release_feedback", QUIZ)
        assert "14 of 14 (100%), passed" in page(ida)
        assert "70 of 100 (70%), not passed" in page(ida)
        assert "2 of 3 parts are done; still missing are Quiz: 70% of the 80% needed." in page(ida)

        # Once more, all right: nothing changes until that is released.
        hand_in(course, ida, ida_kernel, QUIZ, quiz_answers(course, "ida"))
        again = seen(ida, ida_kernel)
        assert "of which no marks are released 70 of 100 (70%), not passed" in again[0]
        for command, *options in STEPS:
            nbgrader(teacher, kernel, command, QUIZ, *options)
        assert seen(ida, ida_kernel) == again
        nbgrader(teacher, kernel, "release_feedback", QUIZ)
        assert "Complete: all 3 parts are done." in page(ida)
        assert "100 of 100 (100%), passed" in page(ida)
        assert told(ida, ida_kernel)["complete"] is True
        assert cells(teacher, kernel, "ida", "learner", "complete", QUIZ) == ["ida", "yes", "100"]
        assert "ida complete" in page(teacher)
        assert "Progress of ida" in page(teacher, "/hub/progress/ida")

        another_sees_none_of_it(course)
        rows = csv.DictReader(io.StringIO(distlab(course, "course", "progress").stdout))
        assert {"ida": "yes", "jan": "no"}.items() <= {
            row["learner"]: row["complete"] for row in rows
        }.items()


def cells(teacher: Learner, kernel: str, learner: str, *columns: str) -> list[str]:
    """Of the table that an instructor's terminal writes."""
    status, out, err = run(teacher, kernel, "distlab", "course", "progress", folder="/srv/course")
    assert status == 0, err
    (row,) = [row for row in csv.DictReader(io.StringIO(out)) if row["learner"] == learner]
    return [row[column] for column in columns]


def another_sees_none_of_it(site: Site) -> None:
    """Jan tries to read of Ida by the page, the command, the Hub's API and the exchange's."""
    jan, kernel = person(site, "jan")
    assert "0 of 3 parts are done; still missing are Lab 1, Quiz, Project: not opened." in page(jan)
    assert jan.http.get(f"{site.url}/hub/progress/ida").status_code == 403
    attempts = """
import json, os, urllib.error, urllib.request
hub, exchange = os.environ["JUPYTERHUB_API_URL"], os.environ["DISTLAB_EXCHANGE_URL"]
told = []
for address in (
    f"{hub}/progress?learner=ida", f"{hub}/progress?learner=instructor", f"{hub}/progress?learner=ida&learner=jan",
    f"{exchange}/api/submissions?user=ida", f"{exchange}/api/quizzes/mod-1-quiz/ida",
):
    request = urllib.request.Request(address, headers={"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]})
    try:
        told.append([200, urllib.request.urlopen(request).read().decode()])
    except urllib.error.HTTPError as error:
        told.append([error.code, error.read().decode()])
print(json.dumps(told))
"""
    told_jan = json.loads(jan.execute(kernel, attempts))
    refused = [(status, text) for status, text in told_jan if status != 200]
    assert [status for status, _ in refused] == [403] * len(refused)
    for status, text in told_jan:
        assert status == 403 or list(json.loads(text)) == ["jan"], text
    assert len(refused) >= 4
    status, out, err = run(jan, kernel, "distlab", "course", "progress", "--learner", "ida")
    assert (status, out) == (1, "")
    assert "You see your own progress here, and nobody else's." in err
    status, out, _ = run(jan, kernel, "distlab", "course", "progress")
    assert (status, "ida" in out, out.count("\n")) == (0, False, 2)
