"""Who grades before collecting is told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distlab.course.exchange.bundle import Receiver, UploadLimits
from distlab.course.exchange.store import Store, publish
from distlab.course.grade.uncollected import uncollected
from distlab.course.site import Site
from tests.course.batch_rig import starter, word_grader
from tests.course.small_lab import LAB_ID
from tests.course.test_exchange_bundle import message
from tests.course.test_grade_commands import Run, run, service, socket_of

__all__ = ["run"]


@pytest.fixture
def site(course: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site of a course in which nothing was collected."""
    monkeypatch.setenv("DISTLAB_COURSE", str(course))
    monkeypatch.setenv("DISTLAB_VAR", str(course.parent))
    monkeypatch.setenv("DISTLAB_GRADER_SOCKET", str(socket_of(course)))
    monkeypatch.setenv("JUPYTERHUB_USER", "teacher")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(course.parent))
    monkeypatch.delenv("DISTLAB_EXCHANGE_URL", raising=False)
    site = Site.from_env()
    publish(site, LAB_ID, course / "release" / LAB_ID)
    return site


def hand_in(site: Site, user: str) -> str:
    """A submission arrives at the exchange; its timestamp."""
    store = Store(site.exchange)
    stage = store.stage()
    receiver = Receiver(stage.content, UploadLimits())
    receiver.feed(message((f"{LAB_ID}.ipynb", json.dumps(starter(site.course).notebook).encode())))
    with stage:
        return store.submit(stage, user, LAB_ID, receiver.finish()).timestamp


def collect(site: Site, user: str, timestamp: str) -> None:
    folder = site.course / "submitted" / user / LAB_ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{LAB_ID}.ipynb").write_text(json.dumps(starter(site.course).notebook))
    (folder / "timestamp.txt").write_text(timestamp)


def test_what_lies_at_the_exchange_alone(site: Site) -> None:
    assert uncollected(site.course, LAB_ID) == []
    first = hand_in(site, "ann")
    hand_in(site, "ben")
    assert uncollected(site.course, LAB_ID) == ["ann", "ben"]
    collect(site, "ann", first)
    assert uncollected(site.course, LAB_ID) == ["ben"]
    hand_in(site, "ann")  # a newer one
    assert uncollected(site.course, LAB_ID) == ["ann", "ben"]
    assert uncollected(site.course, "mod-1-lab-2") == []


def test_who_grades_before_collecting_is_told_so(site: Site, run: Run) -> None:
    first = hand_in(site, "ann")
    assert run("grade", LAB_ID) == (
        0,
        "Nothing was collected yet.\n",
        f"Not collected and not graded: 1 submission (ann). `nbgrader collect {LAB_ID} --update` brings what "
        "lies at the exchange; then grade again.\n",
    )
    collect(site, "ann", first)
    hand_in(site, "ben")
    with service(socket_of(site.course), word_grader):
        code, out, err = run("grade", LAB_ID, "--json")
        assert [row["student"] for row in json.loads(out)] == ["ann"]
        assert (code, err.count("(ben)")) == (0, 1)
        assert run("grade", LAB_ID, "--student", "ann") == (
            0,
            "Everything that was collected is graded.\n",
            "",
        )
