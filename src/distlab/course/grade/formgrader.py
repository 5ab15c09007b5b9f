"""A Jupyter server extension for instructors: nbgrader's formgrader, closed to what submissions bring along.

Takes the place of `nbgrader.server_extensions.formgrader`, which sets its own template folder over the
configured one (MathJax from another host), and serves the files beside a submitted notebook as they are: an
HTML file of a learner's would run its scripts as the instructor who opens it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbgrader  # type: ignore[import-untyped]
from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader
from nbgrader.server_extensions.formgrader.formgrader import (  # type: ignore[import-untyped]
    FormgradeExtension,
)
from nbgrader.server_extensions.formgrader.handlers import (  # type: ignore[import-untyped]
    SubmissionFilesHandler,
    template_path,
)
from traitlets.config import Config

from distlab.course.grade.commands import actor
from distlab.course.grade.gradebook import sign_changes

TEMPLATES = [
    str(Path(__file__).parent / "templates"),
    str(Path(nbgrader.__file__).parent / "server_extensions" / "formgrader" / "templates"),
]
"""Ours come first; what they leave is nbgrader's."""


class Formgrader(FormgradeExtension):  # type: ignore[misc]
    """Formgrader with pages that ask no other host, and that show a thousand submissions in less than a second."""

    def build_extra_config(self) -> Config:
        config: Config = super().build_extra_config()
        config.HTMLExporter.extra_template_basedirs = TEMPLATES
        return config

    def init_tornado_settings(self, webapp: Any) -> None:
        super().init_tornado_settings(webapp)
        theirs = FileSystemLoader(template_path)
        ours = FileSystemLoader(Path(__file__).parent / "templates" / "pages")
        webapp.settings["nbgrader_jinja2_env"].loader = ChoiceLoader(
            [ours, theirs, PrefixLoader({"nbgrader": theirs})]  # the last: what ours extend
        )


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    sign_changes(actor())
    # The method that tornado's StaticFileHandler offers for headers; nbgrader has no setting for it.
    SubmissionFilesHandler.set_extra_headers = _as_download
    formgrader = Formgrader(parent=server)
    formgrader.root_dir = server.root_dir
    formgrader.log = server.log
    formgrader.initialize([])
    formgrader.init_tornado_settings(server.web_app)
    formgrader.init_handlers(server.web_app)


def _as_download(handler: Any, path: str) -> None:
    """An image in a page is shown all the same; a page of the learner's own is not."""
    handler.set_header("Content-Disposition", "attachment")
    handler.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
    handler.set_header("X-Content-Type-Options", "nosniff")
