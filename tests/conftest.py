"""What holds for the whole suite: Ctrl-C works in what it starts, and it is not green with isolation untested.

Tests that need sandboxes with limits skip where the machine can make none, as a normal user's may not. Where
the suite runs as root, as in CI, that is a failure.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

from distlab.course.sandbox import availability

ON_PURPOSE = "DISTLAB_TEST_WITHOUT_ISOLATION"
"""Set to anything, it lets such a machine's root run the rest of the suite."""

NEED_ISOLATION = ("tests/course/", "tests/site/")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore Ctrl-C, and processes inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    if sys.platform != "linux" or os.geteuid() != 0 or os.environ.get(ON_PURPOSE):
        return
    if any(item.nodeid.startswith(NEED_ISOLATION) for item in session.items):
        for problem in availability():
            raise pytest.UsageError(
                f"isolation cannot be tested on this machine: {problem.what}. What helps: {problem.fix}. "
                f"To run the suite without those tests, on purpose: {ON_PURPOSE}=1."
            )


def pytest_sessionfinish() -> None:
    """The server that starts ranks ends with this process: ended before, it leaves nothing that Python warns of."""
    if warm := sys.modules.get("distlab.train.warm"):
        warm.end()
