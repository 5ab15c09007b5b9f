"""What the book needs of Sphinx beyond Jupyter Book, loaded by `_config.yml`.

- The pages' source root is `book/`, although `_config.yml` and `_toc.yml` lie at the repository's root: no
  file outside `book/` can become a page, and addresses do not begin with `book/`.
- MathJax is copied from node_modules, so that no page asks another host for it.
- Inline scripts move into files, so that the site's content security policy needs no exception for them.
- `{open-lab} mod-107-lab-3` renders the button that opens a lab.
"""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ConfigError
from sphinx.util.docutils import SphinxDirective

from distlab.course.book_check import CELL_CACHE_VARIABLE, SOURCE_FOLDER, known_labs
from distlab.course.site import QUIZ_ID

MATHJAX_PARTS = ("tex-mml-chtml.js", "a11y", "input/tex", "output/chtml", "sre", "ui")
"""What of MathJax's `es5` folder a page can ask for: TeX in, HTML out, and the tools of its menu."""

OPEN_LAB_URL = "/hub/user-redirect/distlab/open?lab={lab}"

_INLINE_SCRIPT = re.compile(
    r"<script(?P<attributes>(?:\s[^>]*)?)>(?P<body>.*?)</script>", re.DOTALL | re.IGNORECASE
)
_SOURCE = re.compile(r"\ssrc\s*=", re.IGNORECASE)
_TYPE = re.compile(r"""\stype\s*=\s*["']?(?P<type>[^"'\s>]+)["']?""", re.IGNORECASE)
_JAVASCRIPT = {"text/javascript", "application/javascript", "module"}


class OpenLab(SphinxDirective):
    """A button that opens a lab or a quiz in the reader's own JupyterLab: `{open-lab} mod-107-lab-3`."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Return the button; an unknown lab is an error, which fails the build."""
        lab = self.arguments[0]
        root = Path(self.env.app.confdir)
        known = known_labs(root)
        without_banks = not any(map(QUIZ_ID.fullmatch, known))  # as learners' copies of the repository are
        if lab not in known and not (without_banks and QUIZ_ID.fullmatch(lab)):
            raise self.error(
                f"open-lab: there is no lab {lab!r} under labs/ or solutions/ and no quiz in assessments/; "
                f"there are: {', '.join(known) or 'none'}"
            )
        return [nodes.raw("", open_lab_button(lab), format="html")]


def open_lab_button(lab: str) -> str:
    """The HTML of the button for `lab`, which may be a quiz; its accessible name says which one it opens."""
    module, what, number = re.split("-(lab|quiz)-?", lab)
    name = html.escape(f"{module.upper()} {what.capitalize()} {number}".rstrip())
    url = html.escape(OPEN_LAB_URL.format(lab=lab))
    return (
        '<p class="open-lab">'
        f'<a class="open-lab-button" href="{url}" rel="nofollow" '
        f'aria-label="Open the {what}: {name}">Open the {what}</a>'
        f'<span class="open-lab-note">{name} opens in your own JupyterLab. '
        "You sign in first if you have not.</span>"
        "</p>\n"
    )


def use_cell_cache(app: Sphinx, config: Config) -> None:
    """Keep executed cells where CELL_CACHE_VARIABLE says."""
    if folder := os.environ.get(CELL_CACHE_VARIABLE):
        config["nb_execution_cache_path"] = folder


def copy_mathjax(app: Sphinx) -> None:
    """Copy MathJax under `_static/mathjax` of the output, unless this version lies there.

    Raises:
        ConfigError: node_modules has no MathJax.
    """
    if app.builder.format != "html":
        return
    package = Path(app.confdir) / "node_modules" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    if not (package / "package.json").is_file():
        raise ConfigError(f"MathJax is missing: {package} does not exist. Install it with `npm ci`.")
    stamp = target / "package.json"
    if stamp.is_file() and stamp.read_bytes() == (package / "package.json").read_bytes():
        return
    shutil.rmtree(target, ignore_errors=True)
    for part in MATHJAX_PARTS:
        source, copy = package / "es5" / part, target / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copyfile(source, copy)
    # Last: the stamp says that all of it lies there.
    shutil.copyfile(package / "package.json", stamp)


def move_inline_scripts(app: Sphinx, exception: Exception | None) -> None:
    """Move every inline script of every page into a file of its own under `_static/inline`."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for page in out.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        moved = externalise(text, out / "_static" / "inline", _way_up(page.relative_to(out)))
        if moved != text:
            page.write_text(moved, encoding="utf-8")


def externalise(page: str, folder: Path, way_up: str) -> str:
    """Return `page` with each inline script replaced by a reference to a file in `folder`.

    Scripts keep their order: a file without `async` or `defer` runs where it stands. Data blocks
    (`type="application/json"` and the like) never run, and stay.

    Args:
        page: the page's HTML.
        folder: where the scripts go, named by their content.
        way_up: from the page to the book's root, such as `../`.
    """

    def replace(match: re.Match[str]) -> str:
        attributes, body = match["attributes"], match["body"]
        kind = _TYPE.search(attributes)
        if (
            _SOURCE.search(attributes)
            or (kind and kind["type"].lower() not in _JAVASCRIPT)
            or not body.strip()
        ):
            return match[0]
        name = hashlib.sha256(body.encode()).hexdigest()[:16] + ".js"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body, encoding="utf-8")
        return f'<script{attributes} src="{way_up}_static/inline/{name}"></script>'

    return _INLINE_SCRIPT.sub(replace, page)


def _way_up(page: Path) -> str:
    return "../" * (len(page.parts) - 1)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register all of the above. Called by Sphinx before it looks for pages."""
    root = Path(app.srcdir)
    if (root / "_config.yml").is_file() and (root / SOURCE_FOLDER).is_dir():
        app.srcdir = type(app.srcdir)(root / SOURCE_FOLDER)
    app.add_directive("open-lab", OpenLab)
    app.connect("config-inited", use_cell_cache)
    app.connect("builder-inited", copy_mathjax)
    app.connect("build-finished", move_inline_scripts)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
