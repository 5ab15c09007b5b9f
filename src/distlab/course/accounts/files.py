"""The small secret files of the site: generated passwords, the enrolment code, lists of one-time links (all
0600)."""

from __future__ import annotations

import secrets
from pathlib import Path

from distlab.course.atomic import write_atomic
from distlab.course.site import Site

# Without l, o, 0 and 1, which are read wrongly from paper: 32 letters, five bits each.
LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"


def write_private(path: Path, text: str) -> Path:
    """Write `text` whole or not at all, as a file that its owner alone can read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path


def generate_secret(groups: int) -> str:
    """Groups of four letters joined by hyphens, 20 random bits a group: `k7mq-x2fd-9hrt-4wzp`."""
    return "-".join("".join(secrets.choice(LETTERS) for _ in range(4)) for _ in range(groups))


def ensure_enrolment_code(site: Site) -> Path:
    """The file with the enrolment code, generated if there is none.

    The operator may write another code into it, which holds from then on; an empty file lets nobody in by
    code.
    """
    path = site.secrets / "enrolment-code"
    return path if path.exists() else write_private(path, generate_secret(4) + "\n")


def is_enrolment_code(site: Site, typed: str) -> bool:
    """Whether `typed` is the code; capitals, blanks and hyphens do not count. Takes the same time either
    way."""
    code = _letters((site.secrets / "enrolment-code").read_text(encoding="utf-8"))
    return bool(code) and secrets.compare_digest(code.encode(), _letters(typed).encode("utf-8", "replace"))


def instructor_password_file(site: Site, username: str) -> Path:
    name = "instructor-password" if username == "instructor" else f"instructor-password-{username}"
    return site.secrets / name


def _letters(code: str) -> str:
    return "".join(code.lower().replace("-", "").split())
