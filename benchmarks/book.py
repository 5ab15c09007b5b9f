"""The book's build beside a bare `jupyter-book build` of the same sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.results import Result
from distlab.course.site import Site

ROOT = Path(__file__).resolve().parents[1]
SOURCES = (
    "_config.yml",
    "_toc.yml",
    "book",
    "labs",
    "src",
    "requirements",
    "pyproject.toml",
    "package-lock.json",
)
TOUCHED = Path("book/index.md")


def build() -> list[Result]:
    """Both sides build from copies of their own, one right after the other, with caches of their own."""
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        ours, bare = _copy(Path(temporary) / "ours"), _copy(Path(temporary) / "bare")
        sides: dict[str, Callable[[], None]] = {"ours": lambda: _ours(ours), "bare": lambda: _bare(bare)}
        for case in ("cold", "cached", "touched"):
            if case == "touched":
                for root in (ours, bare):
                    with (root / TOUCHED).open("a") as page:
                        page.write("\nOne more line.\n")
            seconds = {}
            for side, run in sides.items():
                start = time.perf_counter()
                run()
                seconds[side] = time.perf_counter() - start
            ratio = seconds["ours"] / seconds["bare"]
            results.append(Result(f"book.build.{case}", seconds["ours"], "s", "jupyter-book build", ratio))
    return results


def _copy(root: Path) -> Path:
    root.mkdir()
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy2(source, root / name)
    (root / "node_modules").symlink_to(ROOT / "node_modules")
    (root / "solutions").symlink_to(ROOT / "solutions")
    return root


def _ours(root: Path) -> None:
    site = Site(root=root, state=root / "var")
    _run([sys.executable, "-m", "distlab.cli", "course", "book"], root, site.env())


def _bare(root: Path) -> None:
    _run([str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "-W", "--keep-going"], root, {})


def _run(command: list[str], root: Path, extra: dict[str, str]) -> None:
    environment = {
        **os.environ,
        **extra,
        "XDG_CACHE_HOME": str(root / "cache"),
        "PYTHONPATH": str(root / "src"),
    }
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
