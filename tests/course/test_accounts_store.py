"""The store of accounts, the roster and the operator's commands, on a real database."""

from __future__ import annotations

import multiprocessing
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from distlab.course.accounts import cli, roster, store
from distlab.course.accounts.files import ensure_enrolment_code, is_enrolment_code, write_private
from distlab.course.accounts.rules import AccountError, check_email, check_password, check_username
from distlab.course.accounts.store import INVITATION_S, Accounts, ensure_instructor
from distlab.course.site import Site

PASSWORD = "correct horse battery"


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Accounts.__init__, "__defaults__", (Accounts.__init__.__defaults__[0], 4))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(root=tmp_path)
    for name, value in site.env().items():
        monkeypatch.setenv(name, value)
    return site


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(site: Site, clock: Clock) -> Iterator[Accounts]:
    accounts = Accounts(site, clock)
    yield accounts
    accounts.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- Rules


@pytest.mark.parametrize("name", ["ada", "a", "ada-l", "a1", "a" * 30])
def test_names_that_may_be_taken(name: str) -> None:
    assert check_username(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *("", "Ada", "1a", "-a", "a-", "a_b", "a.b", "a b", " ada", "ada\n", "a" * 31),
        *("ädä", "аda", "ada\u200b", "../x", "a/b", "xn--da", "ab--cd"),
        *("hub", "www", "localhost", "instructor", "instructors", "services", "root"),
    ],
)
def test_names_that_may_not(name: str) -> None:
    with pytest.raises(AccountError, match=r"cannot be used|is reserved"):
        check_username(name)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("1234567", "has 7 characters"),
        ("x" * 257, "has 257 characters"),
        ("password1", "most common"),
        ("PassWord1", "most common"),
        ("ada-lovelace", "user name"),
        ("ada-lovelace1!", "user name"),
    ],
)
def test_passwords_that_may_not(password: str, why: str) -> None:
    with pytest.raises(AccountError, match=why):
        check_password(password, "ada-lovelace")


@pytest.mark.parametrize("email", ["x", "a@b@c", "a b@c", "@", "a" * 300 + "@b", "a\u202e@b"])
def test_addresses_that_are_none(email: str) -> None:
    with pytest.raises(AccountError, match="no email address"):
        check_email(email)


# --- Accounts


def test_sign_up_admission_and_refusal(accounts: Accounts) -> None:
    accounts.sign_up("ada", PASSWORD, full_name=" Ada L. ", email="ada@example.org")
    accounts.sign_up("bob", PASSWORD, admitted=True)
    assert [(a.username, a.full_name, a.email) for a in accounts.pending()] == [
        ("ada", "Ada L.", "ada@example.org")
    ]
    assert accounts.admit("ada")
    assert not accounts.admit("ada")
    assert not accounts.admit("nobody-here")
    assert not accounts.refuse("ada")
    accounts.sign_up("carol", PASSWORD)
    assert accounts.refuse("carol")
    assert accounts.find("carol") is None
    accounts.sign_up("carol", PASSWORD)


def test_passwords_are_hashed_and_verified(accounts: Accounts, site: Site) -> None:
    long = "é" * 100  # beyond the 72 bytes of bcrypt
    accounts.sign_up("ada", long, admitted=True)
    account = accounts.verify("ada", long)
    assert account is not None
    assert account.password is not None
    assert account.password.startswith(b"$2b$")
    assert accounts.verify("ada", "e\u0301" * 100) is not None  # the same letters, composed otherwise
    assert accounts.verify("ada", long[:-1]) is None
    assert accounts.verify("ada", "") is None
    assert accounts.verify("nobody-here", long) is None
    for path in site.hub.glob("accounts.sqlite*"):
        assert long.encode() not in path.read_bytes()
        assert mode(path) == 0o600


def test_an_unknown_name_costs_the_work_of_a_known_one(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.sign_up("ada", PASSWORD, admitted=True)
    costs: list[bytes] = []
    checkpw = bcrypt.checkpw
    monkeypatch.setattr(
        bcrypt, "checkpw", lambda pw, hashed: (costs.append(hashed[:7]), checkpw(pw, hashed))[1]
    )
    accounts.invite({"token": store.Person("invited")})
    for name in ("ada", "nobody-here", "", "invited"):
        assert accounts.verify(name, "wrong") is None
    assert costs == [b"$2b$04$"] * 4


def test_a_taken_name_stays_as_it_was(accounts: Accounts, site: Site) -> None:
    accounts.sign_up("ada", PASSWORD, admitted=True)
    with pytest.raises(AccountError, match="'ada' is taken"):
        accounts.sign_up("ada", "another pass phrase", admitted=True)
    assert accounts.verify("ada", PASSWORD) is not None
    (site.homes / "old").mkdir(parents=True)
    with pytest.raises(AccountError, match="'old' is taken"):
        accounts.sign_up("old", PASSWORD, admitted=True)


def test_the_list_of_those_who_wait_is_bounded(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "WAITING_MAX", 2)
    accounts.sign_up("ada", PASSWORD)
    accounts.sign_up("bob", PASSWORD)
    with pytest.raises(AccountError, match="already wait"):
        accounts.sign_up("carol", PASSWORD)
    accounts.sign_up("dora", PASSWORD, admitted=True)


def test_a_link_works_once_and_not_for_ever(accounts: Accounts, clock: Clock) -> None:
    accounts.sign_up("ada", PASSWORD, admitted=True)
    token = accounts.reset_link("ada")
    assert accounts.invited(token) == "ada"
    with pytest.raises(AccountError, match="at least 8"):
        accounts.accept_invitation(token, "short")
    assert accounts.accept_invitation(token, "another pass phrase") == "ada"
    assert accounts.verify("ada", "another pass phrase") is not None
    with pytest.raises(AccountError, match="used already or is too old"):
        accounts.accept_invitation(token, PASSWORD)
    late = accounts.reset_link("ada")
    clock.now += INVITATION_S + 1
    assert accounts.invited(late) is None
    void = accounts.reset_link("ada")
    accounts.change_password("ada", PASSWORD)
    assert accounts.invited(void) is None


def _sign_up(var: Path, name: str, results: multiprocessing.Queue[str]) -> None:
    try:
        Accounts(Site(root=var), bcrypt_rounds=4).sign_up(name, PASSWORD)
        results.put("made")
    except AccountError as error:
        results.put(str(error))


def test_processes_write_at_once_and_one_gets_the_name(accounts: Accounts, site: Site) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_sign_up, args=(site.root, "ada", results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    answers = sorted(results.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert answers[-1] == "made"
    assert all("'ada' is taken" in answer for answer in answers[:-1])
    assert len(accounts.pending()) == 1


# --- The instructor and the code


def test_the_instructor_gets_a_password_once(site: Site, accounts: Accounts) -> None:
    path = ensure_instructor(site)
    assert path == site.secrets / "instructor-password"
    assert mode(path) == 0o600
    password = path.read_text().strip()
    assert ensure_instructor(site) == path
    assert path.read_text().strip() == password
    account = accounts.verify("instructor", password)
    assert account is not None
    assert account.instructor
    assert accounts.instructors() == ["instructor"]
    with pytest.raises(AccountError, match="never reset by a link"):
        accounts.reset_link("instructor")


def test_a_learner_is_not_made_an_instructor(site: Site, accounts: Accounts) -> None:
    accounts.sign_up("ada", PASSWORD, admitted=True)
    with pytest.raises(AccountError, match="is a learner's account"):
        ensure_instructor(site, "ada")
    assert accounts.verify("ada", PASSWORD) is not None
    assert accounts.instructors() == []


def test_the_enrolment_code(site: Site) -> None:
    path = ensure_enrolment_code(site)
    assert mode(path) == 0o600
    code = path.read_text().strip()
    assert ensure_enrolment_code(site).read_text().strip() == code
    assert is_enrolment_code(site, code)
    assert is_enrolment_code(site, f" {code.upper().replace('-', ' ')} ")
    for wrong in ("", code[:-1], code + "a", "ééé", "\udcff"):
        assert not is_enrolment_code(site, wrong)
    write_private(path, "\n")
    assert not is_enrolment_code(site, "")


# --- The roster


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_roster_makes_accounts_and_links(site: Site, accounts: Accounts, tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.csv",
        '\ufeffusername,name,email\r\nada,"Lovelace, Ada",ada@example.org\r\n\r\nbob,,\r\n',
    )
    links = roster.import_roster(site, path)
    assert mode(links) == 0o600
    lines = links.read_text().splitlines()
    assert lines[0] == "username,name,email,link"
    assert lines[1].startswith(
        'ada,"Lovelace, Ada",ada@example.org,http://localhost:8000/hub/invitation?token='
    )
    assert accounts.verify("ada", "") is None
    token = lines[2].rsplit("=", 1)[1]
    assert accounts.accept_invitation(token, PASSWORD) == "bob"
    account = accounts.verify("bob", PASSWORD)
    assert account is not None
    assert account.admitted
    assert not account.instructor


HEADER = "username,name,email\n"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("", 1, "the header is ''"),
        ("name,username,email\nada,,\n", 1, "expected 'username,name,email'"),
        (HEADER + "ada,Ada,ada@example.org\nbob,Bob\n", 3, "2 fields; expected 3"),
        (HEADER + "ada,Ada,\nBob,Bob,\n", 3, "'Bob' cannot be used"),
        (HEADER + "ada,Ada,\nhub,,\n", 3, "'hub' is reserved"),
        (HEADER + "ada,Ada,\n\nada,Again,\n", 4, "stands in line 2 already"),
        (HEADER + "ada,Ada,nonsense\n", 2, "no email address"),
        (HEADER + 'ada,"Ada,\n', 2, "unexpected end of data"),
        (HEADER.encode() + b"ada,Ad\xe9,\n", 2, "not UTF-8"),
        (HEADER + "bob,Bob,\nold,Old,\n", 3, "'old' has an account already"),
        (HEADER + "bob,Bob,\ninstructor,Eve,\n", 3, "'instructor' is reserved"),
    ],
)
def test_a_broken_roster_imports_nothing(
    site: Site,
    accounts: Accounts,
    tmp_path: Path,
    text: str | bytes,
    line: int,
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    accounts.sign_up("old", PASSWORD, admitted=True)
    path = write(tmp_path / "r.csv", text)
    assert cli.roster(path) == 2
    message = capsys.readouterr().err
    assert f"{path}, line {line}: " in message
    assert why in message
    assert message.count("\n") == 1
    assert accounts.find("ada") is None
    assert accounts.find("bob") is None
    assert accounts.verify("old", PASSWORD) is not None
    assert not list(site.secrets.glob("invitations*"))


def test_a_roster_that_is_not_there(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.roster(tmp_path / "none.csv") == 2
    assert "none.csv: cannot be read (No such file or directory)" in capsys.readouterr().err


# --- The operator's commands


def test_the_commands(site: Site, accounts: Accounts, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.pending_learners() == 0
    assert "Nobody waits" in capsys.readouterr().out
    accounts.sign_up("ada", PASSWORD, full_name="[red]Ada[/]")
    assert cli.pending_learners() == 0
    assert "[red]Ada[/]" in capsys.readouterr().out
    assert cli.admit_learner("ada") == 0
    assert cli.admit_learner("ada") == 2
    assert "is admitted already" in capsys.readouterr().err
    assert cli.admit_learner("eve") == 2
    assert "has not signed up" in capsys.readouterr().err
    accounts.sign_up("eve", PASSWORD)
    assert cli.refuse_learner("eve") == 0
    assert cli.refuse_learner("eve") == 2
    capsys.readouterr()
    assert cli.reset_password("ada") == 0
    token = capsys.readouterr().out.strip().rsplit("=", 1)[1]
    assert accounts.invited(token) == "ada"
    assert cli.reset_password("eve") == 2
    old = ensure_instructor(site).read_text()
    assert cli.reset_password("instructor") == 0
    new = (site.secrets / "instructor-password").read_text()
    assert new != old
    assert accounts.verify("instructor", new.strip()) is not None
    assert accounts.verify("instructor", old.strip()) is None
    assert cli.add_instructor("grace-h") == 0
    assert cli.add_instructor("ada") == 2
    assert store.instructors(site) == ["grace-h", "instructor"]
