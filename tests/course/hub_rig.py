"""A real Hub behind its real proxy, without learners' servers, for the tests of the Hub's own pages."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from bs4 import BeautifulSoup
from requests.adapters import HTTPAdapter

from distlab.course.accounts.store import ensure_instructor
from distlab.course.site import Site
from distlab.machine import free_port

ROOT = Path(__file__).parents[2]
STARTUP_S = 60
PASSWORD = "correct horse battery"

CONFIG = """
from distlab.course.accounts.authenticator import CourseAuthenticator
from distlab.course.accounts.pages import TEMPLATES, content_security_policy
from distlab.course.accounts.store import instructors
from distlab.course.progress.pages import progress_handlers
from distlab.course.site import INSTRUCTORS, LEARN, TEACH, Site
from distlab.course.telemetry_page import telemetry_handlers
site = Site.from_env()
c.JupyterHub.bind_url = f"http://127.0.0.1:{site.port}"
c.JupyterHub.subdomain_host = site.url
c.JupyterHub.hub_bind_url = "http://127.0.0.1:HUB_PORT"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:API_PORT"
c.ConfigurableHTTPProxy.command = ["PROXY"]
c.ConfigurableHTTPProxy.pid_file = str(site.run / "proxy.pid")
c.JupyterHub.db_url = f"sqlite:///{site.hub}/jupyterhub.sqlite"
c.JupyterHub.cookie_secret_file = str(site.hub / "cookie_secret")
c.JupyterHub.authenticator_class = CourseAuthenticator
c.CourseAuthenticator.site = site
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.tornado_settings = {
    "headers": {"Content-Security-Policy": content_security_policy(site.url, inline=True)}
}
c.JupyterHub.custom_scopes = {scope: {"description": scope} for scope in (LEARN, TEACH)}
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", LEARN]},
    {"name": "teach", "scopes": [TEACH], "groups": [INSTRUCTORS]},
]
c.JupyterHub.load_groups = {INSTRUCTORS: {"users": instructors(site)}}
c.JupyterHub.default_url = "/hub/home"
c.JupyterHub.extra_handlers = [*progress_handlers(site), *telemetry_handlers(site)]
"""


class From(HTTPAdapter):
    """Connect from another address of the loopback: to the proxy, another source."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: object, **kwargs: object) -> None:
        super().init_poolmanager(*args, source_address=(self.address, 0), **kwargs)


class Browser:
    """A session that loads a page, fills in its form as a browser would, and sends it."""

    def __init__(self, url: str, address: str = "127.0.0.1", **headers: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.headers.update({"Sec-Fetch-Mode": "navigate", **headers})
        self.session.mount("http://", From(address))

    def get(self, path: str, follow: bool = True) -> requests.Response:
        return self.session.get(self.url + path, allow_redirects=follow, timeout=30)

    def send(self, path: str, follow: bool = False, **fields: str) -> requests.Response:
        """Open `path` and send its form with `fields`."""
        page = BeautifulSoup(self.get(path).text, "html.parser")
        form = page.find("form", method="post")
        assert form is not None, page.get_text()
        hidden = {field["name"]: field.get("value", "") for field in form.find_all("input", type="hidden")}
        return self.session.post(
            self.url + form["action"].replace(self.url, ""),
            data=hidden | fields,
            allow_redirects=follow,
            timeout=30,
        )

    def sign_in(self, username: str, password: str, query: str = "") -> requests.Response:
        return self.send(f"/hub/login{query}", username=username, password=password)

    def sign_up(
        self, username: str, query: str = "", password: str = PASSWORD, **fields: str
    ) -> requests.Response:
        return self.send(
            f"/hub/signup{query}", username=username, password=password, password_again=password, **fields
        )


@dataclass
class Hub:
    site: Site
    log: Path

    def browser(self, address: str = "127.0.0.1", **headers: str) -> Browser:
        return Browser(self.site.url, address, **headers)

    @property
    def code(self) -> str:
        return (self.site.secrets / "enrolment-code").read_text().strip()

    def instructor(self, address: str = "127.0.0.1") -> Browser:
        browser = self.browser(address)
        password = (self.site.secrets / "instructor-password").read_text().strip()
        assert browser.sign_in("instructor", password).status_code == 302
        return browser

    def learner(self, username: str) -> Browser:
        browser = self.browser()
        browser.sign_up(username, code=self.code)
        assert browser.sign_in(username, PASSWORD).status_code == 302
        return browser


@contextmanager
def running_hub(state: Path) -> Iterator[Hub]:
    """A Hub whose site keeps its state in `state`."""
    # By number: Python's cookies know no domain `localhost`.
    site = Site(root=ROOT, port=free_port(), state=state, host="127.0.0.1")
    for folder in (site.hub, site.secrets, site.run):
        folder.mkdir(parents=True, exist_ok=True)
    ensure_instructor(site)
    config = state / "jupyterhub_config.py"
    config.write_text(
        CONFIG.replace("HUB_PORT", str(free_port()))
        .replace("API_PORT", str(free_port()))
        .replace("PROXY", str(ROOT / "node_modules/.bin/configurable-http-proxy"))
    )
    log = state / "hub.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=state,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(state), **site.env()},
        )
    try:
        deadline = time.monotonic() + STARTUP_S
        while not _answers(site):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Hub(site, log)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _answers(site: Site) -> bool:
    try:
        return requests.get(f"{site.url}/hub/api/", timeout=2).status_code == 200
    except requests.RequestException:
        return False
