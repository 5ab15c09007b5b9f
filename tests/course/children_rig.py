"""Real sandboxes of graded code, whose children run whatever a test sends them."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from distlab.course import cgroup
from distlab.course.grade.children import Child, Children
from distlab.course.grade.wire import Channel
from distlab.course.grade.work import Limits
from distlab.course.sandbox import Mount, availability, python_mounts

PROBE = Path(__file__).with_name("child_probe.py")
MIB = 2**20

OWN_IN_TMP = {Path(mount.target).parts[2] for mount in python_mounts() if mount.target.startswith("/tmp/")}
"""What an environment below /tmp leaves of itself in every child's."""


def probing(prepare: str = "prepare", mounts: tuple[Mount, ...] = (), **arguments) -> Children:
    """Children of the one role `probe`."""
    for problem in availability():
        pytest.skip(f"no sandbox with limits can be made here: {problem.what}")
    mount = Mount(str(PROBE), "/opt/probe/child_probe.py")
    return Children(
        {"probe": "child_probe:serve"},
        f"child_probe:{prepare}",
        (mount, *mounts),
        {"PYTHONPATH": "/opt/probe"},
        **arguments,
    )


class Running:
    """A child and the test's end of its channel."""

    child: Child

    def __init__(self, children: Children, *more: socket.socket, **limits) -> None:
        ours, theirs = socket.socketpair()
        self.child = children.start("probe", Limits(**limits), fds=[theirs, *more])
        self.channel = Channel(ours)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.child.kill()
        self.channel.close()

    def begin(self, code: str) -> None:
        self.channel.send({"run": code}, deadline=time.monotonic() + 60)

    def run(self, code: str, timeout_s: float = 60):
        """What `code` leaves in `answer`."""
        self.begin(code)
        return self.channel.receive(time.monotonic() + timeout_s)[0]["answer"]


def processes_of(uid: int) -> list[int]:
    """Every process of this machine that runs as `uid`."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"\nUid:\t{uid}\t" in text:
            found.append(int(status.parent.name))
    return found


def processor_ticks(group: cgroup.Group) -> dict[int, list[str]]:
    """User and system time of each process of a control group, in the kernel's ticks."""
    found = {}
    for pid in group.processes():
        found[pid] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return found


def is_gone(child: Child) -> bool:
    """Whether nothing is left of a child: no process, no control group."""
    folders = [Path(value) for value in child.group.to_dict().values() if str(value).startswith("/sys/")]
    return not (
        processes_of(child.uid) or Path(f"/proc/{child.pid}").exists() or any(f.exists() for f in folders)
    )
