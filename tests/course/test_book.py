"""The book's build, on a book of two pages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from distlab.course import book
from distlab.course.book import build_book
from distlab.course.book_check import BookError, check_config, check_pages
from distlab.course.site import Site
from distlab.course.sphinx_ext import externalise

REPOSITORY = Path(__file__).resolve().parents[2]

CONFIG = """\
title: A tiny book
only_build_toc_files: true
execute:
  execute_notebooks: cache
  raise_on_error: true
  show_tb: true
sphinx:
  config:
    extensions:
      [jupyter_book, myst_nb, sphinx_book_theme, sphinx_comments, sphinx_external_toc, sphinx_design,
      sphinx_togglebutton, distlab.course.sphinx_ext]
    html_copy_source: false
    html_theme_options: {use_download_button: false, use_fullscreen_button: false}
    mathjax_path: mathjax/tex-mml-chtml.js
    nb_ipywidgets_js: {}
"""
TOC = "format: jb-book\nroot: index\nchapters:\n  - file: two\n"
INDEX = """\
---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# First page

```{open-lab} mod-107-lab-3
```

```{code-cell} ipython3
import os
with open(os.environ["CELL_RUNS"], "a") as file:
    file.write("ran\\n")
print("six times seven is", 6 * 7)
```
"""
TWO = "# Second page\n\nThe square of $a$ is $a^2$.\n"


class TinyBook:
    """A repository with a book of two pages, and a count of how often its one cell ran."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root=root)
        self.runs_file = root / "runs"
        self.write("_config.yml", CONFIG)
        self.write("_toc.yml", TOC)
        self.write("book/index.md", INDEX)
        self.write("book/two.md", TWO)
        self.write("src/distlab/library.py", "ANSWER = 42\n")
        self.write("src/distlab/course/site_code.py", "")
        self.write("labs/mod-107-lab-3/mod-107-lab-3.ipynb", "{}")
        (root / "node_modules").symlink_to(REPOSITORY / "node_modules")

    def write(self, path: str, text: str) -> None:
        file = self.site.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    @property
    def runs(self) -> int:
        return len(self.runs_file.read_text().splitlines()) if self.runs_file.exists() else 0

    @property
    def published(self) -> str:
        return os.readlink(self.site.book / "html")

    def page(self, name: str) -> str:
        return (self.site.book / "html" / name).read_text()


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyBook:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "repository"
    root.mkdir()
    made = TinyBook(root)
    monkeypatch.setenv("CELL_RUNS", str(made.runs_file))
    return made


def test_only_what_changed_is_done_again(tiny: TinyBook, capsys: pytest.CaptureFixture[str]) -> None:
    html = build_book(tiny.site)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(f"Each page is listed in {tiny.site.log / 'book.log'}.")
    assert "Building the book: writing output, 100%" in said[1:-1]
    assert said[-1].startswith("The book is built in")
    assert html == tiny.site.book / "html"
    assert "six times seven is 42" in tiny.page("index.html")
    assert 'href="/hub/user-redirect/distlab/open?lab=mod-107-lab-3"' in tiny.page("index.html")
    assert tiny.runs == 1
    first = tiny.published

    build_book(tiny.site)
    assert tiny.published == first, "nothing changed, and yet a book was built"

    tiny.write("book/two.md", TWO + "\nOne more sentence.\n")
    tiny.write("src/distlab/course/site_code.py", "SITE = 1\n")
    tiny.write("book/_static/look.css", "p { color: black }\n")
    build_book(tiny.site)
    assert "One more sentence" in tiny.page("two.html")
    assert tiny.runs == 1, "a cell ran again because another page, or the site's code, changed"

    tiny.write("src/distlab/library.py", "ANSWER = 43\n")
    build_book(tiny.site)
    assert tiny.runs == 2, "the library changed, and the cell's old output was kept"

    before = book.Keys.of(tiny.site.root)
    tiny.write("book/recorded.csv", "size,time\n1,2\n")
    assert book.Keys.of(tiny.site.root).cells != before.cells, "cells may read this file"

    build_book(tiny.site, force=True)
    assert tiny.runs == 3, "a forced build kept an old output"


def test_what_a_module_adds_to_the_path_is_no_input(
    tiny: TinyBook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the book that `make book` built is built again by `make up`, which has imported more by then."""
    before = book.Keys.of(tiny.site.root)
    (tmp_path / "_vendor" / "vendored-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "_vendor")
    assert book.Keys.of(tiny.site.root) == before


def test_executed_cells_that_someone_altered_are_not_used(tiny: TinyBook, tmp_path: Path) -> None:
    build_book(tiny.site)
    (executed,) = (tmp_path / "cache").rglob("base.ipynb")
    executed.write_text(executed.read_text().replace("is 42", "is 54"))
    tiny.write("book/index.md", INDEX.replace("# First page", "# First page, revised"))
    build_book(tiny.site)
    assert tiny.runs == 2
    assert "six times seven is 42" in tiny.page("index.html")


def test_a_cache_that_others_can_write_is_refused(tiny: TinyBook, tmp_path: Path) -> None:
    cells = tmp_path / "cache" / "distlab" / "cells"
    cells.mkdir(parents=True)
    cells.chmod(0o777)
    with pytest.raises(BookError, match="XDG_CACHE_HOME"):
        build_book(tiny.site)


@pytest.mark.parametrize(
    ("page", "named", "builds"),
    [
        (INDEX.replace("import os", "import no_such_module"), "no_such_module", 1),
        # Sphinx warns when it reads a page: the second build has to read it again.
        (INDEX.replace("mod-107-lab-3", "mod-107-lab-99"), "mod-107-lab-99", 2),
        (INDEX + '\n<img src="https://example.org/x.png" alt="elsewhere">\n', "https://example.org/x.png", 1),
    ],
    ids=["a cell that raises", "an unknown lab", "another host"],
)
def test_a_failed_build_leaves_the_old_book(tiny: TinyBook, page: str, named: str, builds: int) -> None:
    tiny.write("var/book/builds/old-1/index.html", "the old book")
    (tiny.site.book / "html").symlink_to("builds/old-1")
    tiny.write("book/index.md", page)
    for _ in range(builds):
        with pytest.raises(BookError, match=named):
            build_book(tiny.site)
    assert tiny.page("index.html") == "the old book"
    assert os.listdir(tiny.site.book / "builds") == ["old-1"]


def test_an_interrupted_build_leaves_nothing_behind(tiny: TinyBook) -> None:
    tiny.write("var/book/builds/old-1/index.html", "the old book")
    (tiny.site.book / "html").symlink_to("builds/old-1")
    tiny.write("book/index.md", INDEX.replace("print(", "file.close(); import time; time.sleep(600); print("))
    command = [sys.executable, "-m", "distlab.cli", "course", "book"]
    build = subprocess.Popen(
        command, env=os.environ | tiny.site.env(), stderr=subprocess.DEVNULL, start_new_session=True
    )
    while not tiny.runs:
        assert build.poll() is None
        time.sleep(0.05)
    children = psutil.Process(build.pid).children(recursive=True)
    assert len(children) >= 2, "Sphinx and its kernel"
    os.killpg(build.pid, signal.SIGINT)
    assert build.wait(timeout=60) == 130
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert tiny.page("index.html") == "the old book"
    assert os.listdir(tiny.site.book / "builds") == ["old-1"]
    tiny.write("book/index.md", INDEX)
    build_book(tiny.site)
    assert "six times seven is 42" in tiny.page("index.html")


def test_a_book_that_cannot_be_written_is_one_clear_error(tiny: TinyBook) -> None:
    tiny.write("var/book/builds/old-1/index.html", "the old book")
    (tiny.site.book / "html").symlink_to("builds/old-1")
    # The publishing copy meets a folder that cannot take it.
    (tiny.site.book / "html.new").mkdir()
    with pytest.raises(BookError, match=r"the book cannot be written: .*html\.new"):
        build_book(tiny.site)
    assert tiny.page("index.html") == "the old book"


def test_a_cell_that_fails_is_told_with_its_traceback(
    tiny: TinyBook, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distlab.course.book.Site.from_env", lambda: tiny.site)
    tiny.write("book/index.md", INDEX.replace('print("six', 'raise KeyError("[/gone]")\nprint("six'))
    assert book.book() == 1
    said = capsys.readouterr().err
    assert "book/index.md" in said
    assert "KeyError: '[/gone]'" in said
    assert 'raise KeyError("[/gone]")' in said


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("_config.yml", "title: [unclosed\n", "_config.yml, line 2: "),
        ("_config.yml", "titel: A book\n", "_config.yml: there is no setting 'titel'; did you mean 'title'?"),
        ("_config.yml", "execute: {timeout: soon}\n", r"_config.yml: .*'soon' is not of type 'number'"),
        ("_config.yml", "- a list\n", "_config.yml: settings .* not list"),
        ("_toc.yml", "root: index\nchapters: [\n", "_toc.yml, line 3: "),
        ("_toc.yml", "format: jb-book\nchapters: []\n", "_toc.yml: .*root"),
        (
            "_toc.yml",
            TOC.replace("two", "three"),
            "_toc.yml lists the page 'three', but book/three.md does not",
        ),
        ("_toc.yml", None, "_toc.yml is missing"),
    ],
)
def test_a_wrong_configuration_is_named(tiny: TinyBook, file: str, text: str | None, message: str) -> None:
    path = tiny.site.root / file
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    with pytest.raises(BookError, match=message) as caught:
        check_config(tiny.site.root)
    assert "\n" not in str(caught.value)


def test_the_pages_of_the_table_of_contents(tiny: TinyBook) -> None:
    assert check_config(tiny.site.root) == ["index", "two"]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="//cdn.example.org/x.js"></script>',
        "<script>alert(1)</script>",
        '<script type="module">import "x"</script>',
        '<a href="#" onclick="go()">go</a>',
        '<a href=" JavaScript:go()">go</a>',
        '<link rel="stylesheet" href="https://fonts.example.org/a.css">',
        '<link rel="preload" href="https://fonts.example.org/a.woff2">',
        '<img srcset="a.png 1x, https://example.org/b.png 2x" alt="">',
        '<svg><image href="https://example.org/a.png"/></svg>',
        "<style>@import url(https://example.org/a.css);</style>",
        '<p style="background: url(//example.org/a.png)">x</p>',
    ],
)
def test_pages_that_the_policy_would_break_are_found(tmp_path: Path, page: str) -> None:
    (tmp_path / "bad.html").write_text(f"<!doctype html><body>{page}</body>")
    with pytest.raises(BookError, match=r"bad\.html: "):
        check_pages(tmp_path)


GOOD_PAGE = """<!doctype html>
<head><link rel="canonical" href="https://example.org/"><link rel="icon" href="a.svg">
<script src="_static/x.js"></script><script type="application/json">{"a": "http://x"}</script></head>
<body><a href="https://example.org/paper">a paper</a><img src="data:image/png;base64,AAAA" alt=""></body>
"""


def test_pages_that_keep_the_rules_pass(tmp_path: Path) -> None:
    (tmp_path / "good.html").write_text(GOOD_PAGE)
    css = "/* https://example.org */ p { background: url(data:image/png;base64,AA) }"
    (tmp_path / "style.css").write_text(css)
    check_pages(tmp_path)
    (tmp_path / "style.css").write_text("p { background: url('https://example.org/a.png') }")
    with pytest.raises(BookError, match=r"style\.css"):
        check_pages(tmp_path)


def test_inline_scripts_move_into_files_in_their_order(tmp_path: Path) -> None:
    page = (
        '<script>let a = 1;</script><script src="x.js"></script><script type="application/json">{}</script>'
        '<script type="text/javascript">a < 2;</script><script></script>'
    )
    moved = externalise(page, tmp_path, "../")
    files = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert sorted(files.values()) == ["a < 2;", "let a = 1;"]
    by_text = {text: name for name, text in files.items()}
    first, second = (f"../_static/inline/{by_text[text]}" for text in ("let a = 1;", "a < 2;"))
    assert moved == (
        f'<script src="{first}"></script><script src="x.js"></script>'
        '<script type="application/json">{}</script>'
        f'<script type="text/javascript" src="{second}"></script><script></script>'
    )
    assert externalise(moved, tmp_path, "../") == moved


def test_old_caches_are_forgotten(tmp_path: Path) -> None:
    for number in range(book.CELL_CACHES_KEPT + 2):
        (tmp_path / f"key{number}").mkdir()
        seal = tmp_path / f"key{number}.seal"
        seal.write_text("x")
        os.utime(seal, (number, number))
    with book._locked(tmp_path / "key1.lock"):
        book._forget_old_caches(tmp_path, keep="key5")
    kept = sorted(path.name for path in tmp_path.iterdir() if path.is_dir())
    assert kept == ["key1", *(f"key{n}" for n in range(2, book.CELL_CACHES_KEPT + 2))], "key1 was in use"
