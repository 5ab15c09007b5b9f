"""Whose latest submission still lies at the exchange alone: grading sees only what was collected."""

from __future__ import annotations

import os
from pathlib import Path

from distlab.course.exchange.client import Client, ClientError
from distlab.course.exchange.store import Store
from distlab.course.grade.collected import MAX_TIMESTAMP_BYTES, read_plain
from distlab.course.site import Site
from distlab.errors import SettingError


def uncollected(course: Path, assignment: str) -> list[str]:
    """The students, in order, whose latest submission `nbgrader collect --update` would bring.

    Asks the exchange in an instructor's server, and reads the site's own outside of it. Empty where neither can
    be had: grading does not depend on it.
    """
    latest = {user: timestamp for user, timestamp in _received(course, assignment)}  # the oldest come first
    return sorted(user for user, timestamp in latest.items() if timestamp > _had(course, assignment, user))


def _received(course: Path, assignment: str) -> list[tuple[str, str]]:
    """User and timestamp of each submission at the exchange, the oldest first."""
    if "DISTLAB_EXCHANGE_URL" in os.environ:
        try:
            receipts = Client.from_env().submissions(assignment=assignment)
        except ClientError:
            return []
        return [(receipt["user"], receipt["timestamp"]) for receipt in receipts]
    try:
        site = Site.from_env()
        if course.resolve() != site.course.resolve() or not site.exchange.is_dir():
            return []
        found = Store(site.exchange).submissions(assignment=assignment)
    except (SettingError, OSError):
        return []
    return [(receipt.user, receipt.timestamp) for receipt in found.values()]


def _had(course: Path, assignment: str, user: str) -> str:
    """The timestamp of what was collected of a user; empty where nothing was. All are in one form, so they compare."""
    path = course / "submitted" / user / assignment / "timestamp.txt"
    return read_plain(path, MAX_TIMESTAMP_BYTES).decode("ascii", "replace").strip()
