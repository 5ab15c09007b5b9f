"""The commands about grading, as an instructor types them, over a service that grades by words."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer

import pytest

from distlab import cli
from distlab.course.grade.work import Result, Work
from tests.course.batch_rig import (
    FULL,
    gradebook,
    scores,
    starter,
    submit,
    word_grader,
)
from tests.course.small_lab import LAB_ID

Run = Callable[..., tuple[int, str, str]]


@contextmanager
def service(socket: Path, grader: Callable[[Work], Result]) -> Iterator[None]:
    """The grading service's way to answer, with a grader that runs nothing."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            work = Work.from_json(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            try:
                status, answer = 200, grader(work).to_json()
            except OSError as error:
                status, answer = 503, {"error": str(error)}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *_args: object) -> None:
            pass

    with ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            socket.unlink()


@pytest.fixture(autouse=True)
def submissions(course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three submissions, and the environment that names the course and the service."""
    submit(course, "ann")
    submit(course, "ben", lambda s: s.answer("double", "def double(x):\n    return 1  # half"))
    starter(course).submit(course, "cat")
    monkeypatch.setenv("DISTLAB_COURSE", str(course))
    monkeypatch.setenv("DISTLAB_GRADER_SOCKET", str(socket_of(course)))
    monkeypatch.setenv("JUPYTERHUB_USER", "teacher")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(course.parent))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `distlab course ...`: exit code, standard output and error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["course", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def socket_of(course: Path) -> Path:
    return course.parent / "grader.sock"


def test_grade_prints_verdicts_and_leaves_marks(course: Path, run: Run) -> None:
    with service(socket_of(course), word_grader):
        code, out, err = run("grade", LAB_ID, "--json")
        assert (code, err) == (0, "")
        rows = {row["student"]: row for row in json.loads(out)}
        assert {name: (row["verdict"], row["points"], row["max_points"]) for name, row in rows.items()} == {
            "ann": ("passed", 10.0, 10.0),
            "ben": ("failed", 7.5, 10.0),
            "cat": ("failed", 0.0, 10.0),
        }
        assert rows["ann"]["provenance"]["machine"] == "none"
        assert set(rows["ann"]["cells"][0]) == {"grade_id", "verdict", "points", "max_points", "message"}
        code, out, _ = run("grade", LAB_ID)
    assert (code, out) == (0, "Everything that was collected is graded.\n")
    assert scores(course, "ann") == FULL


def test_one_student_alone_and_a_table(course: Path, run: Run) -> None:
    with service(socket_of(course), word_grader):
        code, out, _ = run("grade", LAB_ID, "--student", "ben", "--workers", "1")
    assert code == 0
    assert "ben" in out
    assert "7.5 of 10" in out
    assert "ann" not in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("grade", LAB_ID, "--student", "zoe"), "--student names 'zoe'"),
        (("grade", "mod-9-lab-9"), "'mod-9-lab-9' is not released"),
        (("grade", LAB_ID, "--workers", "0"), "--workers is 0"),
        (("regrade", LAB_ID, "--why", "x", "--question", "nope"), "--question names 'nope'"),
        (("regrade", LAB_ID, "--why", " "), "--why is empty"),
        (("similar", LAB_ID, "--least", "2"), "--least is 2"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    course: Path, run: Run, arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


def test_a_service_that_does_not_answer_is_named_and_the_queue_goes_on_later(course: Path, run: Run) -> None:
    code, _, err = run("grade", LAB_ID)
    assert code == 1
    assert f"The grading service does not answer on {socket_of(course)}" in err

    def no_sandbox(work: Work) -> Result:
        raise OSError("no sandbox can be made here")

    with service(socket_of(course), no_sandbox):
        code, _, err = run("grading", "resume")
    assert code == 1
    assert "no sandbox can be made here" in err
    with service(socket_of(course), word_grader):
        code, _, _ = run("grading", "resume")
    assert code == 0
    assert scores(course, "ann") == FULL


def test_regrade_lists_differences_and_the_log_has_the_reason(course: Path, run: Run) -> None:
    def harsher(work: Work) -> Result:
        cells = tuple(
            replace(cell, source="" if "half" in cell.source else cell.source) for cell in work.cells
        )
        return word_grader(replace(work, cells=cells))

    with service(socket_of(course), word_grader):
        run("grade", LAB_ID)
    with service(socket_of(course), harsher):
        why = "the test was too kind"
        code, out, _ = run("regrade", LAB_ID, "--why", why, "--question", "hidden_double", "--json")
    assert code == 0
    assert json.loads(out) == [
        {
            "assignment": LAB_ID,
            "student": "ben",
            "grade_id": "hidden_double",
            "verdict_before": "partial",
            "points_before": 1.5,
            "verdict": "failed",
            "points": 0.0,
        }
    ]
    assert scores(course, "ben") == {**FULL, "test_double": 1.0, "hidden_double": 0.0}
    code, out, _ = run("mark-changes", "--student", "ben", "--json")
    last = json.loads(out)[-1]
    assert (last["actor"], last["reason"], last["before"], last["after"]) == ("teacher", why, 1.5, 0.0)
    code, out, _ = run("mark-changes", "--student", "ben")
    assert code == 0
    assert why in out


def test_the_log_lists_changes_and_regrades_that_changed_nothing(course: Path, run: Run) -> None:
    with service(socket_of(course), word_grader):
        run("grade", LAB_ID)
        assert run("mark-changes") == (
            0,
            "No mark was changed.\n10 first results of a test not listed; --first lists them.\n",
            "",
        )
        run("regrade", LAB_ID, "--student", "ann", "ben", "--why", "to be sure")
    with gradebook(course) as book:
        book.find_grade("explain", LAB_ID, LAB_ID, "cat").manual_score = 3.0
        book.db.commit()
    _, out, _ = run("mark-changes")
    assert "given by hand" in out
    assert out.count("auto_score") == 0
    assert f"Graded again by teacher (to be sure), no mark changed: {LAB_ID}, ann, ben.\n" in out
    assert "ann" not in run("mark-changes", "--student", "cat")[1]
    assert run("mark-changes", "--first")[1].count("auto_score") == 10
    assert len(json.loads(run("mark-changes", "--json", "--first")[1])) == 11


def test_drain_status_cancel(course: Path, run: Run) -> None:
    assert run("grading", "status")[1] == "Nothing was graded yet.\n"
    assert run("grading", "drain")[0] == 0
    with service(socket_of(course), word_grader):
        code, _, err = run("grade", LAB_ID)
    assert code == 1
    assert "3 submissions wait" in err
    raw = json.loads(run("grading", "status", "--json")[1])
    assert raw == {"draining": True, "assignments": {LAB_ID: {"queued": 3}}, "failed": []}
    assert run("grading", "cancel", "mod-9-lab-9")[1] == "0 cancelled.\n"
    assert run("grading", "cancel", LAB_ID, "--student", "ann")[1] == "1 cancelled.\n"
    assert "No work is taken" in run("grading", "status")[1]
    with service(socket_of(course), word_grader):
        assert run("grading", "resume")[0] == 0
    raw = json.loads(run("grading", "status", "--json")[1])
    assert raw["assignments"] == {LAB_ID: {"cancelled": 1, "done": 2}}


def test_a_person_at_a_terminal_sees_how_far_it_is(
    course: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with service(socket_of(course), word_grader):
        code, _, err = run("grade", LAB_ID)
    assert code == 0
    assert "Grading" in err
    assert "3/3" in err
    assert "left" in err


def test_ctrl_c_lets_what_runs_finish_and_the_rest_waits(course: Path, run: Run) -> None:
    def interrupted(work: Work) -> Result:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            os.sched_yield()  # the main thread takes note when it gets to run
        return word_grader(work)

    with service(socket_of(course), interrupted):
        code, _, err = run("grade", LAB_ID, "--workers", "1")
    assert code == 1
    assert "Finishing what runs; Ctrl-C again ends at once." in err
    assert "2 submissions wait" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert scores(course, "ann") == FULL


def test_grades_are_csv_that_no_spreadsheet_takes_for_formulas(
    course: Path, run: Run, tmp_path: Path
) -> None:
    with gradebook(course) as book:
        book.add_student("ann", first_name="=1+1", last_name='O"Neil, Ann', email="ann@example.org")
    with service(socket_of(course), word_grader):
        run("grade", LAB_ID)
    code, out, _ = run("grades")
    assert code == 0
    rows = {row["student"]: row for row in csv.DictReader(io.StringIO(out))}
    assert (rows["ann"]["first_name"], rows["ann"]["last_name"]) == ("'=1+1", 'O"Neil, Ann')
    assert (rows["ann"]["score"], rows["ann"]["max_score"], rows["ann"]["needs_grading"]) == (
        "10.0",
        "14.0",
        "yes",
    )
    assert rows["ben"][f"{LAB_ID}:hidden_double"] == "1.5"
    assert rows["ann"][f"{LAB_ID}:explain"] == ""
    assert rows["cat"]["needs_grading"] == "no"
    path = tmp_path / "grades.csv"
    assert run("grades", "--output", str(path), "--assignment", LAB_ID)[1] == f"3 rows in {path}\n"
    assert path.read_text(encoding="utf-8").splitlines()[0].startswith("assignment,student,")
    nowhere = tmp_path / "nowhere" / "grades.csv"
    code, out, err = run("grades", "--output", str(nowhere))
    assert (code, out) == (2, "")
    assert err.endswith(
        f"--output {nowhere} cannot be written (No such file or directory); "
        "name a file in a folder that exists.\n"
    )


def test_similar_names_pairs_and_no_verdict(course: Path, run: Run) -> None:
    assert json.loads(run("similar", LAB_ID, "--json")[1]) == []
    steps = "\n".join(
        f"    if _X {('and', 'or', 'is', 'in')[n % 4]} y:\n        _X = max({'[' * n}_X{']' * n})"
        for n in range(12)
    )
    for student, name in (("fay", "x"), ("gus", "value")):
        source = f"def double(_X):\n{steps}\n    return 2 * _X".replace("_X", name)
        submit(course, student, lambda s, source=source: s.answer("double", source))
    code, out, _ = run("similar", LAB_ID)
    assert code == 0
    assert "fay" in out
    assert "gus" in out
    assert "not a verdict" in out
