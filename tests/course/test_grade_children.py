"""Children of the fork server, as learners' code meets them: real processes, real walls."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from distlab.course.grade.children import Children
from distlab.course.grade.wire import Channel
from distlab.course.grade.work import Limits
from distlab.course.sandbox import Mount, availability

PROBE = Path(__file__).with_name("child_probe.py")


@pytest.fixture(scope="module")
def children():
    """A fork server whose children run whatever they are sent."""
    for problem in availability():
        pytest.skip(f"no sandbox with limits can be made here: {problem.what}")
    mount = Mount(str(PROBE), "/opt/probe/child_probe.py")
    roles = {"probe": "child_probe:serve"}
    with Children(roles, "child_probe:prepare", (mount,), {"PYTHONPATH": "/opt/probe"}) as made:
        yield made


class Running:
    """A child and the test's end of its channel."""

    def __init__(self, children, **limits) -> None:
        ours, theirs = socket.socketpair()
        self.child = children.start("probe", Limits(**limits), fds=[theirs])
        self.channel = Channel(ours)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.child.kill()
        self.channel.close()

    def run(self, code: str):
        """What `code` leaves in `answer`."""
        deadline = time.monotonic() + 60
        self.channel.send({"run": code}, deadline=deadline)
        return self.channel.receive(deadline)[0]["answer"]


def test_a_child_answers_and_its_end_is_told(children):
    with Running(children) as running:
        assert running.run("answer = 6 * 7") == 42
        ended = running.child.kill()
    assert (ended.status, ended.signal) == (None, 9)
    assert not ended.lost
