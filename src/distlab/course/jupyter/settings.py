"""What the configuration files in `learner/` and `instructor/` set; each calls one function from here.

The environment must carry TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR=1: without it nbgrader logs a
configuration that does not load, and goes on without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbgrader  # type: ignore[import-untyped]
from nbformat.notebooknode import NotebookNode

from distlab.course.exchange import plugin
from distlab.course.grade.execute import SOCKET_ENV
from distlab.course.site import INSIDE_COURSE

COURSE_ENV = "DISTLAB_COURSE"
"""Where the course directory lies, if not at INSIDE_COURSE: for an operator outside the sandboxes."""

INSIDE_GRADER_SOCKET = "/run/grader/grader.sock"

TEMPLATES = [
    str(Path(__file__).parents[1] / "grade" / "templates"),
    str(Path(nbgrader.__file__).parent / "server_extensions" / "formgrader" / "templates"),
]

EXTENSIONS = {
    "nbgrader.server_extensions.assignment_list": False,
    "distlab.course.exchange.assignment_list": True,  # the same, with errors in one sentence
    "nbgrader.server_extensions.validate_assignment": True,
    "nbgrader.server_extensions.formgrader": False,
    "nbgrader.server_extensions.course_list": False,
    "distlab.course.open_lab": True,
}

VALIDATE_CELL_S = 120
"""Seconds that a cell may take when a learner validates a notebook."""

INSTRUCTOR_CSP = "; ".join(
    (
        "default-src 'self'",
        # JupyterLab and nbgrader's pages hold inline scripts.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "frame-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
"""A submission shown in formgrader can send nothing to another host."""


def learner_server(c: Any) -> None:
    """A learner's server: assignment list, validate, open-lab."""
    c.ServerApp.jpserver_extensions = dict(EXTENSIONS)
    _quiet_lab(c)


def learner_nbgrader(c: Any) -> None:
    """nbgrader as learners have it: fetch, submit, list, feedback through the exchange; validate."""
    plugin.configure(c)
    c.Execute.timeout = VALIDATE_CELL_S
    c.Execute.on_cell_complete = stderr_is_no_failure


def instructor_server(c: Any) -> None:
    """An instructor's server: formgrader over the course directory."""
    c.ServerApp.jpserver_extensions = {
        **EXTENSIONS,
        "nbgrader.server_extensions.formgrader": True,
        "distlab.course.grade.downloads": True,
    }
    c.ServerApp.root_dir = str(course_directory())
    c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": INSTRUCTOR_CSP}}
    _quiet_lab(c)


def instructor_nbgrader(c: Any) -> None:
    """nbgrader as instructors have it: submissions restored, run in a sandbox, shown sanitised."""
    plugin.configure(c)
    c.CourseDirectory.root = str(course_directory())
    c.Execute.timeout = VALIDATE_CELL_S
    c.Execute.on_cell_complete = stderr_is_no_failure

    c.Autograde.exporter_class = "distlab.course.grade.submission.SubmissionExporter"
    c.Autograde.sanitize_preprocessors = [
        "nbgrader.preprocessors.ClearOutput",
        "distlab.course.grade.submission.RestoreCells",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    c.Autograde.autograde_preprocessors = [
        "distlab.course.grade.execute.SandboxExecute",
        "nbgrader.preprocessors.LimitOutput",
        "nbgrader.preprocessors.SaveAutoGrades",
        "nbgrader.preprocessors.AssignLatePenalties",
        "nbgrader.preprocessors.CheckCellMetadata",
    ]
    c.SandboxExecute.socket = os.environ.get(SOCKET_ENV, INSIDE_GRADER_SOCKET)

    c.GenerateFeedback.preprocessors = [
        "nbgrader.preprocessors.GetGrades",
        "distlab.course.grade.pages.OmitHiddenTests",
        "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
    ]
    c.HTMLExporter.sanitize_html = True
    c.HTMLExporter.filters = {"markdown2html": "distlab.course.grade.pages.safe_markdown"}
    c.HTMLExporter.extra_template_basedirs = TEMPLATES
    # The configuration holds paths of this site; formgrader would show it.
    c.FormgradeExtension.debug = False


def course_directory() -> Path:
    return Path(os.environ.get(COURSE_ENV, INSIDE_COURSE))


def stderr_is_no_failure(cell: NotebookNode, cell_index: int) -> None:
    """nbgrader takes any text on stderr for a failed test: a library's warning, a backend's greeting."""
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stderr":
            output.name = "stdout"


def _quiet_lab(c: Any) -> None:
    """JupyterLab without what asks another host, and without popups about it."""
    c.LabApp.news_url = None
    c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
    c.LabApp.extension_manager = "readonly"
