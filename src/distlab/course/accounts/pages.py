"""The pages about accounts: sign in, sign up, one-time link, change of password, enrolment."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub import orm  # type: ignore[import-untyped]
from jupyterhub.handlers.base import BaseHandler  # type: ignore[import-untyped]
from jupyterhub.handlers.login import LoginHandler  # type: ignore[import-untyped]
from tornado import web
from tornado.httputil import url_concat

from distlab.course.accounts.files import ensure_enrolment_code, instructor_password_file, is_enrolment_code
from distlab.course.accounts.roster import link
from distlab.course.accounts.rules import PASSWORD_MAX, PASSWORD_MIN, AccountError
from distlab.course.site import INSTRUCTORS, USERNAME

TEMPLATES = Path(__file__).parents[1] / "templates"


def content_security_policy(subdomain_host: str, inline: bool) -> str:
    """What a page of the Hub may load: from the Hub itself, nothing from another host.

    Args:
        subdomain_host: the site's address; a login may end at a learner's server on a host name below it, and
            browsers hold the redirects after a form to `form-action` too.
        inline: whether the page has scripts and styles within it, as JupyterHub's own pages do.
    """
    also = " 'unsafe-inline'" if inline else ""
    below = f" {subdomain_host.replace('://', '://*.', 1)}" if subdomain_host else ""
    policy = [
        "default-src 'none'",
        f"script-src 'self'{also}",
        f"style-src 'self'{also}",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        f"form-action 'self'{below}",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
    return "; ".join(policy)


class _Guarded:
    """Mixed into a handler of the Hub: the site's own host name, the strict headers, nothing kept by caches."""

    async def prepare(self: Any) -> None:
        """Answer under the site's own name alone.

        The proxy leads every name to the Hub. On `alice.localhost` Alice's pages could read what is typed into
        this one, and act with the session that it begins.
        """
        await super().prepare()  # type: ignore[misc]
        if not self.subdomain_host or self.request.host_name == urlsplit(self.subdomain_host).hostname:
            return
        if self.request.method not in ("GET", "HEAD"):
            raise web.HTTPError(403, f"This site is at {self.subdomain_host}: open the page there.")
        self.redirect(self.subdomain_host + self.request.uri)

    def set_default_headers(self: Any) -> None:
        super().set_default_headers()  # type: ignore[misc]
        self.set_header("Content-Security-Policy", content_security_policy(self.subdomain_host, inline=False))
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")


class SignIn(_Guarded, LoginHandler):  # type: ignore[misc]
    """JupyterHub's login with our template, and a note after a sign-up or a new password."""

    def _render(self, login_error: str | None = None, username: str | None = None, **kwargs: Any) -> Any:
        return super()._render(
            login_error=login_error,
            username=username,
            welcome=self.get_query_argument("welcome", "") == "1",
            **kwargs,
        )

    async def post(self) -> None:
        for name in ("username", "password"):
            self.get_body_argument(name)
        await super().post()


class Page(_Guarded, BaseHandler):  # type: ignore[misc]
    """A page of ours."""

    def check_xsrf_cookie(self) -> None:
        try:
            super().check_xsrf_cookie()
        except web.HTTPError as error:
            self.log.warning("Refused a form: %s", error)
            raise web.HTTPError(
                403, "This form was not sent from its page, or the page is too old: open it again and repeat."
            ) from error

    async def show(self, template: str, status: int = 200, **values: Any) -> None:
        self.set_status(status)
        self.finish(await self.render_template(template, **values))

    def field(self, name: str) -> str:
        return str(self.get_body_argument(name, "", strip=False))

    def new_password(self) -> str:
        """The password that was typed twice."""
        if self.field("password") != self.field("password_again"):
            raise AccountError("The two passwords differ: type the same one twice.")
        return self.field("password")

    def to_sign_in(self, username: str) -> None:
        """Go on to the login page, which keeps `next` and says that the account is ready."""
        ready = {"username": username, "welcome": "1"}
        if self.get_argument("next", ""):
            ready["next"] = self.get_argument("next")
        self.redirect(url_concat(self.settings["login_url"], ready), status=303)

    def end_sessions(self, username: str, keep: str | None = None) -> None:
        """Void a user's cookies and browser tokens, except those of the session `keep`."""
        user = self.find_user(username)
        if user is None:
            return
        user.orm_user.cookie_id = orm.new_token()
        tokens = self.db.query(orm.APIToken).filter(
            orm.APIToken.user_id == user.id, orm.APIToken.session_id.is_not(None)
        )
        for token in tokens:
            if token.session_id != keep:
                self.db.delete(token)
        self.db.commit()


class SignUp(Page):
    """Make an account: with the enrolment code admitted at once, without it waiting for the instructor."""

    async def get(self) -> None:
        if self.current_user:
            self.redirect(self.get_next_url(self.current_user))
            return
        await self._show()

    async def post(self) -> None:
        source = self.authenticator.address(self)
        username = self.get_body_argument("username", "")
        code = self.field("code")
        try:
            self.authenticator.take_turn(None, source)
            admitted = bool(code.strip())
            if admitted and not is_enrolment_code(self.authenticator.site, code):
                raise AccountError(
                    "The enrolment code is not right: check it, or leave it out and wait to be admitted."
                )
            if self.find_user(username) is not None:
                raise AccountError(f"The user name {username!r} is taken: choose another.")
            await self.authenticator.blocking(
                self.authenticator.accounts.sign_up,
                username,
                self.new_password(),
                full_name=self.field("full_name"),
                email=self.field("email"),
                admitted=admitted,
            )
        except AccountError as error:
            await self._show(400, error=str(error))
        except web.HTTPError as error:
            if error.status_code != 429:
                raise
            await self._show(429, error=error.log_message)
        else:
            if admitted:
                self.authenticator.throttle.succeeded(None, source)
                self.to_sign_in(username)
            else:
                await self.show("waiting.html", username=username, next=self.get_argument("next", ""))

    async def _show(self, status: int = 200, error: str | None = None) -> None:
        await self.show(
            "signup.html",
            status,
            error=error,
            next=self.get_argument("next", ""),
            typed={name: self.field(name) for name in ("username", "full_name", "email", "code")},
            password_min=PASSWORD_MIN,
            password_max=PASSWORD_MAX,
        )


class Invitation(Page):
    """Choose the password of an account from a roster, or a new one, by a one-time link."""

    async def get(self) -> None:
        token = self.get_query_argument("token", "")
        username = await self.authenticator.blocking(self.authenticator.accounts.invited, token)
        await self._show(token, username, 200 if username else 404)

    async def post(self) -> None:
        token, username = self.field("token"), None
        source = self.authenticator.address(self)
        self.authenticator.take_turn(None, source)
        try:
            username = await self.authenticator.blocking(self.authenticator.accounts.invited, token)
            await self.authenticator.blocking(
                self.authenticator.accounts.accept_invitation, token, self.new_password()
            )
        except AccountError as error:
            await self._show(token, username, 400, str(error))
        else:
            self.authenticator.throttle.succeeded(None, source)
            self.end_sessions(username)
            self.to_sign_in(username)

    async def _show(self, token: str, username: str | None, status: int, error: str | None = None) -> None:
        # The address of this page opens the account: no other page may learn it.
        self.set_header("Referrer-Policy", "no-referrer")
        await self.show(
            "invitation.html",
            status,
            error=error,
            token=token,
            invited=username,
            password_min=PASSWORD_MIN,
            password_max=PASSWORD_MAX,
        )


class ChangePassword(Page):
    """Change one's own password; no page changes another's."""

    @web.authenticated
    async def get(self) -> None:
        await self._show()

    @web.authenticated
    async def post(self) -> None:
        user, authenticator = self.current_user, self.authenticator
        try:
            account = await authenticator.check_password(self, user.name, self.field("old_password"))
            if account is None:
                raise AccountError("The present password is not right.")
            await authenticator.blocking(
                authenticator.accounts.change_password, user.name, self.new_password()
            )
        except AccountError as error:
            await self._show(400, error=str(error))
        except web.HTTPError as error:
            if error.status_code != 429:
                raise
            await self._show(429, error=error.log_message)
        else:
            if account.instructor:
                instructor_password_file(authenticator.site, user.name).unlink(missing_ok=True)
            self.end_sessions(user.name, keep=self.get_session_cookie())
            self.set_login_cookie(user)
            await self._show(changed=True)

    async def _show(self, status: int = 200, error: str | None = None, changed: bool = False) -> None:
        await self.show(
            "password.html",
            status,
            error=error,
            changed=changed,
            password_min=PASSWORD_MIN,
            password_max=PASSWORD_MAX,
        )


class Enrolment(Page):
    """Who waits to be admitted; instructors admit or refuse, and help who forgot the password."""

    @web.authenticated
    async def get(self) -> None:
        self._only_instructors()
        await self._show(
            done={
                outcome: name
                for outcome in ("admitted", "refused", "gone")
                if USERNAME.fullmatch(name := self.get_query_argument(outcome, ""))
            }
        )

    @web.authenticated
    async def post(self) -> None:
        self._only_instructors()
        username, action = self.get_body_argument("username"), self.get_body_argument("action")
        if action == "link":
            await self._make_link(username)
            return
        accounts = self.authenticator.accounts
        actions = {"admit": (accounts.admit, "admitted"), "refuse": (accounts.refuse, "refused")}
        if action not in actions or not USERNAME.fullmatch(username):
            raise web.HTTPError(400, "The form asks for neither admit nor refuse of a user name.")
        work, outcome = actions[action]
        happened = await self.authenticator.blocking(work, username)
        if happened:
            self.log.info("%s: %s %s", self.current_user.name, outcome, username)
        self.redirect(
            url_concat(self.hub.base_url + "enrolment", {outcome if happened else "gone": username}),
            status=303,
        )

    async def _make_link(self, username: str) -> None:
        try:
            token = await self.authenticator.blocking(self.authenticator.accounts.reset_link, username)
        except AccountError as error:
            await self._show(400, error=str(error))
        else:
            self.log.info("%s: made a password link for %s", self.current_user.name, username)
            await self._show(link=link(self.authenticator.site, token), link_for=username)

    async def _show(self, status: int = 200, done: dict[str, str] | None = None, **values: str) -> None:
        site = self.authenticator.site
        await self.show(
            "enrolment.html",
            status,
            waiting=await self.authenticator.blocking(self.authenticator.accounts.pending),
            code=ensure_enrolment_code(site).read_text(encoding="utf-8").strip(),
            done=done or {},
            **values,
        )

    def _only_instructors(self) -> None:
        if all(group.name != INSTRUCTORS for group in self.current_user.groups):
            raise web.HTTPError(403, "This page is for instructors.")


HANDLERS: list[Any] = [
    (r"/login", SignIn),
    (r"/signup", SignUp),
    (r"/invitation", Invitation),
    (r"/change-password", ChangePassword),
    (r"/enrolment", Enrolment),
    (r"/look/(.*)", web.StaticFileHandler, {"path": str(TEMPLATES / "look")}),
]
