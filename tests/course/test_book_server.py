"""The handler that serves the book, on a real server."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

from distlab.course.book_server import POLICY, book_handlers
from distlab.course.site import Site


class BookServer(AsyncHTTPTestCase):
    def setUp(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.site = Site(root=Path(self._folder.name))
        self.publish("one", {"index.html": "<h1>one</h1>", "mod/index.html": "<h1>module</h1>"})
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        self._folder.cleanup()

    def get_app(self) -> Application:
        return Application([("/hub" + pattern, *rest) for pattern, *rest in book_handlers(self.site)])

    def publish(self, name: str, files: dict[str, str]) -> None:
        folder = self.site.book / "builds" / name
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        pointer = self.site.book / "new"
        pointer.symlink_to(f"builds/{name}")
        os.replace(pointer, self.site.book / "html")

    def get(self, path: str, **headers: str) -> HTTPResponse:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.fetch(path, headers=sent, follow_redirects=False)

    def test_pages_carry_the_policy(self) -> None:
        response = self.get("/hub/book/")
        assert response.code == 200
        assert response.body == b"<h1>one</h1>"
        assert response.headers["Content-Security-Policy"] == POLICY
        assert "unsafe-eval" not in POLICY
        assert "script-src 'self';" in POLICY
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        assert self.get("/hub/book/nothing.html").headers["Content-Security-Policy"] == POLICY

    def test_folders_lead_to_their_page_and_are_never_listed(self) -> None:
        assert self.get("/hub/book").headers["Location"] == "/hub/book/"
        assert self.get("/hub/book/mod").code == 301
        assert self.get("/hub/book/mod/").body == b"<h1>module</h1>"
        (self.site.book / "html" / "empty").mkdir()
        assert self.get("/hub/book/empty/").code == 404

    def test_nothing_outside_the_book_is_served(self) -> None:
        secret = self.site.book / "secret.txt"
        secret.write_text("secret")
        (self.site.book / "html" / "link.txt").symlink_to(secret)
        (self.site.book / "html" / ".hidden").write_text("hidden")
        paths = (
            "../secret.txt",
            "%2e%2e/secret.txt",
            "..%2fsecret.txt",
            "mod/../../secret.txt",
            "link.txt",
            ".hidden",
        )
        for path in (*paths, "//etc/passwd", "%2fetc%2fpasswd"):
            response = self.get(f"/hub/book/{path}")
            assert response.code in (403, 404), path
            assert b"secret" not in response.body.replace(b"secret.txt", b"")

    def test_a_new_build_is_seen_at_once(self) -> None:
        first = self.get("/hub/book/index.html")
        assert first.headers["Cache-Control"] == "no-cache"
        again = self.get("/hub/book/index.html", If_None_Match=first.headers["Etag"])
        assert again.code == 304
        self.publish("two", {"index.html": "<h1>two</h1>"})
        renewed = self.get("/hub/book/index.html", If_None_Match=first.headers["Etag"])
        assert renewed.code == 200
        assert renewed.body == b"<h1>two</h1>"

    def test_files_named_by_their_content_may_be_kept(self) -> None:
        self.publish("three", {"_static/a.js": "1", "_static/inline/b.js": "2", "_static/f.woff": "3"})
        assert "immutable" in self.get("/hub/book/_static/a.js?v=1234").headers["Cache-Control"]
        assert "immutable" in self.get("/hub/book/_static/inline/b.js").headers["Cache-Control"]
        assert self.get("/hub/book/_static/a.js").headers["Cache-Control"] == "no-cache"
        assert self.get("/hub/book/_static/a.js").headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert self.get("/hub/book/_static/f.woff").headers["Content-Type"] == "font/woff"

    def test_it_is_read_only(self) -> None:
        assert self.fetch("/hub/book/", method="POST", body="x").code == 405

    def test_before_the_first_build_it_says_so(self) -> None:
        (self.site.book / "html").unlink()
        response = self.get("/hub/book/")
        assert response.code == 404
        assert b"not built yet" in response.body
