"""Serves the built book from the Hub's process: public, read-only, under a strict content security policy.

In the Hub's configuration, `c.JupyterHub.extra_handlers = book_handlers(site)` puts it at `/hub/book/`.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
from typing import Any

from tornado.web import HTTPError, RedirectHandler, StaticFileHandler

from distlab.course.site import Site

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        # MathJax writes style elements, and figures carry style attributes. Styles cannot reach another host.
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

CONTENT_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
"""Named here because the system's own table varies, and a browser that must not sniff believes it."""

YEAR_S = 365 * 24 * 3600

NOT_FOUND = """<!doctype html>
<html lang="en" style="color-scheme: light dark">
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{status} - distlab</title>
<body style="font: 1.1rem/1.6 system-ui, sans-serif; max-width: 36rem; margin: 4rem auto; padding: 0 1rem">
<h1>{title}</h1><p>{message}</p></body></html>
"""


class BookHandler(StaticFileHandler):
    """The pages and files of the book whose folder (or link to a folder) is `path`."""

    def initialize(self, path: str) -> None:  # type: ignore[override]
        """Settle for this whole request which build the link points to."""
        super().initialize(os.path.realpath(path), default_filename="index.html")

    def set_default_headers(self) -> None:
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Serve regular files below `root` alone: nothing hidden, no listing, no way out."""
        inside = os.path.relpath(absolute_path, root)
        if any(part.startswith(".") and part != "." for part in inside.split(os.sep)):
            raise HTTPError(404)
        if os.path.isdir(absolute_path) and not os.path.isfile(os.path.join(absolute_path, "index.html")):
            raise HTTPError(404)
        found = super().validate_absolute_path(root, absolute_path)
        if found is not None and not os.path.realpath(found).startswith(root + os.sep):
            raise HTTPError(404)
        return found

    def compute_etag(self) -> str | None:
        """The build and the path: a build never changes, and each has a folder of its own."""
        if self.absolute_path is None:
            return None
        return f'"{hashlib.sha256(os.fsencode(self.absolute_path)).hexdigest()[:32]}"'

    def get_content_type(self) -> str:
        """The type by the file's suffix, texts as UTF-8."""
        path = self.absolute_path or ""
        kind = CONTENT_TYPES.get(os.path.splitext(path)[1].lower()) or mimetypes.guess_type(path)[0]
        if kind and kind.startswith("text/"):
            return f"{kind}; charset=utf-8"
        return kind or "application/octet-stream"

    def set_extra_headers(self, path: str) -> None:
        """Files named or asked for by their content may be kept; all else is asked for again each time."""
        by_content = path.startswith("_static/inline/") or any(
            self.get_query_argument(name, "") for name in ("v", "digest")
        )
        self.set_header("Cache-Control", f"public, max-age={YEAR_S}, immutable" if by_content else "no-cache")
        self.clear_header("Expires")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A short page with the way back."""
        built = os.path.isfile(os.path.join(self.root, "index.html"))
        title = "There is no such page" if built else "The book is not built yet"
        message = (
            '<a href="/hub/book/">To the first page of the book</a>'
            if built
            else "Whoever runs this site builds it with <code>make book</code>."
        )
        if status_code != 404:
            title = f"The page cannot be shown ({status_code})"
        self.finish(NOT_FOUND.format(status=status_code, title=title, message=message))


def book_handlers(site: Site) -> list[tuple[Any, ...]]:
    """The Hub's `extra_handlers` that serve `site.book/html`."""
    return [
        (r"/book", RedirectHandler, {"url": "/hub/book/", "permanent": False}),
        (r"/book/(.*)", BookHandler, {"path": str(site.book / "html")}),
    ]
