"""A Jupyter server extension for instructors: formgrader hands out submitted files as downloads.

nbgrader serves the files beside a submitted notebook as they are: an HTML file of a learner's would run its
scripts as the instructor who opens it. Images in a page are shown all the same.
"""

from __future__ import annotations

from typing import Any

from nbgrader.server_extensions.formgrader.handlers import (  # type: ignore[import-untyped]
    SubmissionFilesHandler,
)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "distlab.course.grade.downloads"}]


def _load_jupyter_server_extension(app: Any) -> None:
    # The method that tornado's StaticFileHandler offers for this; nbgrader has no setting for it.
    SubmissionFilesHandler.set_extra_headers = _as_download


def _as_download(handler: Any, path: str) -> None:
    handler.set_header("Content-Disposition", "attachment")
    handler.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
    handler.set_header("X-Content-Type-Options", "nosniff")
