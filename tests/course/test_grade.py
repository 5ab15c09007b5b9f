"""Autograding and feedback with real nbgrader and real sandboxes: honest, wrong and hostile submissions."""

from __future__ import annotations

import html
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from distlab.course.release import release_all
from distlab.course.sandbox import availability
from distlab.course.site import Site
from tests.course.grading_rig import auto_scores, grading_service, nbgrader
from tests.course.small_lab import HIDDEN_CANARY, LAB_ID, SOLUTION_CANARY, Submission, write_lab

pytestmark = pytest.mark.skipif(bool(availability()), reason="needs sandboxes with limits")

ALL = {"test_double": 2.0, "hidden_double": 3.0, "hidden_triple": 5.0, "explain": None}
NONE = {"test_double": 0.0, "hidden_double": 0.0, "hidden_triple": 0.0}

SPY = """
import os, socket
found = []
for root in ({course!r}, {root!r}, "/srv/course", "/run/grader"):
    try:
        found += os.listdir(root)
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if b"grade.runner" in open(f"/proc/{{pid}}/cmdline", "rb").read():
            found.append("runner")
    except OSError:
        pass
for address in (("127.0.0.1", {port}), ("localhost", {port}), ("::1", {port})):
    try:
        socket.create_connection(address, 2)
        found.append("port")
    except OSError:
        pass
try:
    unix = socket.socket(socket.AF_UNIX)
    unix.connect({grader!r})
    found.append("grader")
except OSError:
    pass
print("spied", found, os.getuid())
"""

XSS_MARKDOWN = """<script>alert('XSS')</script> <img src=x onerror="alert('XSS')">
[link](javascript:alert('XSS'))
<svg onload="alert('XSS')"></svg> <iframe srcdoc="<script>alert('XSS')</script>"></iframe>
<a href="data:text/html,<script>alert('XSS')</script>">data</a> <form action="/"><button>press</button></form>
![remote](https://tracker.example/pixel.png) <div style="background:url(https://tracker.example/a)">styled</div>
$$<script>alert('XSS')</script>$$
"""
XSS_CODE = """
from IPython.display import HTML, SVG, Javascript, Markdown, display
script = "<script>alert('XSS')</script>"
display(HTML(script), Javascript("alert('XSS')"), Markdown(script))
display(SVG("<svg xmlns='http://www.w3.org/2000/svg' onload=\\"alert('XSS')\\"></svg>"))
print("<script>alert('XSS')</script>")
class Mime:
    def _repr_mimebundle_(self, **kw):
        return {"image/png": "\\">" + script, "text/plain": script}
display(Mime())
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[Site]:
    """A site where all submissions were autograded and have feedback."""
    site = Site(tmp_path_factory.mktemp("site"))
    write_lab(site.root)
    release_all(site)
    with socket.create_server(("127.0.0.1", 0)) as server, grading_service(site):
        _submit_all(site, port=server.getsockname()[1])
        for which in (
            ["--CourseDirectory.student_id_exclude=loop"],
            ["--student=loop", "--Autograde.cell_s=5"],
        ):
            graded = nbgrader(site, home, "autograde", LAB_ID, *which)
            assert graded.returncode == 0, graded.stderr
            assert "Traceback" not in graded.stderr
        feedback = nbgrader(site, home, "generate_feedback", LAB_ID)
        assert feedback.returncode == 0, feedback.stderr
        yield site


def _submit_all(site: Site, port: int) -> None:
    def honest() -> Submission:
        return Submission(site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb").honest()

    def hostile_at_the_end(code: str) -> Submission:
        # After both functions are defined, before the last test.
        made = honest()
        return made.add(code, at=made.notebook["cells"].index(made.cell("hidden_triple")))

    course = site.course
    honest().submit(course, "honest")
    Submission(course / "release" / LAB_ID / f"{LAB_ID}.ipynb").submit(course, "starter")
    honest().answer("double", "def double(x):\n    return 4").submit(course, "wrong")
    hostile_at_the_end("while True: pass").submit(course, "loop")
    hostile_at_the_end("hog = bytearray(3 * 2**30)").submit(course, "memory")
    hostile_at_the_end("import os; os._exit(0)").submit(course, "exit")
    hostile_at_the_end(
        "import os, time\ntry:\n    while True:\n        if not os.fork():\n            time.sleep(600)\n"
        "except OSError as error:\n    print('stopped by', error.errno)"
    ).submit(course, "forks")
    grader = str(site.grader_sockets / "grader.sock")
    spy = SPY.format(course=str(site.course), root=str(site.root), port=port, grader=grader)
    honest().add(spy).submit(course, "spy")
    honest().answer(
        "double", "import sys\ndef double(x):\n    print('a warning', file=sys.stderr)\n    return 2 * x"
    ).submit(course, "stderr")

    # Below the limit as a file; six times as large with every character escaped.
    wide = honest()
    for _ in range(60):
        wide.add("#" + "\x7f" * 190_000)
    wide.submit(course, "wide")
    (course / "submitted/wide" / LAB_ID / f"{LAB_ID}.ipynb").write_text(
        json.dumps(wide.notebook, ensure_ascii=False)
    )

    forged = Submission(course / "release" / LAB_ID / f"{LAB_ID}.ipynb")
    for name in ("test_double", "hidden_double", "explain"):
        forged.delete(name)
    meta = {"grade": True, "solution": False, "locked": False, "points": 1000, "schema_version": 3}
    forged.cell("hidden_triple")["metadata"]["nbgrader"] |= {
        "points": 1000,
        "solution": True,
        "locked": False,
    }
    forged.answer("hidden_triple", "pass")
    forged.add("pass", nbgrader={**meta, "grade_id": "invented"})
    forged.add("pass", at=2, nbgrader={**meta, "grade_id": "test_double", "points": -5})
    forged.add("pass", at=3, nbgrader=[1, 2])
    forged.add("pass", at=4, nbgrader={"grade_id": {"a": 1}})
    forged.add("pass", at=5, nbgrader={"grade": True})
    forged.notebook["metadata"] = {"kernelspec": {"name": "bash", "display_name": "x"}, "widgets": "<script>"}
    forged.submit(course, "forged")

    xss = honest().add(XSS_CODE)
    xss.answer("explain", XSS_MARKDOWN)
    xss.add(XSS_MARKDOWN, cell_type="markdown", tags=["<script>alert('XSS')</script>"])
    xss.add("<script>alert('XSS')</script>", cell_type="raw", raw_mimetype="text/html")
    xss.add("1", nbgrader={**meta, "grade_id": "\"><script>alert('XSS')</script>"})
    xss.notebook["metadata"]["title"] = "<script>alert('XSS')</script>"
    xss.submit(course, "xss", evil_dot_html="<script>alert('XSS')</script>")

    honest().submit(course, "broken")
    (course / "submitted" / "broken" / LAB_ID / f"{LAB_ID}.ipynb").write_text("{not a notebook")


def feedback(site: Site, student: str) -> str:
    return (site.course / "feedback" / student / LAB_ID / f"{LAB_ID}.html").read_text()


def autograded(site: Site, student: str) -> dict:
    return json.loads((site.course / "autograded" / student / LAB_ID / f"{LAB_ID}.ipynb").read_text())


def outputs(site: Site, student: str) -> str:
    return json.dumps([cell.get("outputs") for cell in autograded(site, student)["cells"]])


def test_an_honest_submission_gets_all_automatic_points(site: Site) -> None:
    assert auto_scores(site, "honest") == ALL


def test_the_starter_gets_none(site: Site) -> None:
    assert auto_scores(site, "starter") == {**NONE, "explain": 0.0}


def test_a_wrong_answer_fails_the_hidden_test_alone(site: Site) -> None:
    assert auto_scores(site, "wrong") == {**ALL, "hidden_double": 0.0}
    assert "Failed: double is wrong for large numbers" in feedback(site, "wrong")


@pytest.mark.parametrize(
    ("student", "verdict", "says"),
    [
        ("loop", "timeout", "Your code took too long."),
        ("memory", "out of memory", "Your code needed more than 700 MiB of memory."),
        ("exit", "error", "Your code's process ended."),
    ],
)
def test_tests_that_were_not_reached_are_worth_nothing(
    site: Site, student: str, verdict: str, says: str
) -> None:
    # The function was defined and right by then: only tests that ran to their end count.
    assert auto_scores(site, student) == {**ALL, "hidden_triple": 0.0}
    assert autograded(site, student)["metadata"]["distlab"]["verdict"] == verdict
    assert f"{verdict.capitalize()}: {says}" in html.unescape(feedback(site, student))


def test_a_fork_bomb_reaches_a_limit(site: Site) -> None:
    assert "stopped by 11" in outputs(site, "forks")


def test_a_submission_sees_neither_course_nor_host(site: Site) -> None:
    assert "spied [] " in outputs(site, "spy")
    assert auto_scores(site, "spy") == ALL


def test_warnings_on_stderr_cost_no_points(site: Site) -> None:
    assert auto_scores(site, "stderr") == ALL


def test_a_large_submission_of_odd_characters_is_graded(site: Site) -> None:
    assert auto_scores(site, "wide")["hidden_triple"] == 5


def test_forged_and_deleted_cells_change_nothing(site: Site) -> None:
    assert auto_scores(site, "forged") == {**NONE, "explain": 0.0}
    metas = [cell["metadata"].get("nbgrader") for cell in autograded(site, "forged")["cells"]]
    assert [meta["grade_id"] for meta in metas if meta] == [
        "test_double", "hidden_double", "double", "triple", "hidden_triple", "explain",
    ]  # fmt: skip
    assert sum(meta.get("points", 0) for meta in metas if meta) == 14


def test_an_unreadable_notebook_gets_no_points_and_says_why(site: Site) -> None:
    assert auto_scores(site, "broken") == {**NONE, "explain": 0.0}
    assert "could not be read (it is not a JSON document in UTF-8)" in feedback(site, "broken")


STUDENTS = (
    "honest",
    "starter",
    "wrong",
    "loop",
    "memory",
    "exit",
    "forks",
    "spy",
    "stderr",
    "forged",
)


@pytest.mark.parametrize("student", [*STUDENTS, "xss", "broken"])
def test_feedback_holds_nothing_of_hidden_tests_or_solutions(site: Site, student: str) -> None:
    page = feedback(site, student)
    for secret in (HIDDEN_CANARY, SOLUTION_CANARY, "17041", "34082", "HIDDEN TESTS", "triple(7)"):
        assert secret not in page
    assert "hidden_double" in page


def test_feedback_names_each_question_in_its_contents(site: Site) -> None:
    from bs4 import BeautifulSoup

    page = BeautifulSoup(feedback(site, "starter"), "html.parser")
    listed = [" ".join(entry.get_text().split()) for entry in page.select("#toc li")]
    assert listed == [
        "Comment on double",
        "Test test_double (Score: 0.0 / 2.0)",
        "Test hidden_double (Score: 0.0 / 3.0)",
        "Comment on triple",
        "Test hidden_triple (Score: 0.0 / 5.0)",
        "Answer explain (Score: 0.0 / 4.0)",
        "Comment on explain",
    ]
    anchors = {anchor["name"] for anchor in page.select("a[name]")}
    assert {link["href"][1:] for link in page.select("#toc a")} <= anchors
    assert page.select_one("head > meta[name=viewport]")  # a phone lays it out as wide as it is
    assert page.title.string == LAB_ID


def test_feedback_runs_no_scripts_and_asks_no_other_host(site: Site) -> None:
    from bs4 import BeautifulSoup

    for student in (*STUDENTS, "xss", "broken"):
        page = BeautifulSoup(feedback(site, student), "html.parser")
        assert not page.find_all(["script", "iframe", "object", "embed", "form", "svg", "link", "base"])
        for element in page.find_all(True):
            assert not [name for name in element.attrs if name.startswith("on") or name == "srcdoc"]
            for name in ("src", "href"):
                value = element.attrs.get(name, "")
                allowed = ("#", "data:image/png;base64,", "https://", "http://")
                assert not value or value.startswith(allowed), value
            assert not element.attrs.get("src", "").startswith("http")


def test_the_service_is_named_when_it_does_not_answer(site: Site, home: Path) -> None:
    before = auto_scores(site, "honest")
    (site.grader_sockets / "grader.sock").rename(site.grader_sockets / "gone.sock")
    try:
        gone = nbgrader(site, home, "autograde", LAB_ID, "--student=honest", "--force")
    finally:
        (site.grader_sockets / "gone.sock").rename(site.grader_sockets / "grader.sock")
    assert gone.returncode == 1
    assert "The grading service does not answer on " in gone.stderr
    assert auto_scores(site, "honest") == before
