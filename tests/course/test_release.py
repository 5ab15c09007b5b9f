"""Learners' notebooks from the single source: what they hold, what is refused, what a failure leaves."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from distlab.course.exchange.store import Store
from distlab.course.labsource import LabError, hidden_messages, read_lab
from distlab.course.release import (
    ReleaseError,
    check_labs,
    check_labs_in_step,
    learner_notebook,
    learner_path,
    release_all,
    write_labs,
)
from distlab.course.site import COURSE_ID, Site
from tests.course.small_lab import CANARIES, HEADER, LAB, LAB_ID, write_lab

ROOT = Path(__file__).parents[2]


def test_the_learners_notebook_has_neither_solutions_nor_hidden_tests(tmp_path: Path) -> None:
    write_lab(tmp_path)
    content = learner_notebook(tmp_path, LAB_ID)
    for secret in (*CANARIES, "17041", "HIDDEN TESTS", "BEGIN SOLUTION"):
        assert secret.encode() not in content
    notebook = json.loads(content)
    cells = {cell["metadata"].get("nbgrader", {}).get("grade_id"): cell for cell in notebook["cells"]}
    assert "".join(cells["double"]["source"]).endswith("# YOUR CODE HERE\n    raise NotImplementedError()")
    assert "".join(cells["hidden_double"]["source"]) == "# Hidden test: other numbers."
    assert cells["hidden_double"]["metadata"]["nbgrader"]["points"] == 3
    assert cells["test_double"]["metadata"]["editable"] is False
    assert all(not cell.get("outputs") for cell in notebook["cells"])


def test_the_same_source_makes_the_same_bytes(tmp_path: Path) -> None:
    write_lab(tmp_path)
    first = learner_notebook(tmp_path, LAB_ID)
    write_lab(tmp_path / "elsewhere")
    assert learner_notebook(tmp_path / "elsewhere", LAB_ID) == first


def test_a_markdown_notebook_is_read_like_a_myst_one(tmp_path: Path) -> None:
    text = """---
jupyter:
  jupytext:
    text_representation:
      extension: .md
      format_name: markdown
  kernelspec:
    display_name: Python 3
    name: python3
---

# Title

```python nbgrader={"grade_id": "t", "grade": true, "points": 1}
assert True, "true"
```
"""
    notebook = read_lab(write_lab(tmp_path, text))
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code"]
    assert notebook.cells[1].metadata.nbgrader.points == 1


def code(meta: str, *lines: str) -> str:
    return "\n".join(["", "```{code-cell} ipython3", f":nbgrader: {meta}", "", *lines, "```", ""])


GRADED = code('{"grade_id": "t0", "grade": true, "points": 1}', "assert True, 'yes'")
HIDDEN = '{"grade_id": "h", "grade": true, "points": 1}'
REFUSED = {
    "solution never closed": (
        code('{"grade_id": "s", "solution": true}', "def f():", "    ### BEGIN SOLUTION", "    return 1"),
        "line 16: BEGIN SOLUTION without END SOLUTION",
    ),
    "solution never opened": (
        code('{"grade_id": "s", "solution": true}', "x = 1", "### END SOLUTION"),
        "line 16: END SOLUTION without BEGIN SOLUTION",
    ),
    "no solution markers": (
        code('{"grade_id": "s", "solution": true}', "x = 1"),
        "line 15: a solution cell without ### BEGIN SOLUTION and ### END SOLUTION",
    ),
    "solution outside a solution cell": (
        code('{"grade_id": "s", "locked": true}', "### BEGIN SOLUTION", "x = 1", "### END SOLUTION"),
        "line 15: a SOLUTION region in a cell that is not `solution: true`",
    ),
    "regions inside one another": (
        code('{"grade_id": "s", "solution": true}', "### BEGIN SOLUTION", "### BEGIN HIDDEN TESTS"),
        "line 16: BEGIN HIDDEN TESTS inside a SOLUTION region",
    ),
    "misspelt marker": (
        code(HIDDEN, "### BEGIN HIDDEN TEST", "assert 1, 'a'", "### END HIDDEN TESTS"),
        "line 15: '### BEGIN HIDDEN TEST' looks like a marker",
    ),
    "marker in a line of code": (
        code(HIDDEN, "x = 1  ### BEGIN HIDDEN TESTS", "assert 1, 'a'", "### END HIDDEN TESTS"),
        "line 15: a marker must stand alone on its line",
    ),
    "hidden tests never closed": (
        code(HIDDEN, "### BEGIN HIDDEN TESTS", "assert 1, 'a'"),
        "line 15: BEGIN HIDDEN TESTS without END HIDDEN TESTS",
    ),
    "visible code in a hidden cell": (
        code(HIDDEN, "x = 1", "### BEGIN HIDDEN TESTS", "assert 1, 'a'", "### END HIDDEN TESTS"),
        "line 15: outside the hidden region of a hidden test: 'x = 1'",
    ),
    "hidden tests in a cell without points": (
        code('{"grade_id": "h", "locked": true}', "### BEGIN HIDDEN TESTS", "### END HIDDEN TESTS"),
        "line 15: hidden tests belong into a code cell that is `grade: true` and no solution",
    ),
    "a value in a hidden test's message": (
        code(HIDDEN, "### BEGIN HIDDEN TESTS", "assert f(7) == 9, f'got {f(7)}'", "### END HIDDEN TESTS"),
        "line 16: a hidden test's assertion needs a message that is a plain string",
    ),
    "no message in a hidden test": (
        code(HIDDEN, "### BEGIN HIDDEN TESTS", "x = 1", "assert x == 1", "### END HIDDEN TESTS"),
        "line 17: a hidden test's assertion needs a message",
    ),
    "no points": (
        code('{"grade_id": "t", "grade": true}', "assert 1"),
        "line 15: the graded cell 't' has no points",
    ),
    "points that are no number": (
        code('{"grade_id": "t", "grade": true, "points": "two"}', "assert 1"),
        "line 15: points of 't' must be a number from 0, not 'two'",
    ),
    "grade id twice": (
        GRADED.replace("t0", "t") + code('{"grade_id": "t", "grade": true, "points": 1}', "assert 1"),
        "line 21: grade_id 't' is taken by the cell at line 15",
    ),
    "grade id of other characters": (
        code('{"grade_id": "<b>", "grade": true, "points": 1}', "assert 1"),
        "line 15: grade_id must be letters, digits, - and _ (at most 60), not '<b>'",
    ),
    "unknown nbgrader metadata": (
        code('{"grade_id": "t", "grade": true, "point": 1}', "assert 1"),
        "line 15: unknown nbgrader metadata 'point'; known: grade,",
    ),
    "unknown cell metadata": (
        "\n```{code-cell} ipython3\n:nbgarder: {}\n\nx = 1\n```\n",
        "line 15: unknown cell metadata 'nbgarder'",
    ),
    "nothing graded": ("\n```{code-cell} ipython3\nx = 1\n```\n", "no cell is graded"),
    "header that is no YAML": (None, "not a jupytext Markdown notebook"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_source_is_refused_naming_file_cell_and_line(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    text = HEADER + text if text is not None else "---\njupytext: [\n---\n\n# Title\n"
    path = write_lab(tmp_path, text)
    with pytest.raises(LabError) as refused:
        read_lab(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_messages_of_a_hidden_test_are_its_plain_strings() -> None:
    source = (
        'assert a, "first"\nif b:\n    raise AssertionError("second" " part")\nassert c, f"{d}"\n"other"\n'
    )
    assert hidden_messages(source) == {"first", "second part"}


def test_labs_out_of_step_are_named_and_made_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lab(tmp_path)
    assert check_labs_in_step(tmp_path) == [f"labs/{LAB_ID}/{LAB_ID}.ipynb is missing"]
    assert check_labs(tmp_path) == 1
    assert check_labs(tmp_path, write=True) == 0
    assert check_labs_in_step(tmp_path) == []
    write_lab(tmp_path, LAB.replace("# A small lab", "# A smaller lab"))
    (tmp_path / "labs" / "mod-9-lab-9").mkdir()
    capsys.readouterr()
    assert check_labs(tmp_path) == 1
    assert capsys.readouterr().err.split("\n")[:2] == [
        f"labs/{LAB_ID}/{LAB_ID}.ipynb is not what solutions/{LAB_ID}/lab.md makes",
        "labs/mod-9-lab-9 has no source in solutions/",
    ]


def test_a_wrong_source_leaves_the_notebooks_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lab(tmp_path)
    write_labs(tmp_path)
    before = learner_path(tmp_path, LAB_ID).read_bytes()
    write_lab(tmp_path, LAB.replace("# A small lab", "# Changed"))
    write_lab(tmp_path, LAB.replace("### END HIDDEN TESTS", ""), lab_id="mod-1-lab-2")
    assert check_labs(tmp_path, write=True) == 2
    assert learner_path(tmp_path, LAB_ID).read_bytes() == before
    assert "without END HIDDEN TESTS" in capsys.readouterr().err


def released_state(site: Site) -> dict[str, bytes]:
    """Every file of the course directory and the exchange, the gradebook by its content."""
    state = {}
    for folder in (site.course, site.exchange):
        for path in folder.rglob("*"):
            if path.is_file() and path.name != "gradebook.db":
                state[str(path.relative_to(site.var))] = path.read_bytes()
    with sqlite3.connect(site.course / "gradebook.db") as db:
        state["gradebook"] = "\n".join(db.iterdump()).encode()
    return state


def test_release_fills_course_gradebook_and_exchange(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    assert release_all(site) == [LAB_ID]
    assert (site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb").read_bytes() == learner_notebook(
        tmp_path, LAB_ID
    )
    with Gradebook(f"sqlite:///{site.course / 'gradebook.db'}", COURSE_ID) as gradebook:
        assert gradebook.find_assignment(LAB_ID).max_score == 14
    assert Store(site.exchange).released() == [LAB_ID]
    for folder in ("release", "../exchange"):
        for path in (site.course / folder).rglob("*.ipynb"):
            assert not [canary for canary in CANARIES if canary in path.read_text()]
    before = released_state(site)
    assert release_all(site) == []
    assert released_state(site) == before


def test_a_changed_lab_is_released_again_alone(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    write_lab(tmp_path, lab_id="mod-1-lab-2")
    assert release_all(site) == [LAB_ID, "mod-1-lab-2"]
    write_lab(tmp_path, LAB.replace("# A small lab", "# A better lab"))
    assert release_all(site) == [LAB_ID]
    assert "A better lab" in (site.course / "release" / LAB_ID / f"{LAB_ID}.ipynb").read_text()


def test_a_lab_that_cannot_be_released_leaves_what_was_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    release_all(site)
    before = released_state(site)
    write_lab(tmp_path, LAB.replace("    ### END SOLUTION\n", "", 1))
    with pytest.raises(ReleaseError, match="BEGIN SOLUTION without END SOLUTION"):
        release_all(site)
    assert released_state(site) == before


def test_a_start_keeps_a_released_lab_whose_new_source_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    told: list[tuple[str, str]] = []

    def keep(lab: str, error: ReleaseError) -> None:
        told.append((lab, str(error)))

    write_lab(tmp_path, LAB.replace("### END HIDDEN TESTS", ""), lab_id="mod-1-lab-2")
    with pytest.raises(ReleaseError, match="BEGIN HIDDEN TESTS without END"):
        release_all(site, kept=keep)  # the second was never released: there is nothing to keep
    write_lab(tmp_path, lab_id="mod-1-lab-2")
    assert release_all(site, kept=keep) == ["mod-1-lab-2"]
    before = Store(site.exchange).assignment(LAB_ID)
    write_lab(tmp_path, LAB.replace("### END HIDDEN TESTS", ""))
    write_lab(tmp_path, LAB.replace("# A small lab", "# Changed"), lab_id="mod-1-lab-2")
    assert told == []
    assert release_all(site, kept=keep) == ["mod-1-lab-2"]
    ((lab, why),) = told
    assert lab == LAB_ID
    assert f"{LAB_ID}/lab.md: cell" in why
    assert Store(site.exchange).assignment(LAB_ID) == before
    write_lab(tmp_path, LAB.replace("# A small lab", "# Mended"))
    assert release_all(site, kept=keep) == [LAB_ID]
    assert Store(site.exchange).assignment(LAB_ID) != before


def test_cells_cannot_change_once_there_are_submissions(tmp_path: Path) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    release_all(site)
    with Gradebook(f"sqlite:///{site.course / 'gradebook.db'}", COURSE_ID) as gradebook:
        gradebook.update_or_create_student("alice")
        gradebook.add_submission(LAB_ID, "alice")
    before = released_state(site)
    write_lab(tmp_path, LAB.replace('"test_double"', '"test_twice"'))
    with pytest.raises(ReleaseError, match="Cannot add or remove cells for notebook 'mod-1-lab-1'"):
        release_all(site)
    assert released_state(site) == before


@pytest.mark.parametrize("name", ["source", f"release/{LAB_ID}"])
def test_a_link_in_the_course_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path / "repository")
    write_lab(site.root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (site.course / name).parent.mkdir(parents=True)
    (site.course / name).symlink_to(elsewhere)
    with pytest.raises(ReleaseError, match="is a link"):
        release_all(site)
    assert list(elsewhere.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path)
    write_lab(tmp_path)
    release_all(site)
    before = released_state(site)
    write_lab(tmp_path, LAB.replace("# A small lab", "# Changed"))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReleaseError, match="disk is full"):
        release_all(site)
    monkeypatch.undo()
    after = released_state(site)
    assert {name: after[name] for name in before if name != "gradebook"} == {
        name: content for name, content in before.items() if name != "gradebook"
    }


@pytest.mark.skipif(not (ROOT / "solutions").is_dir(), reason="a learner's copy has no solutions")
def test_the_committed_notebooks_are_in_step() -> None:
    assert check_labs_in_step(ROOT) == []


def test_a_folder_with_another_name_is_refused(tmp_path: Path) -> None:
    write_lab(tmp_path, lab_id="lab-three")
    with pytest.raises(ReleaseError, match="solutions/lab-three"):
        check_labs_in_step(tmp_path)
