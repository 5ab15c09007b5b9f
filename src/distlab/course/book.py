"""Build the book when its inputs changed, check it, and put it in the old one's place.

    distlab course book

Jupyter Book does the work, as `jupyter-book build . -W --keep-going` does at the repository's root; around it
stand a hash of all inputs (nothing changed: nothing is done), a cache of executed cells that is keyed by
everything a cell's output depends on, and checks of the result. The new book takes the old one's place in one
step, and only if all of that went well.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from distlab.course.atomic import write_atomic
from distlab.course.book_check import (
    CELL_CACHE_VARIABLE,
    SOURCE_FOLDER,
    BookError,
    check_config,
    check_pages,
    known_labs,
)
from distlab.course.inputs import contents, digest, files_below, surroundings, user_cache
from distlab.course.site import Site

__all__ = ["BookError", "build_book"]

console = Console(stderr=True, highlight=False)

CELL_CACHES_KEPT = 4
PROBLEMS_SHOWN = 5
TRACEBACK_LINES_SHOWN = 40
PROSE = {".md", ".bib"}
"""What of the book's folder no cell reads, nor what lies in `_static`; all else there counts as cells' data."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PROGRESS = re.compile(
    r"^(?P<step>reading sources|writing output)\.\.\. \[\s*(?P<percent>\d+)%\] (?P<page>\S+)"
)
_PROBLEM = re.compile(r"\b(WARNING|ERROR|CRITICAL): |^(\w+Error|Extension error|Configuration error)\b")
_CELL_FAILED, _CELL_TOLD = "Executing notebook failed", "[mystnb.exec]"
"""Between these two stands the cell's traceback."""
_KERNEL_NOISE = "[IPKernelApp]"


@dataclass(frozen=True)
class Keys:
    """Hashes of what the book is made from, each including the one before."""

    cells: str
    """What a cell's output depends on besides its code: environment, machine, library, data files."""
    pages: str
    """What else a page depends on besides its text."""
    book: str
    """Every input."""

    @classmethod
    def of(cls, root: Path) -> Keys:
        """The keys of the sources at `root`."""
        library, book = root / "src" / "distlab", root / SOURCE_FOLDER
        code = [path for path in files_below(library) if path.suffix not in (".pyc", ".pyo")]
        course = library / "course"
        cells = digest(
            surroundings(),
            *contents(root, (path for path in code if course not in path.parents)),
            *contents(root, (path for path in files_below(book) if _is_data(path.relative_to(book)))),
        )
        locks = [*(root / "requirements").glob("*.txt"), root / "package-lock.json", root / "_config.yml"]
        pages = digest(
            cells,
            json.dumps(known_labs(root)),
            *contents(root, (path for path in code if course in path.parents)),
            *contents(root, (path for path in locks if path.is_file())),
        )
        sources = [*files_below(book), *(path for path in [root / "_toc.yml"] if path.is_file())]
        return cls(cells, pages, digest(pages, *contents(root, sources)))


def _is_data(path: Path) -> bool:
    return path.suffix not in PROSE and path.parts[0] != "_static"


def book(force: bool = False) -> int:
    """Build the book if its inputs changed; warnings are errors.

    Args:
        force: build it anew all the same.
    """
    try:
        build_book(Site.from_env(), force=force)
    except BookError as error:
        console.print(f"[red]distlab course book:[/] {escape(str(error))}", soft_wrap=True)
        return 1
    return 0


def build_book(site: Site, force: bool = False) -> Path:
    """Build the book if its inputs changed, and return the folder of its pages, `site.book/html`.

    Args:
        site: the installation.
        force: build it anew, every cell executed again, whether anything changed or not.

    Raises:
        BookError: the configuration is wrong, a page does not build without a warning, or a built page would
            break the site's rules. The book from before stands.
    """
    started = time.monotonic()
    site.book.mkdir(parents=True, exist_ok=True)
    with _locked(site.book / "lock"):
        keys = Keys.of(site.root)
        published = site.book / "html"
        if not force and _published_key(published) == keys.book:
            return published
        # While this key stands, what Sphinx made before serves again, and only changed pages are read.
        work, work_key = site.book / "work", digest(keys.pages, _read(site.root / "_toc.yml"))
        if force or _read(work / "key") != work_key:
            check_config(site.root)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            write_atomic(work / "key", work_key.encode())
        with _cell_cache(keys.cells, fresh=force) as cells:
            try:
                _jupyter_book(site, work, cells)
            except BaseException:
                # Sphinx does not warn again about a page that it has read: the next build starts afresh.
                shutil.rmtree(work, ignore_errors=True)
                raise
        try:
            _publish(work / "_build" / "html", site.book, keys.book)
        except OSError as error:
            raise BookError(f"the book cannot be written: {error}; the book from before stands.") from error
    console.print(f"The book is built in {time.monotonic() - started:.1f} s.")
    return published


def _jupyter_book(site: Site, work: Path, cells: Path) -> None:
    """Run Jupyter Book over the repository, its output under `work`, and show how far it is."""
    start = "from jupyter_book.cli.main import main; main()"
    options = ["-W", "--keep-going", "--path-output", str(work)]
    command = [sys.executable, "-c", start, "build", str(site.root), *options]
    env = os.environ | {CELL_CACHE_VARIABLE: str(cells), "PYTHONUNBUFFERED": "1"}
    site.log.mkdir(parents=True, exist_ok=True)
    log = site.log / "book.log"
    problems: list[str] = []
    traceback: deque[str] = deque(maxlen=TRACEBACK_LINES_SHOWN)
    in_traceback = False
    line, said = "", ""
    if not console.is_terminal:
        console.print(
            f"Building the book: minutes the first time. Each page is listed in {log}.", soft_wrap=True
        )
    with (
        console.status("Building the book") as status,
        log.open("w", encoding="utf-8") as log_file,
        subprocess.Popen(
            command, cwd=site.root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for raw in process.stdout:
                line = _ANSI.sub("", raw).rstrip()
                log_file.write(line + "\n")
                if match := _PROGRESS.match(line):
                    status.update(
                        f"Building the book: {match['step']}, {match['percent']}% ({match['page']})"
                    )
                    quarter = f"Building the book: {match['step']}, {int(match['percent']) // 25 * 25}%"
                    if quarter != said and not console.is_terminal:  # a log gets no status, but some lines
                        console.print(quarter)
                    said = quarter
                elif in_traceback:
                    in_traceback = not line.endswith(_CELL_TOLD)
                    traceback.append(line.removesuffix(_CELL_TOLD))
                elif _PROBLEM.search(line) and _KERNEL_NOISE not in line:
                    problems.append(line.replace(f"{site.root}/", ""))
                    in_traceback = _CELL_FAILED in line
        except BaseException:
            # As Ctrl-C does: Sphinx then stops its kernels.
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode != 0:
        shown = list(dict.fromkeys(problems)) or [
            line or f"Jupyter Book ended with status {process.returncode}"
        ]
        more = f"\n  and {len(shown) - PROBLEMS_SHOWN} more" if len(shown) > PROBLEMS_SHOWN else ""
        listed = "".join(f"\n  {problem}" for problem in shown[:PROBLEMS_SHOWN])
        cell = "".join(f"\n    {line}" for line in traceback).rstrip()
        raise BookError(
            f"the book does not build:{listed}{more}{cell}\nMend it and build again; the book from before stands. "
            f"The whole log: {log}"
        )


def _publish(built: Path, folder: Path, key: str) -> None:
    """Copy the built pages, check the copy, and let `folder/html` point to it, in one step."""
    builds = folder / "builds"
    builds.mkdir(exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=builds))
    link = folder / "html"
    try:
        shutil.copytree(
            built, fresh, dirs_exist_ok=True, ignore=_not_for_readers, copy_function=_copy_or_link
        )
        fresh.chmod(0o755)
        check_pages(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    before = link.resolve()
    pointer = folder / "html.new"
    pointer.unlink(missing_ok=True)
    pointer.symlink_to(fresh.relative_to(folder))
    os.replace(pointer, link)
    # The one from before stays a while for those who are reading it.
    for old in builds.iterdir():
        if old not in (fresh, before):
            shutil.rmtree(old, ignore_errors=True)


def _not_for_readers(folder: str, names: list[str]) -> set[str]:
    """Sphinx's notes, and the templates that the theme leaves among its static files."""
    static = "_static" in Path(folder).parts
    return {name for name in names if name.startswith(".") or (static and name.endswith(".html"))}


def _copy_or_link(source: str, target: str) -> None:
    # MathJax, most of the files, is only ever replaced as a whole.
    if f"{os.sep}_static{os.sep}mathjax{os.sep}" in source:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _published_key(link: Path) -> str:
    """The key of the book that is published, or an empty string."""
    return link.resolve().name.rpartition("-")[0] if (link / "index.html").is_file() else ""


# --- executed cells ---


@contextlib.contextmanager
def _cell_cache(key: str, fresh: bool) -> Iterator[Path]:
    """The folder of executed cells for `key`, to be used by one build at a time.

    It lies in the user's cache folder, where anything may have happened to it: it is used only if it is this
    user's alone and its content is what the last build sealed, and is emptied otherwise.
    """
    try:
        base = user_cache("cells")
    except PermissionError as error:
        raise BookError(str(error)) from error
    folder, seal = base / key, base / f"{key}.seal"
    with _locked(base / f"{key}.lock"):
        if fresh or not folder.is_dir() or _read(seal) != _tree_digest(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        seal.unlink(missing_ok=True)
        try:
            yield folder
        except Exception:
            write_atomic(seal, _tree_digest(folder).encode())  # the cells that ran need not run again
            raise
        # A build that is killed or interrupted leaves no seal: its kernels may still be writing.
        write_atomic(seal, _tree_digest(folder).encode())
    _forget_old_caches(base, keep=key)


def _forget_old_caches(base: Path, keep: str) -> None:
    """Remove all but the latest few caches, and none that another build is using."""
    seals = sorted(base.glob("*.seal"), key=lambda path: path.stat().st_mtime, reverse=True)
    for seal in seals[CELL_CACHES_KEPT:]:
        if seal.stem == keep:
            continue
        with contextlib.suppress(BlockingIOError), _locked(base / f"{seal.stem}.lock", wait=False):
            seal.unlink(missing_ok=True)
            shutil.rmtree(base / seal.stem, ignore_errors=True)


# --- files ---


@contextlib.contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _tree_digest(folder: Path) -> str:
    return digest(*contents(folder, (path for path in folder.rglob("*") if path.is_file())))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
