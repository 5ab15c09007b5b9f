"""`GET <base_url>distlab/open?lab=<id>`: into a lab's notebook, which is fetched if it is not there.

A Jupyter server extension in each learner's server. The book's *Open the lab* leads here through the Hub
(`/hub/user-redirect/distlab/open?lab=...`), which signs the learner in and starts the server first.
"""

from __future__ import annotations

import asyncio
import os
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web

from distlab.course.exchange.client import Client, ClientError
from distlab.course.site import ASSIGNMENT_ID

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark }
  body { font: 1.1rem/1.6 system-ui, sans-serif; max-width: 38rem; margin: 15vh auto; padding: 0 1rem }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p role="alert">$message</p>
<p>$links</p>
</main>
</body>
</html>
""")


def fetch(lab: str, home: Path) -> None:
    """Make sure that `home/<lab>/<lab>.ipynb` is there; what the learner has is never overwritten.

    A folder that is there already gets nothing but its notebook back. Blocks; raises ClientError.
    """
    notebook = f"{lab}.ipynb"
    if not os.path.lexists(home / lab / notebook):
        Client.from_env().fetch_assignment(lab, home, restore={notebook})
    if not (home / lab / notebook).is_file():
        raise ClientError(
            f"There is no notebook at {lab}/{notebook}; move what is there aside and try again."
        )


class OpenLabHandler(JupyterHandler):
    """One click on *Open the lab*."""

    @web.authenticated
    async def get(self) -> None:
        lab = self.get_query_argument("lab", "")
        if not ASSIGNMENT_ID.fullmatch(lab):
            self.explain(400, f"“{lab[:80]}” is no lab; a lab's id looks like mod-107-lab-3.", retry=False)
            return
        try:
            await asyncio.to_thread(fetch, lab, Path(self.contents_manager.root_dir))
        except ClientError as error:
            self.log.warning("Cannot open %s: %s", lab, error)
            self.explain(404 if error.status == 404 else 503, str(error), retry=True)
            return
        self.redirect(url_path_join(self.base_url, "lab/tree", lab, f"{lab}.ipynb"))

    def explain(self, status: int, message: str, *, retry: bool) -> None:
        """An error page; `message` may hold anything."""
        links = [f'<a href="{escape(url_path_join(self.base_url, "lab"))}">Go to JupyterLab</a>']
        if retry:
            again = f"{self.request.path}?lab={quote(self.get_query_argument('lab'))}"
            links.insert(0, f'<a href="{escape(again)}">Try again</a>')
        page = PAGE.substitute(
            title="The lab cannot be opened", message=escape(message), links=" &middot; ".join(links)
        )
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(page)


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    address = url_path_join(server.web_app.settings["base_url"], "distlab/open")
    server.web_app.add_handlers(".*$", [(address, OpenLabHandler)])
