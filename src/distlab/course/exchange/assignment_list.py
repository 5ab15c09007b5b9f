"""nbgrader's Assignment List for JupyterLab, with errors of one sentence.

A Jupyter server extension, enabled in place of `nbgrader.server_extensions.assignment_list`, which shows a
traceback for a refused submission and advice about folders for an exchange that does not answer.
"""

from __future__ import annotations

from typing import Any

from nbgrader.server_extensions.assignment_list import handlers as stock  # type: ignore[import-untyped]

from distlab.course.exchange.plugin import Exchange


class PlainAssignmentList(stock.AssignmentList):  # type: ignore[misc]
    """nbgrader's own, but for the text of a failure."""

    def list_released_assignments(self, course_id: str | None = None) -> dict[str, Any]:
        return self._plain(super().list_released_assignments, course_id=course_id)

    def list_submitted_assignments(self, course_id: str | None = None) -> dict[str, Any]:
        return self._plain(super().list_submitted_assignments, course_id=course_id)

    def submit_assignment(self, course_id: str, assignment_id: str) -> dict[str, Any]:
        return self._plain(super().submit_assignment, course_id, assignment_id)

    @staticmethod
    def _plain(work: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        Exchange.last_failure = ""
        answer: dict[str, Any] = work(*args, **kwargs)
        if not answer["success"]:
            answer["value"] = Exchange.last_failure or "This failed; the server's log says why."
        return answer


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    stock.load_jupyter_server_extension(server)
    manager = PlainAssignmentList(parent=server)
    manager.root_dir = server.root_dir
    server.web_app.settings["assignment_list_manager"] = manager
