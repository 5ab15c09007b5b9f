"""`/hub/progress`: how far the learner who is signed in is; for instructors, how far all are.

In the Hub's configuration, `c.JupyterHub.extra_handlers = progress_handlers(site)`. A page of the Hub's own, because
everything that it needs is there: who is signed in, who teaches, the exchange's files and the homes. A service of its
own would have to be told all of that over another interface, and would need a second sign-in.

    /hub/progress          one's own; for instructors the table of all learners
    /hub/progress/NAME     one learner's, for that learner and for instructors
    /hub/api/progress      the same as JSON for `distlab course progress`, by a server's token; ?learner=NAME
"""

from __future__ import annotations

import asyncio
from typing import Any

from jupyterhub.apihandlers.base import APIHandler  # type: ignore[import-untyped]
from tornado.web import HTTPError, authenticated

from distlab.course.accounts.pages import Page
from distlab.course.progress.record import standings
from distlab.course.progress.standing import Standing
from distlab.course.progress.table import modules_of
from distlab.course.site import INSTRUCTORS, LEARN, TEACH, Site
from distlab.errors import SettingError

NOT_YOURS = "You see your own progress here, and nobody else's."
NOBODY = "There is no admitted learner of that name."
BROKEN = "The table of what completes a module is wrong on this site; the Hub's log says where."


class _Progress:
    """Mixed into a handler of the Hub."""

    def initialize(self: Any, site: Site) -> None:
        self.site = site

    async def learners(self: Any) -> list[str]:
        accounts = self.authenticator.accounts
        return list(await self.authenticator.blocking(accounts.learners))

    async def standings_of(self: Any, names: list[str]) -> dict[str, tuple[Standing, ...]]:
        try:
            return await asyncio.to_thread(standings, self.site, names)
        except SettingError as error:
            self.log.error("%s", error)
            raise HTTPError(500, BROKEN) from error


class ProgressPage(_Progress, Page):
    """The page."""

    @authenticated
    async def get(self, name: str = "") -> None:
        user = self.current_user
        teaches = any(group.name == INSTRUCTORS for group in user.groups)
        learner = name or ("" if teaches else user.name)
        if not teaches and learner != user.name:
            raise HTTPError(403, NOT_YOURS)  # whether there is such a learner or not
        if not learner:
            found = await self.standings_of(await self.learners())
            await self.show("progress_of_all.html", learners=found, modules=modules_of(self.site))
            return
        if teaches and learner not in await self.learners():
            raise HTTPError(404, NOBODY)
        found = await self.standings_of([learner])
        own = learner == user.name
        await self.show(
            "progress.html", learner=learner, own=own, standings=found[learner], has_page=self.has_page
        )

    def has_page(self, page: str) -> bool:
        """Is there such a page in the book that is served?"""
        return (self.site.book / "html" / f"{page}.html").is_file()


class ProgressAPI(_Progress, APIHandler):  # type: ignore[misc]  # jupyterhub has no types
    """For programs in learners' and instructors' servers: their token says what they may ask for."""

    _accept_cookie_auth = False
    """JupyterHub's own switch. A page in a browser, of whatever host, has no business here."""

    async def get(self) -> None:
        user, scopes = self.current_user, self.expanded_scopes
        if user is None:
            raise HTTPError(401)
        asked = self.get_query_argument("learner", "")
        teaches = TEACH in scopes
        if not teaches and (LEARN not in scopes or asked not in ("", user.name)):
            raise HTTPError(403, NOT_YOURS)
        names = await self.learners() if teaches else [user.name]
        if asked:
            if asked not in names:
                raise HTTPError(404, NOBODY)
            names = [asked]
        found = await self.standings_of(names)
        self.set_header("Cache-Control", "no-store")
        self.finish({name: [one.to_json() for one in each] for name, each in found.items()})


def progress_handlers(site: Site) -> list[tuple[Any, ...]]:
    """The Hub's `extra_handlers` for the page and for the command."""
    return [
        (r"/progress", ProgressPage, {"site": site}),
        (r"/progress/([^/]+)", ProgressPage, {"site": site}),
        (r"/api/progress", ProgressAPI, {"site": site}),
    ]
