"""The Hub's authenticator: right name, right password, admitted; nobody is ever a Hub admin through it."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from jupyterhub.auth import Authenticator  # type: ignore[import-untyped]
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, RequestHandler
from traitlets import Instance, default

from distlab.course.accounts import pages
from distlab.course.accounts.store import Account, Accounts, username_as_typed
from distlab.course.accounts.throttle import Throttle, source_of
from distlab.course.site import USERNAME, Site

P = ParamSpec("P")
R = TypeVar("R")

KNOWN_BROWSER = "distlab-browser"
"""Cookie of a browser in which someone signed in: `username:random`, signed by the Hub."""
KNOWN_BROWSER_DAYS = 180


class CourseAuthenticator(Authenticator):  # type: ignore[misc]
    """Accounts of `Accounts`, guesses slowed down by `Throttle`."""

    site = Instance(Site, help="The installation whose accounts these are.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.accounts = Accounts(self.site)
        self.throttle = Throttle()
        # bcrypt lets go of the interpreter's lock; two threads keep a rush of logins from taking every core.
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="accounts")

    @default("allow_all")
    def _everyone_with_an_account(self) -> bool:
        return True

    def validate_username(self, username: str) -> bool:
        return USERNAME.fullmatch(username) is not None

    def get_handlers(self, app: Any) -> list[Any]:
        return pages.HANDLERS

    async def authenticate(self, handler: RequestHandler, data: dict[str, str]) -> dict[str, Any] | None:
        username = username_as_typed(data.get("username", ""))
        account = await self.check_password(handler, username, data.get("password", ""))
        if account is None:
            return None
        if not account.admitted:
            raise HTTPError(
                403,
                "Your password is right, but your sign-up still waits to be admitted: try again later.",
            )
        self._remember_browser(handler, username)
        return {"name": account.username, "admin": False}

    async def check_password(self, handler: RequestHandler, username: str, password: str) -> Account | None:
        """The account, if this is its password; raises HTTP 429 where the next guess is not due yet."""
        # Names that nobody can have share one count: a made-up name a request must not fill the memory.
        counted = username if USERNAME.fullmatch(username) else ""
        source = self._source(handler, counted)
        self.take_turn(counted, source)
        account = await self.blocking(self.accounts.verify, counted, password)
        if account is not None:
            self.throttle.succeeded(counted, source)
        return account

    def take_turn(self, account: str | None, source: str) -> None:
        """Count an attempt as failed until `throttle.succeeded`; raises HTTP 429 where it comes too early."""
        wait_s = math.ceil(self.throttle.attempt(account, source))
        if wait_s:
            wait = f"{wait_s} seconds" if wait_s < 120 else f"{math.ceil(wait_s / 60)} minutes"
            error = HTTPError(429, f"Too many failed attempts. Try again in {wait}.")
            error.headers = {"Retry-After": str(wait_s)}  # type: ignore[attr-defined]  # read by the Hub
            raise error

    async def blocking(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run a method of the store in a worker thread."""
        return await IOLoop.current().run_in_executor(self._workers, lambda: work(*args, **kwargs))

    def address(self, handler: RequestHandler) -> str:
        """Where a request comes from; the Hub's own `remote_ip` believes an X-Real-Ip from anyone."""
        peer = handler.request.connection.context.address  # type: ignore[union-attr]
        return source_of(str(peer[0]) if peer else "", handler.request.headers.get_list("X-Forwarded-For"))

    def _source(self, handler: RequestHandler, username: str) -> str:
        """The source to count a login under: a browser in which this person signed in before is one.

        So that someone behind the same address (a campus, a proxy) cannot lock the person out either.
        """
        cookie = handler.get_signed_cookie(KNOWN_BROWSER, max_age_days=KNOWN_BROWSER_DAYS)
        known, _, browser = (cookie or b"").decode("utf-8", "replace").partition(":")
        return f"browser {browser}" if browser and known == username else self.address(handler)

    def _remember_browser(self, handler: RequestHandler, username: str) -> None:
        handler.set_signed_cookie(
            KNOWN_BROWSER,
            f"{username}:{secrets.token_hex(16)}",
            expires_days=KNOWN_BROWSER_DAYS,
            path=handler.settings["hub"].base_url,
            httponly=True,
            samesite="Lax",
            secure=handler.request.protocol == "https",
        )
