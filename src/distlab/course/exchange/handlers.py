"""What the exchange answers.

Who asks is who the Hub says owns the token in `Authorization: token ...`, with the scopes that the token
carries: `custom:exchange:learn` reads what is released and one's own things and submits as oneself,
`custom:exchange:teach` releases, lists and collects all, and puts feedback.

    GET    /api/limits
    GET    /api/assignments                                        learn or teach
    GET    /api/assignments/<id>                                   learn or teach   -> bundle
    PUT    /api/assignments/<id>?replace=1                         teach            <- bundle
    DELETE /api/assignments/<id>                                   teach
    GET    /api/quizzes/<id>/<user>                                teach            the user's own cells, keys too
    GET    /api/submissions?user=&assignment=                      one's own; teach: all
    POST   /api/submissions/<id>?user=<self>                       learn            <- bundle
    GET    /api/submissions/<id>/<user>/<time>                     one's own; teach: all -> bundle
    PUT    /api/feedback/<id>/<user>/<time>/<notebook>             teach            <- bundle of one file
    GET    /api/feedback/<id>/<user>/<time>/<notebook>             the owner alone

Everything else is JSON. An error is `{"message": one sentence}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from jupyterhub.services.auth import HubAuth, check_scopes  # type: ignore[import-untyped]
from tornado import web

from distlab.course.exchange.bundle import MANIFEST_BYTES, Entry, Receiver, RefusedError, size
from distlab.course.exchange.store import Stage, Store, check_user, disk_may_be_full, notebooks
from distlab.course.quiz.bank import BankError
from distlab.course.quiz.own import Quizzes
from distlab.course.site import LEARN, REACH_EXCHANGE, TEACH

log = logging.getLogger(__name__)

TOKEN_CACHE_S = 30

P = ParamSpec("P")
R = TypeVar("R")


class Exchange:
    """What the handlers share."""

    def __init__(self, store: Store, quizzes: Quizzes) -> None:
        self.store = store
        self.quizzes = quizzes
        self.auth = HubAuth(cache_max_age=TOKEN_CACHE_S)
        self.uploads = asyncio.Semaphore(store.limits.uploads)
        self.uploads_of: Counter[str] = Counter()


@web.stream_request_body  # so that no body is ever collected in memory
class Handler(web.RequestHandler):
    """Knows who asks before a byte of the body is read; answers in JSON."""

    exchange: Exchange
    user: str
    scopes: frozenset[str]

    def initialize(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.store = exchange.store

    def set_default_headers(self) -> None:
        # Learners' bytes pass through here: no browser may ever render them.
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    async def prepare(self) -> None:
        scheme, _, token = self.request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer") or not token:
            raise RefusedError("The exchange needs the Hub's token of your server; restart your server.", 401)
        try:
            model = await self.exchange.auth.user_for_token(token, sync=False)
        except web.HTTPError:  # HubAuth has logged why, without the token
            raise RefusedError("The exchange cannot ask the Hub who you are; try again soon.", 503) from None
        if model is None:
            raise RefusedError("The Hub does not know your server's token; restart your server.", 401)
        self.scopes = frozenset(model["scopes"])
        if model["kind"] != "user" or not check_scopes({REACH_EXCHANGE}, self.scopes):
            raise RefusedError("Your account may not use the exchange; ask the instructor.", 403)
        self.user = model["name"]

    def data_received(self, chunk: bytes) -> None:
        """Drop the body of a request that should have none."""

    def need(self, *any_of: str) -> None:
        if not self.scopes.intersection(any_of):
            raise RefusedError(f"{self.user} may not do this; it needs the scope {' or '.join(any_of)}.", 403)

    def need_own_or_teach(self, user: str | None) -> None:
        if user == self.user and LEARN in self.scopes:
            return
        if TEACH not in self.scopes:
            raise RefusedError(f"{self.user} may see only their own submissions.", 403)

    async def on_disk(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work aside, so that others are answered meanwhile."""
        return await asyncio.to_thread(work, *args, **kwargs)

    def answer(self, value: object, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value, ensure_ascii=False))

    async def send_bundle(self, folder: Path, instead: Mapping[str, bytes] = MappingProxyType({})) -> None:
        with await self.on_disk(self.store.content, folder, instead) as bundle:
            self.set_header("Content-Type", "application/octet-stream")
            self.set_header("Content-Length", str(len(bundle)))
            for chunk in bundle:
                self.write(chunk)
                await self.flush()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        fault = kwargs.get("exc_info", (None, None))[1]
        if isinstance(fault, RefusedError):
            self.answer({"message": str(fault)}, fault.status)
        elif status_code == 404:
            self.answer({"message": f"The exchange has nothing at {self.request.path[:200]}."}, 404)
        else:
            message = f"The exchange failed ({status_code}); its log says why. Tell the instructor."
            self.answer({"message": message}, status_code)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if isinstance(value, RefusedError):
            log.info("%s %s: %s", self.request.method, self.request.path, value)
        else:
            super().log_exception(typ, value, tb)


class LimitsHandler(Handler):
    def get(self) -> None:
        self.answer(asdict(self.store.limits))


class AssignmentsHandler(Handler):
    async def get(self) -> None:
        self.need(LEARN, TEACH)
        self.answer(await self.on_disk(self._list))

    def _list(self) -> list[dict[str, object]]:
        listed: list[dict[str, object]] = []
        for assignment in self.store.released():
            names = [Entry(path.name, 0, "") for path in self.store.assignment(assignment).iterdir()]
            listed.append({"assignment_id": assignment, "notebooks": notebooks(names)})
        return listed


class SubmissionsHandler(Handler):
    async def get(self) -> None:
        user = self.get_query_argument("user", None)
        if user is None and TEACH not in self.scopes:
            user = self.user
        self.need_own_or_teach(user)
        self.answer(await self.on_disk(self._list, user, self.get_query_argument("assignment", None)))

    def _list(self, user: str | None, assignment: str | None) -> list[dict[str, object]]:
        return [
            {**asdict(receipt), "feedback": self.store.feedback_sha256(folder)}
            for folder, receipt in self.store.submissions(user, assignment).items()
        ]


class SubmissionHandler(Handler):
    async def get(self, assignment: str, user: str, timestamp: str) -> None:
        self.need_own_or_teach(user)
        await self.send_bundle(await self.on_disk(self.store.submission, user, assignment, timestamp))


class UploadHandler(Handler):
    """Receives a bundle into a stage while it arrives; `entries()` gives its files once it is whole."""

    stage: Stage | None = None
    receiver: Receiver | None = None
    fault: Exception | None = None
    counted = waited = storing = False

    async def prepare(self) -> None:
        try:
            await self.admit()
        except RefusedError as fault:
            self.fault = fault

    async def admit(self) -> None:
        """Find out who sends, whether they may, and wait for their turn; nothing of the body is read yet."""
        limits = self.store.limits
        await super().prepare()
        await self.check()
        length = self.request.headers.get("Content-Length", "")
        if length.isdecimal() and int(length) > limits.upload_bytes + MANIFEST_BYTES:
            raise RefusedError(f"The upload has more than {size(limits.upload_bytes)}.", 413)
        if self.exchange.uploads_of[self.user] >= limits.uploads_per_user:
            raise RefusedError("Your other uploads are still under way; wait until they are done.", 429)
        self.exchange.uploads_of[self.user] += 1
        self.counted = True
        try:
            await asyncio.wait_for(self.exchange.uploads.acquire(), limits.upload_s)
        except TimeoutError:
            raise RefusedError("Too many others are sending just now; try again in a minute.", 503) from None
        self.waited = True
        with disk_may_be_full("your upload"):
            self.stage = await self.on_disk(self.store.stage)
        self.receiver = Receiver(self.stage.content, limits)

    async def check(self) -> None:
        """Refuse what can be refused before a byte of the body is read."""
        raise NotImplementedError

    def data_received(self, chunk: bytes) -> None:
        # After a fault the rest is dropped: a sender reads no answer before all is sent.
        if self.receiver is None or self.fault is not None:
            return
        try:
            with disk_may_be_full("your upload"):
                self.receiver.feed(chunk)
        except (RefusedError, OSError) as fault:
            self.fault = fault

    async def store_upload(self, work: Callable[[Stage, list[Entry]], R]) -> R:
        """Run `work` on what arrived, if it arrived whole; afterwards the stage is gone."""
        self.storing = True
        try:
            if self.fault is not None:
                raise self.fault
            assert self.stage is not None
            assert self.receiver is not None
            return await self.on_disk(work, self.stage, self.receiver.finish())
        finally:
            self.storing = False
            self.release_all()

    def on_finish(self) -> None:
        self.release_all()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self.storing:  # else `store_upload` does it
            self.release_all()

    def release_all(self) -> None:
        """Give back what the upload holds; a second call does nothing."""
        if self.receiver is not None:
            self.receiver.close()
            self.receiver = None
        if self.stage is not None:
            self.stage.close()
            self.stage = None
        if self.waited:
            self.exchange.uploads.release()
            self.waited = False
        if self.counted:
            self.exchange.uploads_of[self.user] -= 1
            self.counted = False


class TeachersUploadHandler(UploadHandler):
    """Only PUT has a body, and only who teaches sends one."""

    async def prepare(self) -> None:
        if self.request.method == "PUT":
            await super().prepare()
        else:
            await Handler.prepare(self)

    async def check(self) -> None:
        self.need(TEACH)


class AssignmentHandler(TeachersUploadHandler):
    """One assignment; of a quiz, everyone gets their own."""

    async def get(self, assignment: str) -> None:
        self.need(LEARN, TEACH)
        folder = await self.on_disk(self.store.assignment, assignment)
        own = await self.on_disk(self.exchange.quizzes.own_files, assignment, self.user, folder)
        await self.send_bundle(folder, own)

    async def put(self, assignment: str) -> None:
        replace = self.get_query_argument("replace", "") == "1"
        await self.store_upload(
            lambda stage, entries: self.store.release(stage, assignment, entries, replace=replace)
        )
        log.info("%s released %s", self.user, assignment)
        self.answer({"assignment_id": assignment}, 201)

    async def delete(self, assignment: str) -> None:
        self.need(TEACH)
        await self.on_disk(self.store.unrelease, assignment)
        log.info("%s withdrew %s", self.user, assignment)
        self.answer({"assignment_id": assignment})


class QuizHandler(Handler):
    """The texts and hidden tests of one learner's quiz, for whoever grades it."""

    async def get(self, quiz: str, user: str) -> None:
        self.need(TEACH)
        check_user(user)
        try:
            self.answer(await self.on_disk(self.exchange.quizzes.quiz_cells, quiz, user))
        except BankError as error:
            raise RefusedError(f"There are no questions of {ascii(quiz)[:80]}: {error}.", 404) from None


class SubmitHandler(UploadHandler):
    async def check(self) -> None:
        self.need(LEARN)
        named = self.get_query_argument("user", self.user)
        if named != self.user:
            raise RefusedError(f"{self.user} may not submit as {ascii(named)[:40]}.", 403)
        await self.on_disk(self.store.check_may_submit, self.user, self.path_args[0])

    async def post(self, assignment: str) -> None:
        receipt = await self.store_upload(
            lambda stage, entries: self.store.submit(stage, self.user, assignment, entries)
        )
        log.info(
            "%s submitted %s at %s, sha256 %s", *(self.user, assignment, receipt.timestamp, receipt.sha256)
        )
        self.answer(asdict(receipt), 201)


class FeedbackHandler(TeachersUploadHandler):
    """The feedback on one notebook of one submission."""

    async def get(self, assignment: str, user: str, timestamp: str, notebook: str) -> None:
        self.need(LEARN)
        if user != self.user:
            raise RefusedError(f"{self.user} may see only their own feedback.", 403)
        try:
            content = await self.on_disk(self._read, user, assignment, timestamp, notebook)
        except FileNotFoundError:
            raise RefusedError(f"There is no feedback on {ascii(notebook)[:80]} yet.", 404) from None
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Disposition", "attachment")
        await self.finish(content)

    def _read(self, user: str, assignment: str, timestamp: str, notebook: str) -> bytes:
        submission = self.store.submission(user, assignment, timestamp)
        return self.store.feedback_file(submission, notebook).read_bytes()

    async def put(self, assignment: str, user: str, timestamp: str, notebook: str) -> None:
        def put(stage: Stage, entries: list[Entry]) -> None:
            if [entry.path for entry in entries] != ["feedback.html"]:
                raise RefusedError('Feedback is one file named "feedback.html".')
            submission = self.store.submission(user, assignment, timestamp)
            self.store.put_feedback(stage, "feedback.html", submission, notebook)

        await self.store_upload(put)
        log.info("%s put feedback on %s of %s at %s", self.user, assignment, user, timestamp)
        self.answer({}, 201)


class NothingHandler(Handler):
    async def prepare(self) -> None:
        await super().prepare()
        raise web.HTTPError(404)


def make_app(exchange: Exchange) -> web.Application:
    part = "([^/]+)"
    routes: Iterable[tuple[str, type[Handler]]] = (
        ("/api/limits", LimitsHandler),
        ("/api/assignments", AssignmentsHandler),
        (f"/api/assignments/{part}", AssignmentHandler),
        (f"/api/quizzes/{part}/{part}", QuizHandler),
        ("/api/submissions", SubmissionsHandler),
        (f"/api/submissions/{part}", SubmitHandler),
        (f"/api/submissions/{part}/{part}/{part}", SubmissionHandler),
        (f"/api/feedback/{part}/{part}/{part}/{part}", FeedbackHandler),
        (".*", NothingHandler),
    )
    return web.Application(
        [(path, handler, {"exchange": exchange}) for path, handler in routes], log_function=log_request
    )


def log_request(handler: web.RequestHandler) -> None:
    """Without the query, in which somebody may have put a token."""
    request, who = handler.request, getattr(handler, "user", "?")
    time_ms = 1000 * request.request_time()
    log.info("%d %s %s %s %.0f ms", handler.get_status(), who, request.method, request.path, time_ms)
