"""A roster: a CSV file with the header `username,name,email` and a line per learner, taken whole or not at
all."""

from __future__ import annotations

import csv
import io
import time
from contextlib import closing
from pathlib import Path

from distlab.course.accounts.files import write_private
from distlab.course.accounts.rules import AccountError, check_email, check_full_name, check_username
from distlab.course.accounts.store import Accounts, Person, TakenError, new_token
from distlab.course.site import Site

HEADER = ["username", "name", "email"]


class RosterError(ValueError):
    """What is wrong with a roster, with its file and line; nothing of it was imported."""


def read_roster(path: Path) -> dict[int, Person]:
    """The learners of a roster by line number; raises `RosterError` at the first broken line."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RosterError(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RosterError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8.") from error
    people: dict[int, Person] = {}
    lines: dict[str, int] = {}
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [field.strip() for field in next(reader, [])]
        if header != HEADER:
            raise AccountError(f"the header is {','.join(header)!r}; expected {','.join(HEADER)!r}.")
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            person = _person(row)
            if person.username in lines:
                raise AccountError(
                    f"the user name {person.username!r} stands in line {lines[person.username]} already."
                )
            lines[person.username] = reader.line_num
            people[reader.line_num] = person
    except (csv.Error, AccountError) as error:
        raise RosterError(f"{path}, line {max(reader.line_num, 1)}: {error} Nothing was imported.") from error
    if not people:
        raise RosterError(f"{path}: no learner under the header line. Nothing was imported.")
    return people


def import_roster(site: Site, path: Path) -> Path:
    """Make an account for every learner of a roster, all or none.

    Returns the file with each one's one-time link, on whose page they choose their password. Works while the
    Hub runs.
    """
    roster = read_roster(path)
    people = {new_token(): person for person in roster.values()}
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*HEADER, "link"])
    for token, person in people.items():
        writer.writerow([person.username, person.full_name, person.email, link(site, token)])
    stamp = time.strftime("%Y%m%d-%H%M%S")
    links = write_private(site.secrets / f"invitations-{stamp}.csv", out.getvalue())
    try:
        with closing(Accounts(site)) as accounts:
            accounts.invite(people)
    except BaseException as error:
        links.unlink(missing_ok=True)
        if isinstance(error, TakenError):
            line = next(line for line, person in roster.items() if person.username == error.username)
            raise RosterError(
                f"{path}, line {line}: the user name {error.username!r} has an account already; "
                "take the line out or choose another name. Nothing was imported."
            ) from error
        raise
    return links


def link(site: Site, token: str) -> str:
    """The address where a one-time token sets a password."""
    return f"{site.address}/hub/invitation?token={token}"


def _person(row: list[str]) -> Person:
    if len(row) != len(HEADER):
        raise AccountError(f"{len(row)} fields; expected {len(HEADER)} ({','.join(HEADER)}).")
    username, full_name, email = row
    return Person(check_username(username.strip()), check_full_name(full_name), check_email(email))
