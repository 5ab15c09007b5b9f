"""The operator's commands about accounts. They work whether the Hub runs or not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from distlab.course.accounts.roster import RosterError, import_roster, link
from distlab.course.accounts.rules import AccountError
from distlab.course.accounts.store import Account, Accounts, ensure_instructor, reset_instructor
from distlab.course.site import Site


def pending(site: Site) -> list[Account]:
    """The sign-ups that wait to be admitted, the longest first."""
    with closing(Accounts(site)) as accounts:
        return accounts.pending()


def admit(site: Site, username: str) -> None:
    """Admit a waiting learner; raises `AccountError` where nobody of that name waits."""
    with closing(Accounts(site)) as accounts:
        if not accounts.admit(username):
            state = "is admitted already" if accounts.find(username) else "has not signed up"
            raise AccountError(f"{username!r} {state}; `distlab course pending` lists who waits.")


def refuse(site: Site, username: str) -> None:
    """Delete a waiting sign-up, so that its name is free again; raises `AccountError` where none waits."""
    with closing(Accounts(site)) as accounts:
        if not accounts.refuse(username):
            raise AccountError(f"No sign-up of {username!r} waits; `distlab course pending` lists who does.")


def pending_learners() -> int:
    """List the sign-ups that wait to be admitted."""
    waiting = pending(Site.from_env())
    if not waiting:
        print("Nobody waits to be admitted.")
        return 0
    table = Table("User name", "Name (as they gave it)", "Email (as they gave it)", "Signed up")
    for account in waiting:
        table.add_row(account.username, account.full_name, account.email, account.signed_up)
    # Names are strangers' words: never read as markup of the terminal's colours.
    Console(markup=False, highlight=False).print(table)
    return 0


def admit_learner(username: Positional[str]) -> int:
    """Admit a learner who signed up without the enrolment code.

    Args:
        username: the name they signed up with.
    """
    return _say(lambda site: admit(site, username), f"{username} is admitted.")


def refuse_learner(username: Positional[str]) -> int:
    """Delete a sign-up that waits; the name is free again.

    Args:
        username: the name they signed up with.
    """
    return _say(lambda site: refuse(site, username), f"The sign-up of {username} is deleted.")


def roster(csv: Positional[Path]) -> int:
    """Make accounts from a roster, all or none, and a file with each learner's one-time link.

    Args:
        csv: file with the header `username,name,email`.
    """
    site = Site.from_env()
    try:
        links = import_roster(site, csv)
    except RosterError as error:
        return _complain(error)
    count = len(links.read_text(encoding="utf-8").splitlines()) - 1
    print(f"{count} imported. Each learner's one-time link is in {links}; send each only their own line.")
    return 0


def add_instructor(username: Positional[str]) -> int:
    """Make another instructor's account, with a generated password in a file; it counts from the next start.

    Args:
        username: a name that no learner has.
    """
    try:
        path = ensure_instructor(Site.from_env(), username)
    except AccountError as error:
        return _complain(error)
    print(f"The password of {username} is in {path}; the account teaches once the site has been restarted.")
    return 0


def reset_password(username: Positional[str]) -> int:
    """Print a one-time link on which a learner chooses a new password; an instructor gets a new password
    file.

    Args:
        username: whose password is lost.
    """
    site = Site.from_env()
    try:
        with closing(Accounts(site)) as accounts:
            if username in accounts.instructors():
                print(f"The new password of {username} is in {reset_instructor(site, username)}")
            else:
                print(link(site, accounts.reset_link(username)))
    except AccountError as error:
        return _complain(error)
    return 0


def _say(work: Callable[[Site], None], done: str) -> int:
    try:
        work(Site.from_env())
    except AccountError as error:
        return _complain(error)
    print(done)
    return 0


def _complain(error: Exception) -> int:
    print(f"distlab course: {error}", file=sys.stderr)
    return 2
