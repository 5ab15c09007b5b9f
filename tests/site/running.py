"""The real site, started from this checkout with a state of its own: for the tests and the benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from distlab.course.proved import inputs_digest, remember
from distlab.course.release import lab_ids
from distlab.course.site import Site
from distlab.machine import free_port

ROOT = Path(__file__).resolve().parents[2]


def fresh_site(folder: Path) -> Site:
    """A site with an empty state in `folder`, but for the book, which is taken over if it is built.

    The labs' model answers count as run: `tests/labs` runs them.
    """
    site = Site(root=ROOT, port=free_port(), state=folder / "var")
    built = ROOT / "var" / "book"
    if built.exists():
        shutil.copytree(built, site.book, symlinks=True)
    for lab in lab_ids(ROOT):
        remember(site, lab, inputs_digest(ROOT, lab))
    return site


def distlab(site: Site, *args: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run the `distlab` command for `site`; its output comes back as text."""
    return subprocess.run(
        [sys.executable, "-m", "distlab.cli", *args],
        cwd=ROOT,
        env={**os.environ, **site.env()},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


def make(site: Site, *words: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `make` as the README says, for `site`; its output comes back as text."""
    # A `make test PORT=...` around the tests would have its own say.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *words, f"PORT={site.port}"],
        cwd=ROOT,
        env={**environment, **site.env()},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )


@contextlib.contextmanager
def running(site: Site) -> Iterator[Site]:
    """The site from `up` to `down`."""
    up = distlab(site, "course", "up", "--detach")
    try:
        assert up.returncode == 0, up.stderr
        yield site
    finally:
        distlab(site, "course", "down")
