"""The grading service: runs submitted notebooks in sandboxes, for the instructors' nbgrader.

python -m distlab.course.grade.runner

Managed by the Hub. Listens on `grader.sock` alone, in a folder that only instructors' sandboxes see. Nothing
but the text of cells and the learner's own files comes here, nothing but outputs goes back: marks are made by
who asked.

    POST /run   {"cells": [source, ...], "files": {name: base64}, "limits": {"cell_s": 60, "wall_s": 300}}
    200         {"verdict": "ok", "message": "", "cells": [{"outputs": [...], "execution_count": 1}, ...]}
    400         {"error": ...}   the request is not of this form
    503         {"error": ...}   no sandbox can be made on this machine
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

from tornado.web import Application, RequestHandler

from distlab.course.grade.run import Limits, SandboxFailed, run_cells
from distlab.course.service import serve
from distlab.course.site import Site

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_FILES = 200
MAX_FILES_BYTES = 16 * 1024 * 1024


class BadRequest(Exception):  # noqa: N818 - named like the answer
    """The request is not of the form that the service takes."""


def make_app(limits: Limits, concurrency: int) -> Application:
    """The service with at most `concurrency` sandboxes at a time; further requests wait their turn."""
    # A sandbox dies with the thread that started it; these live as long as the service.
    workers = ThreadPoolExecutor(concurrency, thread_name_prefix="grade")
    return Application([("/run", RunHandler, {"limits": limits, "workers": workers})])


class RunHandler(RequestHandler):
    """`POST /run`."""

    def initialize(self, limits: Limits, workers: ThreadPoolExecutor) -> None:
        self.limits, self.workers = limits, workers

    async def post(self) -> None:
        try:
            sources, files, limits = parse_request(self.request.body, self.limits)
        except BadRequest as error:
            self._refuse(400, str(error))
            return
        loop = asyncio.get_running_loop()
        try:
            run = await loop.run_in_executor(self.workers, run_cells, sources, files, limits)
        except (SandboxFailed, OSError) as error:
            self._refuse(503, str(error))
            return
        self.finish(dataclasses.asdict(run))

    def _refuse(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish({"error": message})


def parse_request(body: bytes, limits: Limits) -> tuple[list[str], dict[str, str], Limits]:
    """Cells, files and limits of a request; it can ask for less time than the service gives, not for more."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"not JSON: {error}") from error
    if not isinstance(request, dict):
        raise BadRequest("not a JSON object")
    sources, files = request.get("cells"), request.get("files", {})
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        raise BadRequest("cells must be a list of strings")
    if not isinstance(files, dict) or len(files) > MAX_FILES:
        raise BadRequest(f"files must be an object of at most {MAX_FILES} names")
    for name, content in files.items():
        _check_file(name, content)
    if sum(map(len, files.values())) * 3 // 4 > MAX_FILES_BYTES:
        raise BadRequest(f"files are larger than {MAX_FILES_BYTES // 2**20} MiB together")
    return sources, files, _lower(limits, request.get("limits", {}))


def _check_file(name: str, content: Any) -> None:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or len(name) > 255:
        raise BadRequest(f"{name!r} is no file name below the notebook's folder")
    if not isinstance(content, str):
        raise BadRequest(f"the content of {name!r} must be base64")
    try:
        base64.b64decode(content, validate=True)
    except ValueError as error:
        raise BadRequest(f"the content of {name!r} must be base64") from error


def _lower(limits: Limits, wanted: Any) -> Limits:
    if not isinstance(wanted, dict) or not set(wanted) <= {"cell_s", "wall_s"}:
        raise BadRequest("limits must be an object of cell_s and wall_s")
    lower = {}
    for name, value in wanted.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise BadRequest(f"{name} must be a positive number of seconds, not {value!r}")
        lower[name] = min(float(value), getattr(limits, name))
    return dataclasses.replace(limits, **lower)


def main() -> None:
    site = Site.from_env()
    site.grader_sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
    # A lab's own processes need processors too: one sandbox for two of them.
    app = make_app(Limits(), concurrency=max(1, (os.cpu_count() or 1) // 2))
    serve(app, site.grader_sockets / "grader.sock", MAX_BODY_BYTES)


if __name__ == "__main__":
    main()
