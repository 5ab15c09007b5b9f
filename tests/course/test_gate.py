"""The gate lets the Hub's API through, and nothing that a learner could use to look like someone else."""

from __future__ import annotations

import json

from tornado.httpclient import HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import AsyncHTTPTestCase, bind_unused_port, gen_test
from tornado.web import Application, RequestHandler

from distlab.course import gate


class Echo(RequestHandler):
    """Stands where the Hub's API is and says what reached it."""

    def answer(self) -> None:
        self.set_status(201 if self.request.method == "POST" else 200)
        self.write({
            "path": self.request.uri,
            "headers": dict(self.request.headers),
            "body": self.request.body.decode(),
        })  # fmt: skip

    get = post = answer

    def check_xsrf_cookie(self) -> None:
        pass


class TestGate(AsyncHTTPTestCase):
    def get_app(self) -> Application:
        sock, self.hub_port = bind_unused_port()
        self.hub = HTTPServer(Application([(r"/.*", Echo)]))
        self.hub.add_socket(sock)
        return gate.application(f"http://127.0.0.1:{self.hub_port}/hub/api")

    def tearDown(self) -> None:
        self.hub.stop()
        super().tearDown()

    @gen_test
    async def ask(self, path: str, **kwargs: object) -> HTTPResponse:
        return await self.http_client.fetch(self.get_url(path), raise_error=False, **kwargs)

    def test_the_api_is_passed_on_with_query_body_and_token(self) -> None:
        reply = self.ask(
            "/hub/api/users/alice/activity?a=1",
            method="POST",
            body='{"x": 1}',
            headers={"Authorization": "token t", "Content-Type": "application/json"},
        )
        seen = json.loads(reply.body)
        assert reply.code == 201
        assert seen["path"] == "/hub/api/users/alice/activity?a=1"
        assert seen["body"] == '{"x": 1}'
        assert seen["headers"]["Authorization"] == "token t"

    def test_the_source_cannot_be_forged(self) -> None:
        forged = {
            "X-Forwarded-For": "10.0.0.7",
            "X-Real-Ip": "10.0.0.7",
            "X-Scheme": "https",
            "Cookie": "a=b",
        }
        seen = json.loads(self.ask("/hub/api/user", headers=forged).body)["headers"]
        assert seen["X-Forwarded-For"] == gate.SOURCE
        assert not {"X-Real-Ip", "X-Scheme", "Cookie"} & set(seen)

    def test_no_other_page_of_the_hub_answers(self) -> None:
        for path in ("/hub/login", "/hub/signup", "/", "/user/alice/", "/hub/apix", "/hub/enrolment"):
            assert self.ask(path).code == 404, path

    def test_an_absent_hub_is_a_502(self) -> None:
        self.hub.stop()
        assert self.ask("/hub/api/user").code == 502
