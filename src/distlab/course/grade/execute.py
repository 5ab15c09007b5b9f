"""nbgrader's execution step, with the notebook's cells run by the grading service instead of here.

    c.Autograde.autograde_preprocessors = ["distlab.course.grade.execute.SandboxExecute", ...]

Only outputs and execution counts come back. Hidden tests run last, after everything that a learner's page
shows, so that no shown output can hold their text. A cell that did not finish carries an error: a test that
did not finish is worth 0 points, whatever was defined before.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from pathlib import Path
from typing import Any

from nbformat import from_dict
from nbformat.notebooknode import NotebookNode
from nbgrader import utils  # type: ignore[import-untyped]
from nbgrader.preprocessors import NbGraderPreprocessor  # type: ignore[import-untyped]
from traitlets import Float, Unicode

from distlab.course.grade.runner import MAX_FILES, MAX_FILES_BYTES
from distlab.course.labsource import is_hidden
from distlab.course.site import Site

NOT_FINISHED = "NotFinished"
"""The name of the error in cells that did not run to their end."""

SOCKET_ENV = "DISTLAB_GRADER_SOCKET"


class GraderUnavailable(Exception):  # noqa: N818 - what nbgrader prints before the message
    """The grading service does not answer, or cannot make a sandbox: nothing was graded."""


class SandboxExecute(NbGraderPreprocessor):  # type: ignore[misc]
    """Fill in the outputs of a notebook's code cells, run in a sandbox by the grading service."""

    socket = Unicode(
        help="The grading service's socket; default: DISTLAB_GRADER_SOCKET, else the site's."
    ).tag(config=True)
    cell_s = Float(60.0, help="Seconds that one cell may take.").tag(config=True)
    wall_s = Float(300.0, help="Seconds that the whole notebook may take.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        order = sorted(code, key=lambda cell: is_hidden(cell.source))
        for cell in code:
            cell.outputs, cell.execution_count = [], None
        path = resources.get("metadata", {}).get("path")
        files, refusal = _own_files(Path(path)) if path else ({}, "")
        if refusal:
            answer: dict[str, Any] = {"verdict": "refused", "message": refusal, "cells": []}
        else:
            answer = self._run([cell.source for cell in order], files)
        for cell, result in zip(order, answer["cells"], strict=False):
            cell.outputs = from_dict(result["outputs"])
            cell.execution_count = result["execution_count"]
            if utils.is_grade(cell):
                _settle(cell)
        for number, cell in enumerate(order[len(answer["cells"]) :]):
            stopped_here = number == 0
            cell.outputs = [
                _not_finished(answer["message"] if stopped_here else "Not run: the run ended before.")
            ]
        if answer["verdict"] != "ok":
            self.log.warning("The notebook did not run to its end (%s).", answer["verdict"])
        nb.metadata["distlab"] = from_dict({"verdict": answer["verdict"]})
        return nb, resources

    def _run(self, sources: list[str], files: dict[str, str]) -> dict[str, Any]:
        path = (
            self.socket or os.environ.get(SOCKET_ENV) or str(Site.from_env().grader_sockets / "grader.sock")
        )
        limits = {"cell_s": self.cell_s, "wall_s": self.wall_s}
        # Characters as they are: escaped, a submission could be larger than what the service takes.
        request = {"cells": sources, "files": files, "limits": limits}
        body = json.dumps(request, ensure_ascii=False).encode("utf-8", "replace")
        connection = UnixConnection(path)
        try:
            connection.request("POST", "/run", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GraderUnavailable(f"the grading service does not answer on {path}: {error}") from None
        finally:
            connection.close()
        if response.status != 200:
            raise GraderUnavailable(f"the grading service refused: {answer.get('error')}")
        return answer


def _settle(cell: NotebookNode) -> None:
    """Leave in a test's outputs only what nbgrader's rules for points should see.

    nbgrader takes any text on stderr (a library's warning) for a failure, and any result for a number of
    points: one that is too large stops grading for the whole submission.
    """
    kept = []
    points = float(cell.metadata.nbgrader.points)
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stderr":
            output.name = "stdout"
        if output.output_type == "execute_result":
            try:
                credit = float(output.data.get("text/plain", ""))
            except ValueError:
                output = from_dict({"output_type": "display_data", "data": output.data, "metadata": {}})
            else:
                if not 0 <= credit <= points:
                    continue
        kept.append(output)
    cell.outputs = kept


def _not_finished(message: str) -> NotebookNode:
    return NotebookNode(output_type="error", ename=NOT_FINISHED, evalue=message, traceback=[message])


def _own_files(folder: Path) -> tuple[dict[str, str], str]:
    """The files beside the notebook, by name; or why they cannot be taken along."""
    files: dict[str, str] = {}
    total = 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.suffix == ".ipynb":
            continue
        total += path.stat().st_size
        if total > MAX_FILES_BYTES or len(files) >= MAX_FILES:
            limit = f"{MAX_FILES} files and {MAX_FILES_BYTES // 2**20} MiB"
            return {}, f"Not run: the submission has more than {limit} beside the notebook."
        files[path.relative_to(folder).as_posix()] = base64.b64encode(path.read_bytes()).decode()
    return files, ""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. Reached through its folder: a socket's address holds about 100 bytes only."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self.path = Path(path)

    def connect(self) -> None:
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(f"/proc/self/fd/{folder}/{self.path.name}")
        finally:
            os.close(folder)
