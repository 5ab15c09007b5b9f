"""What nbgrader's pages show of a graded notebook: feedback for the learner, formgrader for the instructor.

    c.GenerateFeedback.preprocessors = [GetGrades, "distlab.course.grade.pages.OmitHiddenTests", ...]
    c.HTMLExporter.filters = {"markdown2html": "distlab.course.grade.pages.safe_markdown"}

nbgrader's templates put rendered Markdown into the page unsanitised, and nbconvert renders `javascript:`
links: so what is sanitised is the rendered HTML, the last step before the page.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import html
from typing import Any

import bleach  # type: ignore[import-untyped]
from jinja2 import pass_context
from jinja2.runtime import Context
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor
from nbformat.notebooknode import NotebookNode
from nbformat.v4 import new_output
from traitlets import Bool

from distlab.course.labsource import is_hidden

TAGS = {
    "a", "abbr", "b", "blockquote", "br", "code", "dd", "del", "div", "dl", "dt", "em", "h1", "h2",
    "h3", "h4", "h5", "h6", "hr", "i", "img", "li", "ol", "p", "pre", "s", "span", "strong", "sub",
    "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
DATA_IMAGES = ("data:image/png;base64,", "data:image/jpeg;base64,")

MAX_MARKDOWN = 20_000
"""Characters of a cell that are rendered. That takes a time of their square; a longer text is shown as it is."""


class _Attachments(dict[str, dict[str, str]]):
    """Pictures by name. One that is not there is shown as missing; nbconvert would give up the whole page."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> dict[str, str]:
        return {"image/png": ""}


class OmitHiddenTests(Preprocessor):
    """Leave of a hidden test its name, its points and its verdict, with the message that its author wrote."""

    enabled = Bool(True).tag(config=True)

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        if cell.cell_type == "code" and is_hidden(cell.source):
            text = _verdict(cell)
            cell.source = "# A hidden test: its text is not shown."
            cell.outputs = [new_output("stream", name="stdout", text=text)]
            cell.execution_count = None
        return cell, resources


def _verdict(cell: NotebookNode) -> str:
    """What grading noted; never what stands in the outputs."""
    noted = cell.metadata.get("distlab", {})
    verdict, message = noted.get("verdict"), noted.get("message")
    if verdict is None:
        return "Not run."
    return f"{str(verdict).capitalize()}{f': {message}' if message else '.'}"


@pass_context
def safe_markdown(context: Context, source: str) -> str:
    """Markdown to HTML without scripts, styles, forms or anything that another host would serve."""
    if len(source) > MAX_MARKDOWN:
        return f"<pre>{html.escape(source)}</pre>"
    attachments = _Attachments(context.get("cell", {}).get("attachments", {}))
    renderer = IPythonRenderer(escape=False, attachments=attachments)
    rendered = MarkdownWithMath(renderer=renderer).render(source)
    clean: str = bleach.clean(
        rendered, tags=TAGS, attributes=_allowed, protocols={"http", "https", "mailto", "data"}, strip=True
    )
    return clean


def _allowed(tag: str, name: str, value: str) -> bool:
    if name in ("class", "title"):
        return True
    if tag == "a" and name == "href":
        return not value.strip().lower().startswith("data:")
    if tag == "img":
        return name in ("alt", "width", "height") or (name == "src" and value.startswith(DATA_IMAGES))
    return tag in ("td", "th") and name in ("colspan", "rowspan")
