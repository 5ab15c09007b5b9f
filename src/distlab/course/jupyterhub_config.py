"""The Hub's configuration on one machine. `distlab course up` starts the Hub with it."""

from __future__ import annotations

import os
import sys
from typing import Any

from distlab.course.accounts.authenticator import CourseAuthenticator
from distlab.course.accounts.pages import TEMPLATES, content_security_policy
from distlab.course.accounts.store import instructors
from distlab.course.book_server import book_handlers
from distlab.course.progress.pages import progress_handlers
from distlab.course.site import INSTRUCTORS, LEARN, REACH_EXCHANGE, TEACH, Site
from distlab.course.telemetry_page import telemetry_handlers

c: Any = get_config()  # type: ignore[name-defined]  # noqa: F821  (put here by traitlets)
site = Site.from_env()

# --- Addresses: learner servers answer on host names of their own (alice.localhost), so that no page of
# theirs shares an origin with the Hub, the book or another learner.
c.JupyterHub.bind_url = f"http://{site.bind}:{site.port}"
c.JupyterHub.subdomain_host = site.url
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{os.environ['DISTLAB_HUB_PORT']}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{os.environ['DISTLAB_PROXY_API_PORT']}"
c.ConfigurableHTTPProxy.command = [str(site.root / "node_modules/.bin/configurable-http-proxy")]
c.ConfigurableHTTPProxy.pid_file = str(site.run / "proxy.pid")

# --- State
c.JupyterHub.db_url = f"sqlite:///{site.hub / 'jupyterhub.sqlite'}"
c.JupyterHub.cookie_secret_file = str(site.hub / "cookie_secret")
# A Hub that is told to stop takes everything with it; one that is killed leaves the learners' servers.
c.JupyterHub.cleanup_servers = True
c.JupyterHub.cleanup_proxy = True

# --- What a token may do at the exchange. A server's token carries what its owner has, no more.
c.JupyterHub.custom_scopes = {
    LEARN: {"description": "Fetch labs, submit as oneself, read one's own feedback"},
    TEACH: {"description": "Release labs, collect submissions, return feedback"},
}
c.JupyterHub.load_groups = {INSTRUCTORS: {"users": instructors(site)}}
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", REACH_EXCHANGE, LEARN]},
    {"name": "teach", "scopes": [TEACH], "groups": [INSTRUCTORS]},
    {
        "name": "server",
        "scopes": ["access:servers!server", "users:activity!user", REACH_EXCHANGE, LEARN, TEACH],
    },
]


# --- Services: each a process of the Hub's on a Unix socket
def service(name: str, module: str) -> dict[str, Any]:
    return {
        "name": name,
        "command": [sys.executable, "-m", module],
        # The Hub's port marks a process as a Hub's: what one leaves behind is found by it.
        "environment": {**site.env(), **{name: os.environ[name] for name in ("PATH", "DISTLAB_HUB_PORT")}},
    }


c.JupyterHub.services = [
    service("gate", "distlab.course.gate"),
    service("exchange", "distlab.course.exchange"),
    service("grader", "distlab.course.grade.runner"),
]

# --- Accounts: no Hub admin among them; the pages of the Hub load nothing from another host
c.JupyterHub.authenticator_class = CourseAuthenticator
c.CourseAuthenticator.site = site
c.JupyterHub.template_paths = [str(TEMPLATES)]
c.JupyterHub.tornado_settings = {
    "headers": {"Content-Security-Policy": content_security_policy(site.url, inline=True)}
}

# --- Each learner's server in a sandbox of its own
c.JupyterHub.spawner_class = "distlab.course.spawner.SandboxSpawner"
c.Spawner.default_url = "/lab"
# A configuration file that does not load stops the server, instead of being logged and left out.
c.Spawner.environment = {"TRAITLETS_APPLICATION_RAISE_CONFIG_FILE_ERROR": "1"}

# --- The book, public, at `/`; everyone's own progress; telemetry of this machine, for instructors
c.JupyterHub.extra_handlers = [*book_handlers(site), *progress_handlers(site), *telemetry_handlers(site)]


def landing(handler: Any) -> str:
    """Where one lands who asked for nothing else: instructors who sign in at their tools, all others here."""
    user = handler.current_user
    teaches = user is not None and any(group.name == INSTRUCTORS for group in user.groups)
    return "/hub/home" if teaches and handler.request.path.endswith("/login") else "/hub/book/"


c.JupyterHub.default_url = landing
