"""The accounts of the site: one table in `accounts.sqlite` beside the Hub's database, and what may be done to
it.

A file of its own, because the command line writes it while the Hub runs: every transaction takes SQLite's
write lock at its start (`BEGIN IMMEDIATE`), waits for it up to `LOCK_WAIT_S`, and holds it for milliseconds.
Passwords are hashed before one opens. All methods block; the Hub calls them from worker threads.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
from sqlalchemy import URL, create_engine, event, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from distlab.course.accounts.files import (
    ensure_enrolment_code,
    generate_secret,
    instructor_password_file,
    write_private,
)
from distlab.course.accounts.rules import (
    AccountError,
    check_email,
    check_full_name,
    check_password,
    check_username,
)
from distlab.course.site import Site

LOCK_WAIT_S = 15
BCRYPT_ROUNDS = 12
"""About a quarter of a second per password on one core."""
WAITING_MAX = 500
"""Sign-ups without a code that may wait at one time."""
INVITATION_S = 14 * 24 * 3600


class Base(DeclarativeBase):
    pass


class Account(Base):
    """One person. `password` is None until an invited learner has chosen one."""

    __tablename__ = "accounts"

    username: Mapped[str] = mapped_column(primary_key=True)
    full_name: Mapped[str] = mapped_column(default="")
    email: Mapped[str] = mapped_column(default="")
    password: Mapped[bytes | None]
    admitted: Mapped[bool] = mapped_column(default=False)
    instructor: Mapped[bool] = mapped_column(default=False)
    created: Mapped[float]
    """Unix time, seconds."""
    invitation: Mapped[bytes | None] = mapped_column(unique=True)
    """SHA-256 of the token of a one-time link that sets the password."""
    invitation_until: Mapped[float | None]

    @property
    def signed_up(self) -> str:
        """When, by the clock of the site, to the minute."""
        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.created))


class TakenError(AccountError):
    """The user name has an account."""

    def __init__(self, username: str) -> None:
        super().__init__(f"The user name {username!r} is taken: choose another.")
        self.username = username


@dataclass(frozen=True)
class Person:
    """A name to be invited."""

    username: str
    full_name: str = ""
    email: str = ""


class Accounts:
    """The store of one site."""

    def __init__(
        self, site: Site, clock: Callable[[], float] = time.time, bcrypt_rounds: int = BCRYPT_ROUNDS
    ) -> None:
        self.site = site
        self._clock = clock
        self._rounds = bcrypt_rounds
        path = site.hub / "accounts.sqlite"
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite makes its file with the umask of the process; this one, and so its journal, is for its owner
        # alone.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._engine = create_engine(
            URL.create("sqlite", database=str(path)), connect_args={"timeout": LOCK_WAIT_S}
        )
        event.listen(self._engine, "connect", _leave_transactions_to_us)
        event.listen(self._engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with self._engine.begin() as connection:
            Base.metadata.create_all(connection)
        # What the password for an unknown name is compared with, so that it takes as long as for a known one.
        self._nobody = b"$2b$%02d$" % bcrypt_rounds + b"." * 53

    def close(self) -> None:
        self._engine.dispose()

    def find(self, username: str) -> Account | None:
        with self._session() as session:
            return session.get(Account, username)

    def verify(self, username: str, password: str) -> Account | None:
        """The account, if this is its password. The work is the same whether there is such an account or
        not."""
        account = self.find(username)
        hashed = account.password if account is not None else None
        matches = bcrypt.checkpw(_digest(password), hashed or self._nobody)
        return account if hashed and matches else None

    def sign_up(
        self, username: str, password: str, *, full_name: str = "", email: str = "", admitted: bool = False
    ) -> None:
        """Make a learner's account; it waits for admission unless `admitted`.

        Raises `AccountError` where the name is taken or not allowed, the password is weak, or too many are
        waiting. A name is also taken where a home of that name exists: whoever had it may have left work in
        it.
        """
        check_username(username)
        check_password(password, username)
        full_name, email = check_full_name(full_name), check_email(email)
        if (self.site.homes / username).exists() or self.find(username) is not None:
            raise TakenError(username)
        hashed = self._hash(password)
        try:
            with self._session() as session:
                waiting = select(func.count()).select_from(Account).where(Account.admitted.is_(False))
                if not admitted and session.scalars(waiting).one() >= WAITING_MAX:
                    raise AccountError(
                        f"{WAITING_MAX} sign-ups already wait to be admitted: "
                        "ask your instructor for the enrolment code."
                    )
                session.add(
                    Account(
                        username=username,
                        full_name=full_name,
                        email=email,
                        password=hashed,
                        admitted=admitted,
                        created=self._clock(),
                    )
                )
        except IntegrityError as error:
            raise TakenError(username) from error

    def pending(self) -> list[Account]:
        """Who waits to be admitted, the longest first."""
        with self._session() as session:
            waiting = select(Account).where(Account.admitted.is_(False))
            return list(session.scalars(waiting.order_by(Account.created, Account.username)))

    def admit(self, username: str) -> bool:
        """Let someone in; whether they were waiting."""
        with self._session() as session:
            account = session.get(Account, username)
            if account is None or account.admitted:
                return False
            account.admitted = True
            return True

    def refuse(self, username: str) -> bool:
        """Delete a sign-up that waits; whether it did. An admitted account is never deleted here."""
        with self._session() as session:
            account = session.get(Account, username)
            if account is None or account.admitted:
                return False
            session.delete(account)
            return True

    def change_password(self, username: str, password: str) -> None:
        """Set a new password after the same checks as at sign-up; a link that was open for it is void."""
        check_password(password, username)
        hashed = self._hash(password)
        with self._session() as session:
            session.execute(
                update(Account)
                .where(Account.username == username)
                .values(password=hashed, invitation=None, invitation_until=None)
            )

    def invite(self, people: Mapping[str, Person]) -> None:
        """Make admitted learners' accounts without a password, all or none; `people` by the token of their
        link.

        Raises `TakenError` for the first name that has an account already.
        """
        with self._session() as session:
            for token, person in people.items():
                if session.get(Account, person.username) is not None:
                    raise TakenError(person.username)
                account = Account(
                    username=person.username,
                    full_name=person.full_name,
                    email=person.email,
                    admitted=True,
                    created=self._clock(),
                )
                self._open_invitation(account, token)
                session.add(account)

    def reset_link(self, username: str) -> str:
        """A new one-time token for a learner who forgot the password; the old password holds until it is
        used.

        Raises `AccountError` for instructors: a link must never be a way into the account that grades.
        """
        with self._session() as session:
            account = session.get(Account, username)
            if account is None:
                raise AccountError(f"There is no account {username!r}; sign-ups and rosters make them.")
            if account.instructor:
                raise AccountError(f"{username!r} is an instructor: their password is never reset by a link.")
            token = new_token()
            self._open_invitation(account, token)
            return token

    def invited(self, token: str) -> str | None:
        """The user name that a one-time token is open for, if it is."""
        with self._session() as session:
            account = self._invited_account(session, token)
            return account.username if account else None

    def accept_invitation(self, token: str, password: str) -> str:
        """Set the password that a one-time token allows and void the token; returns the user name."""
        expired = AccountError("This link was used already or is too old: ask your instructor for a new one.")
        username = self.invited(token)
        if username is None:
            raise expired
        check_password(password, username)
        hashed = self._hash(password)
        with self._session() as session:
            account = self._invited_account(session, token)
            if account is None:
                raise expired
            account.password, account.invitation, account.invitation_until = hashed, None, None
        return username

    def make_instructor(self, username: str, password: str) -> None:
        """Make an instructor's account or give an existing instructor this password.

        Raises `AccountError` where a learner has the name: no learner is turned into an instructor.
        """
        hashed = self._hash(password)
        with self._session() as session:
            account = session.get(Account, username)
            if account is None:
                account = Account(username=username, admitted=True, instructor=True, created=self._clock())
                session.add(account)
            elif not account.instructor:
                raise AccountError(
                    f"{username!r} is a learner's account: take another name for the instructor."
                )
            account.password = hashed

    def names(self) -> list[str]:
        """The user names of all accounts, in order."""
        with self._session() as session:
            return list(session.scalars(select(Account.username).order_by("username")))

    def instructors(self) -> list[str]:
        with self._session() as session:
            return list(
                session.scalars(select(Account.username).where(Account.instructor).order_by("username"))
            )

    def learners(self) -> list[str]:
        """The admitted who are no instructors, in order."""
        with self._session() as session:
            admitted = select(Account.username).where(Account.admitted, ~Account.instructor)
            return list(session.scalars(admitted.order_by("username")))

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def _open_invitation(self, account: Account, token: str) -> None:
        account.invitation = hashlib.sha256(token.encode()).digest()
        account.invitation_until = self._clock() + INVITATION_S

    def _invited_account(self, session: Session, token: str) -> Account | None:
        digest = hashlib.sha256(token.encode()).digest()
        account = session.scalars(select(Account).where(Account.invitation == digest)).one_or_none()
        if account is None or (account.invitation_until or 0.0) < self._clock():
            return None
        return account

    def _hash(self, password: str) -> bytes:
        return bcrypt.hashpw(_digest(password), bcrypt.gensalt(self._rounds))


def _digest(password: str) -> bytes:
    """What bcrypt gets: 44 bytes, because it takes 72 at most and no zero byte.

    Keyed, so that a plain SHA-256 that leaked elsewhere is of no use against it; NFKC, so that the same
    letters typed on two keyboards are the same password.
    """
    normal = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return base64.b64encode(hmac.digest(b"distlab account password", normal, "sha256"))


def _leave_transactions_to_us(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()


def new_token() -> str:
    """A token for a one-time link: 192 random bits."""
    return secrets.token_urlsafe(24)


def username_as_typed(text: str) -> str:
    """The account a person means at login: outer blanks and capitals of ASCII letters do not count."""
    text = text.strip()
    return text.lower() if text.isascii() else text


def ensure_instructor(site: Site, name: str = "instructor") -> Path:
    """Make the instructor's account, if there is none, with a generated password in a 0600 file.

    Called before the site opens, as `ensure_enrolment_code` is: no sign-up can come first. The file goes when
    the instructor chooses another password. Returns the file's path, whether it is still there or not.
    """
    if name != "instructor":
        check_username(name)
    ensure_enrolment_code(site)
    path = instructor_password_file(site, name)
    with closing(Accounts(site)) as accounts:
        if name not in accounts.instructors():
            _set_generated_password(accounts, name, path)
    return path


def instructors(site: Site) -> list[str]:
    """Who belongs into the Hub's group of instructors."""
    with closing(Accounts(site)) as accounts:
        return accounts.instructors()


def reset_instructor(site: Site, name: str = "instructor") -> Path:
    """Give an instructor who lost the password a generated one; returns the file that has it."""
    path = instructor_password_file(site, name)
    with closing(Accounts(site)) as accounts:
        if name not in accounts.instructors():
            raise AccountError(f"There is no instructor {name!r}.")
        _set_generated_password(accounts, name, path)
    return path


def _set_generated_password(accounts: Accounts, name: str, path: Path) -> None:
    password = generate_secret(5)
    write_private(path, password + "\n")
    accounts.make_instructor(name, password)
