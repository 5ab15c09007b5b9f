"""Nothing that the site gives a learner holds a hidden test: a canary in one is searched for everywhere."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup

from distlab.course.release import source_path, write_labs
from distlab.course.site import Site
from distlab.machine import free_port
from tests.site.client import Learner, localhost_names
from tests.site.running import ROOT, running

pytestmark = pytest.mark.site
LAB = "mod-107-lab-3"
CANARY = "canary-5b1f0e7c2d"

LOOK_INSIDE = f"""
import os
places = ["/home", "/run", "/srv", "/tmp", "/etc", "/dev/shm", {str(ROOT)!r}]
found, read = [], 0
for place in places:
    for folder, names, files in os.walk(place):
        names[:] = [name for name in names if name != ".venv"]
        for name in files:
            path = os.path.join(folder, name)
            try:
                content = open(path, "rb").read() if os.path.isfile(path) else b""
            except OSError:
                continue
            read += 1
            found += [path] * ({CANARY.encode()!r} in content)
print(read, found)
"""
"""Run in the learner's kernel: every file that can be read there, but for the system's and Python's own."""


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A copy of the repository with the canary in the lab's first hidden test and in its first solution."""
    folder = tmp_path_factory.mktemp("poisoned")
    root = folder / "root"
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True, text=True
    )
    for name in filter(None, tracked.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    lab = source_path(root, LAB)
    source = lab.read_text()
    for marker in ("### BEGIN HIDDEN TESTS\n", "### BEGIN SOLUTION\n"):
        assert marker in source
        source = source.replace(marker, f'{marker}canary = "{CANARY}"\n', 1)
    lab.write_text(source)
    write_labs(root)
    return Site(root=root, port=free_port(), state=folder / "var")


@pytest.mark.timeout(900)  # on a machine that has other work, too
def test_no_learner_meets_the_canary(poisoned: Site) -> None:
    with localhost_names(), running(poisoned) as site:
        assert files_with_canary(site.course / "source"), "the canary is not where it should be"
        learner = Learner(site, "cassandra")
        assert crawl(learner) == []
        learner.sign_up((site.secrets / "enrolment-code").read_text().strip())
        learner.log_in()
        learner.open_lab(LAB)
        assert crawl(learner) == []

        read, found = learner.execute(learner.kernel(), LOOK_INSIDE).split(maxsplit=1)
        assert int(read) > 100
        assert found.strip() == "[]"

        assert files_with_canary(site.book / "html") == []
        assert files_with_canary(site.exchange) == []
        assert files_with_canary(site.homes) == []
        assert files_with_canary(site.root / "labs") == []


def files_with_canary(folder: Path) -> list[Path]:
    paths = [path for path in folder.resolve().rglob("*") if path.is_file()]
    assert paths, f"{folder} is empty"
    return [path for path in paths if CANARY.encode() in path.read_bytes()]


def crawl(learner: Learner, most: int = 400) -> list[str]:
    """Follow every link, script, style and image of the Hub's own host; returns the addresses that leak."""
    start = learner.site.url + "/"
    waiting, seen, leaks = [start], {start}, []
    while waiting and len(seen) < most:
        reply = learner.http.get(waiting.pop())
        if CANARY.encode() in reply.content:
            leaks.append(reply.url)
        if "html" not in reply.headers.get("Content-Type", ""):
            continue
        for tag in BeautifulSoup(reply.text, "html.parser").find_all(["a", "link", "script", "img"]):
            target = urldefrag(urljoin(reply.url, str(tag.get("href") or tag.get("src") or "")))[0]
            here = urlsplit(target).netloc == urlsplit(start).netloc and "logout" not in target
            if here and target not in seen:
                seen.add(target)
                waiting.append(target)
    assert len(seen) > 30
    return leaks
