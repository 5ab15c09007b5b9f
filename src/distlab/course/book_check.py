"""What the book is made from, and checks: of its configuration before a build, of its pages after one."""

from __future__ import annotations

import difflib
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from distlab.course.site import ASSIGNMENT_ID

SOURCE_FOLDER = "book"
"""Where the pages lie, below the folder of `_config.yml` and `_toc.yml`."""

CELL_CACHE_VARIABLE = "DISTLAB_BOOK_CELL_CACHE"
"""Environment variable: the folder in which executed cells are kept (default: Jupyter Book's own)."""

PAGE_SUFFIXES = (".md", ".ipynb")

RESOURCE_ATTRIBUTES = {"src", "srcset", "poster", "data", "xlink:href"}
FETCHING_LINKS = {
    "stylesheet",
    "icon",
    "shortcut",
    "preload",
    "modulepreload",
    "prefetch",
    "preconnect",
    "manifest",
}
"""`<link rel=...>` by which a page makes the browser ask for something."""

_CSS_URL = re.compile(r"""(?:url\(|@import)\s*["']?\s*(?P<url>(?:https?:)?//[^"')\s]+)""", re.IGNORECASE)


class BookError(Exception):
    """What is wrong with the book, naming the file, and what to do."""


def known_labs(root: Path) -> list[str]:
    """The ids of the labs and quizzes in the repository at `root`, learners' copies of labs included, sorted."""
    folders = [path.name for name in ("labs", "solutions") for path in (root / name).glob("*/")]
    banks = [path.stem for path in (root / "assessments").glob("*.yaml")]
    return sorted({name for name in (*folders, *banks) if ASSIGNMENT_ID.fullmatch(name)})


def check_config(root: Path) -> list[str]:
    """Check `_config.yml` and `_toc.yml`, and return the pages that the latter lists.

    Raises:
        BookError: one of them is missing or wrong.
    """
    # Slow to import, and not needed by those who import this module for its error.
    from jsonschema import ValidationError  # type: ignore[import-untyped]
    from jupyter_book.config import PATH_YAML_DEFAULT, validate_yaml  # type: ignore[import-untyped]
    from sphinx_external_toc.parsing import MalformedError, parse_toc_data

    config = _mapping(root / "_config.yml")
    known = [*yaml.safe_load(PATH_YAML_DEFAULT.read_text(encoding="utf-8")), "bibtex_bibfiles"]
    for key in config:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1)
            hint = (
                f"; did you mean {nearest[0]!r}?" if nearest else f"; known are: {', '.join(sorted(known))}"
            )
            raise BookError(f"_config.yml: there is no setting {key!r}{hint}")
    try:
        validate_yaml(config, raise_on_errors=True)
    except ValidationError as error:
        raise BookError(f"_config.yml: {_one_line(error.message)}") from None

    try:
        pages = [page for page in parse_toc_data(_mapping(root / "_toc.yml")) if "://" not in page]
    except (MalformedError, KeyError, TypeError, AttributeError) as error:
        raise BookError(f"_toc.yml: {_one_line(str(error))}") from None
    for page in pages:
        if not any((root / SOURCE_FOLDER / f"{page}{suffix}").is_file() for suffix in PAGE_SUFFIXES):
            raise BookError(
                f"_toc.yml lists the page {page!r}, but {SOURCE_FOLDER}/{page}.md does not exist: "
                "write it, or take it off the list."
            )
    return pages


def check_pages(folder: Path) -> None:
    """Check that no built page asks another host for a resource, and that none has a script of its own.

    The site serves the book under a policy by which the browser would refuse both.

    Raises:
        BookError: naming the page and what it holds.
    """
    problems = []
    for page in sorted(folder.rglob("*.html")):
        reader = _PageReader()
        reader.feed(page.read_text(encoding="utf-8"))
        problems += [f"{page.relative_to(folder)}: {problem}" for problem in reader.problems]
    for sheet in sorted(folder.rglob("*.css")):
        for match in _CSS_URL.finditer(sheet.read_text(encoding="utf-8", errors="replace")):
            problems.append(f"{sheet.relative_to(folder)}: asks another host for {match['url']}")
    if problems:
        listed = "".join(f"\n  {problem}" for problem in problems)
        raise BookError(
            f"the built book breaks the rules of the site, and the book from before stands:{listed}"
        )


class _PageReader(HTMLParser):
    """Collects what a page must not hold."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self._in_script = self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name, value in values.items():
            if name.startswith("on"):
                self.problems.append(f"<{tag}> has the inline handler {name}={value!r}")
            elif name in ("href", "src", "action") and value.strip().lower().startswith("javascript:"):
                self.problems.append(f"<{tag}> has the inline script {value!r}")
            elif self._fetches(tag, name, values) and _other_host(value):
                self.problems.append(f"<{tag} {name}> asks another host for {value}")
            elif name == "style":
                self._check_style(value)
        self._in_style = tag == "style"
        kind = values.get("type", "text/javascript").lower()
        self._in_script = tag == "script" and "src" not in values and kind in ("text/javascript", "module")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.problems.append(f"an inline script: {_one_line(data)[:60]!r}")
        if self._in_style:
            self._check_style(data)

    def _check_style(self, text: str) -> None:
        self.problems += [
            f"a style asks another host for {match['url']}" for match in _CSS_URL.finditer(text)
        ]

    @staticmethod
    def _fetches(tag: str, name: str, values: dict[str, str]) -> bool:
        if tag == "link":
            return name == "href" and bool(FETCHING_LINKS & set(values.get("rel", "").lower().split()))
        if tag in ("image", "use"):
            return name in ("href", "xlink:href")
        return name in RESOURCE_ATTRIBUTES


def _other_host(value: str) -> bool:
    return any(urlsplit(part.split()[0]).netloc for part in value.split(",") if part.strip())


def _mapping(path: Path) -> dict[str, object]:
    """The content of a YAML file whose top is a mapping."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BookError(
            f"{path.name} is missing: it belongs at the repository's root, {path.parent}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BookError(
            f"{path.name}{where}: {getattr(error, 'problem', None) or _one_line(str(error))}"
        ) from None
    if not isinstance(data, dict):
        raise BookError(f"{path.name}: settings (`name: value`) are expected, not {type(data).__name__}")
    return data


def _one_line(text: str) -> str:
    return " ".join(text.split())
