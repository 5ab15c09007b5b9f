"""`python -m distlab.course.gate`: the Hub's API, and nothing else of the Hub, for learners' servers.

A sandbox reaches the Hub through this service's socket alone. It passes `/hub/api/` on and drops the
forwarding headers that a learner could forge: the Hub throttles failed logins by their source.
"""

from __future__ import annotations

import os
from http.client import responses

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.web import Application, RequestHandler

from distlab.course.service import serve
from distlab.course.site import Site

MAX_BODY_BYTES = 2**20
SOURCE = "127.1.1.1"
"""The source address that the Hub sees for requests out of a sandbox; no browser has it."""

PASSED_ON = ("Authorization", "Content-Type", "Accept")


class HubAPI(RequestHandler):
    """Pass one request on to the Hub, and its answer back."""

    def initialize(self, hub: str) -> None:
        self.hub = hub

    async def pass_on(self) -> None:
        headers = {name: self.request.headers[name] for name in PASSED_ON if name in self.request.headers}
        request = HTTPRequest(
            self.hub + self.request.uri.removeprefix("/hub/api") if self.request.uri else self.hub,
            method=self.request.method or "GET",
            headers={**headers, "X-Forwarded-For": SOURCE},
            body=self.request.body or None,
            allow_nonstandard_methods=True,
            follow_redirects=False,
            request_timeout=60,
        )
        try:
            answer = await AsyncHTTPClient().fetch(request, raise_error=False)
        except (OSError, HTTPClientError):
            self.send_error(502)
            return
        self.set_status(answer.code, answer.reason or responses.get(answer.code, "Unknown"))
        self.set_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        for name in ("Location", "Retry-After", "X-JupyterHub-Version"):
            if name in answer.headers:
                self.set_header(name, answer.headers[name])
        if answer.code not in (204, 304):
            self.write(answer.body)

    get = post = put = patch = delete = head = pass_on

    def check_xsrf_cookie(self) -> None:
        """The Hub checks; no cookie passes here."""


def application(hub_api: str) -> Application:
    """`hub_api`: the Hub's API, `http://127.0.0.1:PORT/hub/api`."""
    return Application([(r"/hub/api(?:/.*)?", HubAPI, {"hub": hub_api.rstrip("/")})])


if __name__ == "__main__":
    serve(
        application(os.environ["JUPYTERHUB_API_URL"]),
        Site.from_env().site_sockets / "hub.sock",
        MAX_BODY_BYTES,
    )
