"""What the configuration files in `learner/` and `instructor/` set; each calls one function from here.

The environment must carry TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR=1: without it nbgrader logs a
configuration that does not load, and goes on without.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nbgrader.preprocessors import Execute  # type: ignore[import-untyped]

from distlab.course.exchange import plugin
from distlab.course.grade.formgrader import TEMPLATES
from distlab.course.site import COURSE_ENV, INSIDE_COURSE

EXTENSIONS = {
    "nbgrader.server_extensions.assignment_list": False,
    "distlab.course.exchange.assignment_list": True,  # the same, with errors in one sentence
    "nbgrader.server_extensions.validate_assignment": True,
    "nbgrader.server_extensions.formgrader": False,
    "nbgrader.server_extensions.course_list": False,
    "distlab.course.open_lab": True,
    "distlab.course.telemetry": True,
    "jupyter_server_proxy": False,  # it would lead to every port of the sandbox: see distlab.course.telemetry
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
    stderr_is_no_failure()


def instructor_server(c: Any) -> None:
    """An instructor's server: formgrader over the course directory."""
    c.ServerApp.jpserver_extensions = {
        **EXTENSIONS,
        "distlab.course.grade.formgrader": True,
    }
    c.ServerApp.root_dir = str(course_directory())
    # A kernel starts beside its notebook: to open a submission must not run a module that lies there, such as
    # one named like the kernel's own.
    os.environ["PYTHONSAFEPATH"] = "1"
    c.ServerApp.tornado_settings = {"headers": {"Content-Security-Policy": INSTRUCTOR_CSP}}
    _quiet_lab(c)


def instructor_nbgrader(c: Any) -> None:
    """nbgrader as instructors have it: submissions restored, run in a sandbox, shown sanitised."""
    plugin.configure(c)
    c.CourseDirectory.root = str(course_directory())
    c.Execute.timeout = VALIDATE_CELL_S
    stderr_is_no_failure()

    from distlab.course.grade import autograde  # the coordinator: of no use to learners' servers

    autograde.install()

    c.GenerateFeedback.preprocessors = [
        "nbgrader.preprocessors.GetGrades",
        "distlab.course.grade.pages.OmitHiddenTests",
        "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
    ]
    c.HTMLExporter.sanitize_html = True
    c.HTMLExporter.filters = {"markdown2html": "distlab.course.grade.pages.safe_markdown"}
    c.HTMLExporter.extra_template_basedirs = TEMPLATES
    c.HTMLExporter.template_file = "page.html.j2"  # ours, which extend nbgrader's `index.html.j2`
    # The configuration holds paths of this site; formgrader would show it.
    c.FormgradeExtension.debug = False


def course_directory() -> Path:
    return Path(os.environ.get(COURSE_ENV, INSIDE_COURSE))


def stderr_is_no_failure() -> None:
    """nbgrader's Validate takes any text on stderr for a failed test: a library's warning, a backend's greeting.

    It offers no setting for this: its preprocessors are fixed, and the one that runs cells overrides the hook
    that nbclient has for it.
    """
    Execute.on_cell_executed = _on_cell_executed


_nbgraders_on_cell_executed = Execute.on_cell_executed


def _on_cell_executed(execute: Execute, **arguments: Any) -> None:
    _nbgraders_on_cell_executed(execute, **arguments)
    for output in arguments["cell"].outputs:
        if output.output_type == "stream" and output.name == "stderr":
            output.name = "stdout"


def _quiet_lab(c: Any) -> None:
    """JupyterLab without what asks another host, and without popups about it."""
    c.LabApp.news_url = None
    c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
    c.LabApp.extension_manager = "readonly"
