"""The grading service: grades submissions in sandboxes, for the instructors' servers.

python -m distlab.course.grade.runner

Managed by the Hub. Listens on `grader.sock` alone, in a folder that only instructors' sandboxes see. It keeps
nothing: who asks has the gradebook.

    POST /grade   a `Work` as JSON (`work.py`); it can ask for lower limits than the service's, not for higher
    200           its `Result`, after a space for every `BEAT_S` seconds that it took: who waits hears that it goes on
    400           {"error": ..., "status": 400}   the request is not of this form
    500           {"error": ..., "status": 500}   a fault of this service
    503           {"error": ..., "status": 503}   no sandbox can be made on this machine

After the first space the answer's own status is 200, and the one in it counts.
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

from tornado.iostream import StreamClosedError
from tornado.log import app_log
from tornado.web import Application, RequestHandler

from distlab.course.grade.children import Children, SandboxFailed
from distlab.course.grade.collected import MAX_FILES, MAX_FILES_BYTES
from distlab.course.grade.grader import grade
from distlab.course.grade.work import Limits, Work
from distlab.course.service import serve
from distlab.course.site import Site

MAX_BODY_BYTES = 64 * 1024 * 1024

BEAT_S = 5.0
"""Seconds between two signs of life."""


class BadRequest(Exception):  # noqa: N818 - named like the answer
    """The request is not of the form that the service takes."""


def make_app(limits: Limits, children: Children, concurrency: int) -> Application:
    """The service with at most `concurrency` submissions at a time; further requests wait their turn."""
    workers = ThreadPoolExecutor(concurrency, thread_name_prefix="grade")
    settings = {"limits": limits, "children": children, "workers": workers}
    return Application([("/grade", GradeHandler, settings)])


class GradeHandler(RequestHandler):
    """`POST /grade`."""

    def initialize(self, limits: Limits, children: Children, workers: ThreadPoolExecutor) -> None:
        self.limits, self.children, self.workers = limits, children, workers

    async def post(self) -> None:
        try:
            work = parse_work(self.request.body, self.limits)
        except BadRequest as error:
            self._refuse(400, str(error))
            return
        grading = asyncio.get_running_loop().run_in_executor(self.workers, grade, work, self.children)
        self.set_header("Content-Type", "application/json")
        while not (await asyncio.wait([grading], timeout=BEAT_S))[0]:
            self.write(" ")
            try:
                await self.flush()
            except StreamClosedError:  # nobody waits any more
                grading.cancel()  # what has not begun never does
                return
        try:
            self.finish(grading.result().to_json())
        except SandboxFailed as error:
            self._refuse(503, str(error))
        except Exception as error:
            app_log.exception("grading failed")
            self._refuse(500, f"{type(error).__name__}: {error}")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A fault of our own, as JSON, too; tornado logs its traceback."""
        self.finish({"error": self._reason, "status": status_code})

    def _refuse(self, status: int, message: str) -> None:
        if not self._headers_written:
            self.set_status(status)
        self.finish({"error": message, "status": status})


def parse_work(body: bytes, most: Limits) -> Work:
    """The work of a request, with limits that are nowhere above `most`. Raises `BadRequest`."""
    try:
        raw = json.loads(body)
        work = Work.from_json(raw)
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise BadRequest(f"not a work as JSON: {type(error).__name__}: {error}") from error
    if not all(isinstance(cell.source, str) and isinstance(cell.grade_id, str) for cell in work.cells):
        raise BadRequest("the source and the grade_id of a cell must be text")
    if not all(isinstance(name, str) for cell in work.cells for name in cell.keeps):
        raise BadRequest("what a cell keeps must be names")
    if not all(isinstance(source, str) for source in work.baseline):
        raise BadRequest("the cells of the baseline must be text")
    if len(work.files) > MAX_FILES:
        raise BadRequest(f"files must be at most {MAX_FILES}, not {len(work.files)}")
    for name, content in work.files.items():
        _check_file(name, content)
    if sum(map(len, work.files.values())) * 3 // 4 > MAX_FILES_BYTES:
        raise BadRequest(f"files are larger than {MAX_FILES_BYTES // 2**20} MiB together")
    return dataclasses.replace(work, limits=_lower(work.limits, most))


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


def _lower(wanted: Limits, most: Limits) -> Limits:
    lower = {}
    for field in dataclasses.fields(Limits):
        value = getattr(wanted, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise BadRequest(f"{field.name} must be a positive number, not {value!r}")
        lower[field.name] = min(value, getattr(most, field.name))
    return Limits(**lower)


def main() -> None:
    site = Site.from_env()
    site.grader_sockets.mkdir(mode=0o711, parents=True, exist_ok=True)
    with Children() as children:
        app = make_app(Limits(), children, concurrency=os.cpu_count() or 1)
        serve(app, site.grader_sockets / "grader.sock", MAX_BODY_BYTES)


if __name__ == "__main__":
    main()
