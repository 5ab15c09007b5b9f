"""Where the site keeps its things, and under which names its parts find each other.

Everything that the site writes lies under `var/` of the repository; deleting that folder resets it.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from distlab.errors import SettingError

COURSE_ID = "distlab"

USERNAME = re.compile(r"[a-z][a-z0-9-]{0,29}(?<!-)")
"""A user name is also a host name label (`alice.localhost`) and a folder name."""

LAB_ID = re.compile(r"mod-[0-9]+-lab-[0-9]+")
QUIZ_ID = re.compile(r"mod-[0-9]+-quiz")
ASSIGNMENT_ID = re.compile(rf"{LAB_ID.pattern}|{QUIZ_ID.pattern}")

INSTRUCTORS = "instructors"
"""The Hub group whose members see the course directory and grade."""

# Scopes of the Hub's tokens at the exchange.
LEARN, TEACH = "custom:exchange:learn", "custom:exchange:teach"
REACH_EXCHANGE = "access:services!service=exchange"

# Addresses inside a sandbox: its loopback is private, so that these never meet the host's ports.
INSIDE_SERVER_PORT = 8888
INSIDE_HUB_PORT = 8081
INSIDE_EXCHANGE_PORT = 8082
INSIDE_SOCKETS = Path("/run/distlab")
INSIDE_HOME = Path("/home")
# Mounted for instructors alone.
INSIDE_COURSE = Path("/srv/course")
COURSE_ENV = "DISTLAB_COURSE"
"""Where the course directory lies, if not at INSIDE_COURSE: for an operator outside the sandboxes."""
INSIDE_GRADER_SOCKETS = Path("/run/grader")


@dataclass(frozen=True)
class Site:
    """One installation: the repository, its state, and the address it answers on."""

    root: Path
    port: int = 8000
    bind: str = "127.0.0.1"
    host: str = "localhost"
    """The name that browsers use; learner servers answer on names below it."""
    state: Path | None = None
    """Where the state lies, if not in `root/var`."""

    @classmethod
    def from_env(cls) -> Site:
        """Read `DISTLAB_ROOT` (else: here), `DISTLAB_VAR`, `PORT`, `BIND` and `DISTLAB_HOST`.

        Raises `SettingError` for a port that is none, and where "here" is not the course's repository.
        """
        state = os.environ.get("DISTLAB_VAR")
        port = os.environ.get("PORT", "8000")
        if not port.isdecimal() or not 0 < int(port) < 2**16:
            raise SettingError(f"PORT is {port!r}; it must be a number from 1 to 65535, such as PORT=8000.")
        if "DISTLAB_ROOT" not in os.environ and not Path("_config.yml").is_file():
            raise SettingError(
                f"{Path.cwd()} is not the course's repository (it has no _config.yml): "
                "change into the repository, or name it in DISTLAB_ROOT."
            )
        return cls(
            root=Path(os.environ.get("DISTLAB_ROOT", ".")).resolve(),
            port=int(port),
            bind=os.environ.get("BIND", "127.0.0.1"),
            host=os.environ.get("DISTLAB_HOST", "localhost"),
            state=Path(state).resolve() if state else None,
        )

    def env(self) -> dict[str, str]:
        """The environment that makes `from_env` in another process the same site."""
        return {
            "DISTLAB_ROOT": str(self.root),
            "DISTLAB_VAR": str(self.var),
            "PORT": str(self.port),
            "BIND": self.bind,
            "DISTLAB_HOST": self.host,
        }

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """Where the site answers: as the `up` that runs it said, else as this environment would have it."""
        try:
            return str(json.loads((self.run / "hub.json").read_text())["url"])
        except FileNotFoundError:
            return self.url

    @property
    def var(self) -> Path:
        """All state (0711: a sandbox's user must be able to pass, not to list)."""
        return self.state or self.root / "var"

    @property
    def hub(self) -> Path:
        """The Hub's database and cookie secret (0700)."""
        return self.var / "hub"

    @property
    def secrets(self) -> Path:
        """Generated passwords, codes and tokens (0700, files 0600)."""
        return self.var / "secrets"

    @property
    def run(self) -> Path:
        """Process ids and sockets of what is running (0700)."""
        return self.var / "run"

    @property
    def site_sockets(self) -> Path:
        """`hub.sock` and `exchange.sock`. Each sandbox has sockets of its own, at INSIDE_SOCKETS, that lead here."""
        return self.run / "site"

    @property
    def grader_sockets(self) -> Path:
        """`grader.sock`, mounted for instructors alone."""
        return self.run / "grader"

    @property
    def boxes(self) -> Path:
        """One folder per running learner server."""
        return self.run / "boxes"

    @property
    def homes(self) -> Path:
        """One home per user."""
        return self.var / "homes"

    @property
    def course(self) -> Path:
        """nbgrader's course directory: source, release, submitted, autograded, feedback, gradebook.db."""
        return self.var / "course"

    @property
    def exchange(self) -> Path:
        """What the exchange service stores."""
        return self.var / "exchange"

    @property
    def book(self) -> Path:
        """The built book (`html/`) and its build state."""
        return self.var / "book"

    @property
    def log(self) -> Path:
        return self.var / "log"
