"""What the site has of learners: submissions and released feedback at the exchange, opened labs in the homes.

The gradebook is not read here, nor anything else that an instructor can change without releasing it: what a learner is
shown cannot tell whether, when or how a submission was graded before its feedback is out. A mark is taken from the
feedback page that the learner got: the template of the feedback (`grade/templates/feedback/page.html.j2`) writes it
into the page's head, before anything of the learner's own.
"""

from __future__ import annotations

import logging
import math
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from distlab.course.exchange.store import Receipt, Store
from distlab.course.progress.standing import Mark, Standing, Work, standing
from distlab.course.progress.table import Module, modules_of
from distlab.course.site import USERNAME, Site

log = logging.getLogger(__name__)

HEAD_BYTES = 1024
"""The mark stands in the first hundred or so."""
MARK = re.compile(rb'<head>\s*<meta content="([0-9.e+-]{1,24}) of ([0-9.e+-]{1,24})" name="distlab-mark"/>')
"""nbconvert sorts the attributes of what its templates write."""


def standings(site: Site, learners: Iterable[str]) -> dict[str, tuple[Standing, ...]]:
    """How each of `learners` stands in every module. Blocks on the disk.

    Raises `SettingError` where the installation's own table is wrong.
    """
    wanted = tuple(learners)
    modules = modules_of(site)
    ids = [part.id for module in modules for part in module.parts]
    store = Store(site.exchange)
    available = frozenset(store.released())
    only = wanted[0] if len(wanted) == 1 else None
    kept = _by_learner(store.submissions(only) if wanted else {})
    found = {}
    for name in wanted:
        works = {
            lab: _work(store, kept.get((name, lab), []), lab in available, _opened(site, name, lab))
            for lab in ids
        }
        found[name] = _standings(modules, works)
    return found


def _standings(modules: Iterable[Module], works: Mapping[str, Work]) -> tuple[Standing, ...]:
    return tuple(standing(module, works) for module in modules)


def _by_learner(kept: Mapping[Path, Receipt]) -> dict[tuple[str, str], list[tuple[Path, Receipt]]]:
    """By learner and assignment, oldest first."""
    found: dict[tuple[str, str], list[tuple[Path, Receipt]]] = {}
    for folder, receipt in kept.items():
        found.setdefault((receipt.user, receipt.assignment), []).append((folder, receipt))
    return found


def _work(store: Store, kept: list[tuple[Path, Receipt]], available: bool, opened: bool) -> Work:
    last = kept[-1][1].timestamp if kept else ""
    for folder, receipt in reversed(kept):
        mark = _mark(store, folder, receipt)
        if mark is not None:
            return Work(available, opened, last, mark, receipt.timestamp)
    return Work(available, opened, last)


def _mark(store: Store, folder: Path, receipt: Receipt) -> Mark | None:
    """The mark in the released feedback on a submission, if there is one."""
    if receipt.assignment not in receipt.notebooks:
        return None
    try:
        with store.feedback_file(folder, receipt.assignment).open("rb") as page:
            return mark_in(page.read(HEAD_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):  # the table of all learners stays, whatever became of one submission
        log.warning("The feedback on submission %r cannot be read; it counts as none.", folder.name)
        return None


def mark_in(head: bytes) -> Mark | None:
    """The mark that the beginning of a feedback page names."""
    found = MARK.search(head)
    if found is None:
        return None
    try:
        points, max_points = map(float, found.groups())
    except ValueError:
        return None
    return Mark(points, max_points) if math.isfinite(points) and 0 <= max_points < math.inf else None


def _opened(site: Site, learner: str, lab: str) -> bool:
    """Does the learner's home hold the lab's folder? A link there, which may lead anywhere, is not followed."""
    if not USERNAME.fullmatch(learner):
        return False
    try:
        return stat.S_ISDIR((site.homes / learner / lab).lstat().st_mode)
    except OSError:
        return False
