"""What a name, a password and an email address may be. Each check raises `AccountError` with a sentence for
people."""

from __future__ import annotations

import functools
import re
import unicodedata
from importlib import resources

from distlab.course.site import USERNAME

PASSWORD_MIN = 8
PASSWORD_MAX = 256
FULL_NAME_MAX = 100
EMAIL_MAX = 254

# Names that could be taken for a part of the site or for someone in charge of it, and host labels in use.

# fmt: off
RESERVED = frozenset({
    "about", "abuse", "account", "accounts", "admin", "administrator", "administrators", "anonymous",
    "api", "assets", "auth", "autograder", "book", "course", "daemon", "distlab", "everyone", "example",
    "exchange", "formgrader", "grader", "graders", "guest", "help", "hub", "info", "instructor",
    "instructors", "jupyter", "jupyterhub", "localdomain", "localhost", "login", "logout", "mail",
    "metrics", "nobody", "none", "null", "operator", "postmaster", "proxy", "public", "register",
    "release", "root", "security", "server", "service", "services", "shared", "signup", "site", "staff",
    "static", "status", "student", "students", "sudo", "support", "system", "teacher", "teachers",
    "test", "undefined", "user", "users", "webmaster", "wpad", "www",
})
# fmt: on


class AccountError(ValueError):
    """Something that a person asked for and may not have; the message is one sentence for that person."""


def check_username(username: str) -> str:
    """Return `username` if a learner may take it; nothing is folded or trimmed, so that no two names can
    meet."""
    if not USERNAME.fullmatch(username):
        shown = username if len(username) <= 40 else username[:40] + "…"
        raise AccountError(
            f"The user name {shown!r} cannot be used: take 1 to 30 letters a to z, digits and hyphens, "
            "beginning with a letter and not ending with a hyphen, for example 'ada-l'."
        )
    # "xn--" and its kin are host labels in disguise: browsers show them as other letters.
    if username in RESERVED or username[2:4] == "--":
        raise AccountError(f"The user name {username!r} is reserved: choose another.")
    return username


def check_password(password: str, username: str) -> None:
    """Refuse a password that is short, overlong, common, or made of the user name."""
    if len(password) < PASSWORD_MIN:
        raise AccountError(f"The password has {len(password)} characters; it needs at least {PASSWORD_MIN}.")
    if len(password) > PASSWORD_MAX:
        raise AccountError(f"The password has {len(password)} characters; {PASSWORD_MAX} are the most.")
    folded = unicodedata.normalize("NFKC", password).casefold()
    if folded in _common_passwords():
        raise AccountError("This password is among the most common ones: take a few words instead.")
    if folded.strip("0123456789!?.-_ ") == username:
        raise AccountError("The password is the user name with little added: choose another.")


def check_full_name(full_name: str) -> str:
    """Return the trimmed name; it may be empty. Control and direction-changing characters are refused."""
    full_name = full_name.strip()
    if len(full_name) > FULL_NAME_MAX or not full_name.isprintable():
        raise AccountError(f"The name must be at most {FULL_NAME_MAX} printable characters.")
    return full_name


def check_email(email: str) -> str:
    """Return the trimmed address; it may be empty. Nothing is ever sent to it."""
    email = email.strip()
    if email and (
        len(email) > EMAIL_MAX or not re.fullmatch(r"[^@\s]+@[^@\s]+", email) or not email.isprintable()
    ):
        raise AccountError(f"{email[:60]!r} is no email address: it should look like 'ada@example.org'.")
    return email


@functools.cache
def _common_passwords() -> frozenset[str]:
    lines = (
        resources.files(__package__).joinpath("common_passwords.txt").read_text(encoding="utf-8").splitlines()
    )
    return frozenset(line.casefold() for line in lines if not line.startswith("#"))
