"""The account pages of a real Hub behind its real proxy, driven over HTTP. No learner's server is started."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests
from bs4 import BeautifulSoup

from distlab.course.accounts import cli
from distlab.course.accounts.roster import import_roster
from distlab.course.accounts.store import Accounts
from tests.course.hub_rig import PASSWORD, STARTUP_S, Hub, running_hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("site")) as started:
        yield started


def alert(reply: requests.Response) -> str:
    """What the page's alert says."""
    note = BeautifulSoup(reply.text, "html.parser").find(role="alert")
    assert note is not None, reply.text
    return " ".join(note.get_text().split())


# --- Origins


@pytest.mark.parametrize("page", ["login", "signup", "change-password", "enrolment", "invitation?token=t"])
def test_no_page_for_passwords_answers_under_a_learners_host_name(hub: Hub, page: str) -> None:
    """The proxy leads to the Hub what no learner's server answers, `eve.HOST/hub/login` too."""
    browser = hub.browser(Host=f"eve.{hub.site.host}:{hub.site.port}")
    reply = browser.get(f"/hub/{page}", follow=False)
    assert (reply.status_code, reply.headers["Location"]) == (302, f"{hub.site.url}/hub/{page}")
    assert "password" not in reply.text
    password = (hub.site.secrets / "instructor-password").read_text().strip()
    token = browser.session.cookies.get("_xsrf", path="/hub/")
    fields = {"_xsrf": token, "username": "instructor", "password": password}
    reply = browser.session.post(f"{hub.site.url}/hub/{page}", data=fields, allow_redirects=False, timeout=30)
    assert reply.status_code == 403
    assert {cookie.name for cookie in browser.session.cookies} <= {"_xsrf"}


# --- Sign-up and admission


def test_the_right_code_admits_at_once_and_next_is_kept_to_the_end(hub: Hub) -> None:
    browser = hub.browser()
    lab = "/hub/user-redirect/distlab/open?lab=mod-107-lab-3"
    assert browser.get(lab, follow=False).status_code == 302
    page = BeautifulSoup(browser.get(lab).text, "html.parser")
    to_sign_up = page.find("a", href=re.compile("/hub/signup"))["href"]
    reply = browser.send(
        to_sign_up, username="ada", password=PASSWORD, password_again=PASSWORD, code=f" {hub.code.upper()} "
    )
    assert reply.status_code == 303
    sign_in = BeautifulSoup(browser.get(reply.headers["Location"]).text, "html.parser")
    assert "Your account is ready" in sign_in.find(role="status").get_text()
    assert sign_in.find(id="username_input")["value"] == "ada"
    reply = browser.sign_in("ada", PASSWORD, query=reply.headers["Location"].removeprefix("/hub/login"))
    assert (reply.status_code, reply.headers["Location"]) == (302, lab)


def test_a_wrong_code_makes_no_account(hub: Hub) -> None:
    reply = hub.browser("127.0.9.1").sign_up("wanda", code="abcd-efgh-ijkm-npqr")
    assert reply.status_code == 400
    assert "enrolment code is not right" in alert(reply)
    with closing(Accounts(hub.site)) as accounts:
        assert accounts.find("wanda") is None


def test_without_a_code_one_waits_until_the_instructor_admits(hub: Hub) -> None:
    browser = hub.browser()
    reply = browser.sign_up("grace", full_name="Grace H.", email="grace@example.org")
    assert "Waiting to be admitted" in reply.text
    refused = browser.sign_in("grace", PASSWORD)
    assert refused.status_code == 403
    assert "still waits to be admitted" in alert(refused)

    instructor = hub.instructor()
    page = instructor.get("/hub/enrolment")
    assert "Grace H." in page.text
    reply = instructor.send("/hub/enrolment", follow=True, username="grace", action="admit")
    assert "grace is admitted" in " ".join(BeautifulSoup(reply.text, "html.parser").get_text().split())
    assert browser.sign_in("grace", PASSWORD).status_code == 302


def test_the_operator_admits_while_the_hub_runs(hub: Hub) -> None:
    browser = hub.browser()
    browser.sign_up("olga")
    assert "olga" in [account.username for account in cli.pending(hub.site)]
    cli.admit(hub.site, "olga")
    assert browser.sign_in("olga", PASSWORD).status_code == 302


def test_a_refused_sign_up_is_gone_and_an_admitted_learner_cannot_be_refused(hub: Hub) -> None:
    instructor = hub.instructor()
    hub.browser().sign_up("rita")
    instructor.send("/hub/enrolment", username="rita", action="refuse")
    assert hub.browser().sign_in("rita", PASSWORD).status_code == 403
    hub.learner("stays")
    hub.browser().sign_up("other")  # so that there is a form on the page
    reply = instructor.send("/hub/enrolment", follow=True, username="stays", action="refuse")
    assert "no longer waits" in alert(reply)
    assert hub.browser().sign_in("stays", PASSWORD).status_code == 302


@pytest.mark.parametrize(
    "name", ["instructor", "hub", "www", "Ada", "ａda", "ada/..", "-ada", "ada-", "xn--da", "a" * 31, ""]
)
def test_names_that_are_taken_reserved_or_odd_are_refused(hub: Hub, name: str) -> None:
    reply = hub.browser("127.0.9.2").sign_up(name, code=hub.code)
    assert reply.status_code == 400
    assert re.search("cannot be used|is reserved|is taken", alert(reply))


def test_a_name_that_is_taken_keeps_its_password(hub: Hub) -> None:
    hub.learner("taken")
    reply = hub.browser().sign_up("taken", password="another pass phrase", code=hub.code)
    assert "is taken" in alert(reply)
    assert hub.browser().sign_in("taken", "another pass phrase").status_code == 403
    assert hub.browser().sign_in("taken", PASSWORD).status_code == 302


def test_a_roster_learner_chooses_a_password_by_a_link_that_works_once(hub: Hub, tmp_path: Path) -> None:
    roster = tmp_path / "roster.csv"
    roster.write_text("username,name,email\nrosa,Rosa L.,rosa@example.org\n")
    link = import_roster(hub.site, roster).read_text().splitlines()[1].rsplit(",", 1)[1]
    path = link.removeprefix(hub.site.url)
    browser = hub.browser()
    reply = browser.send(path, password="short", password_again="short")
    assert "at least 8" in alert(reply)
    assert browser.send(path, password=PASSWORD, password_again=PASSWORD).status_code == 303
    assert browser.sign_in("rosa", PASSWORD).status_code == 302
    assert hub.browser().get(path).status_code == 404
    token = path.rsplit("=", 1)[1]
    assert token not in hub.log.read_text()


# --- Passwords


def test_an_instructor_helps_who_forgot_the_password_but_no_instructor(hub: Hub) -> None:
    forgetful, instructor = hub.learner("fred"), hub.instructor()
    reply = instructor.send("/hub/enrolment", username="fred", action="link")
    link = BeautifulSoup(reply.text, "html.parser").find(role="status").find(class_="code").get_text()
    new = {"password": "remembered this time", "password_again": "remembered this time"}
    assert hub.browser().send(link.removeprefix(hub.site.url), **new).status_code == 303
    assert hub.browser().sign_in("fred", "remembered this time").status_code == 302
    assert "/hub/login" in forgetful.get("/hub/home").url
    reply = instructor.send("/hub/enrolment", username="instructor", action="link")
    assert "never reset by a link" in alert(reply)
    assert "token=" not in reply.text


def test_changing_the_password_ends_other_sessions(hub: Hub) -> None:
    here, elsewhere = hub.learner("carol"), hub.browser()
    elsewhere.sign_in("carol", PASSWORD)
    assert elsewhere.get("/hub/home").url.endswith("/hub/home")
    new = {"password": "quite another one", "password_again": "quite another one"}
    assert "not right" in alert(here.send("/hub/change-password", old_password="wrong one", **new))
    reply = here.send("/hub/change-password", old_password=PASSWORD, **new)
    assert "Your password is changed" in reply.text
    assert here.get("/hub/home").url.endswith("/hub/home")
    assert "/hub/login" in elsewhere.get("/hub/home").url
    assert hub.browser().sign_in("carol", PASSWORD).status_code == 403


def test_unknown_and_wrong_get_the_same_answer(hub: Hub) -> None:
    hub.learner("known")
    replies = [hub.browser("127.0.9.3").sign_in(name, "wrong password") for name in ("known", "unknown")]
    assert {reply.status_code for reply in replies} == {403}
    assert len({alert(reply) for reply in replies}) == 1


def test_hammering_the_instructor_locks_out_only_the_one_who_hammers(hub: Hub) -> None:
    at_home = hub.instructor("127.0.7.1")  # a browser in which the instructor signed in before
    at_home.get("/hub/logout")
    password = (hub.site.secrets / "instructor-password").read_text().strip()
    learner = hub.browser("127.0.7.1")
    while int((reply := learner.sign_in("instructor", "a guess")).headers.get("Retry-After", "0")) < 4:
        assert reply.status_code in (403, 429)
    assert "Too many failed attempts" in alert(reply)
    # Forged headers make no new source, and the right password does not help before the wait is over.
    for header in ("X-Forwarded-For", "X-Real-Ip"):
        forged = hub.browser("127.0.7.1", **{header: "203.0.113.9"})
        assert forged.sign_in("instructor", password).status_code == 429
    assert at_home.sign_in("instructor", password).status_code == 302
    hub.instructor("127.0.7.2")


# --- Rights


def test_the_instructor_is_no_admin(hub: Hub) -> None:
    instructor = hub.instructor()
    api = {"headers": {"Referer": f"{hub.site.url}/hub/home"}, "timeout": 30}
    xsrf = {"_xsrf": instructor.session.cookies.get("_xsrf", path="/hub/")}
    me = instructor.session.get(f"{hub.site.url}/hub/api/user", params=xsrf, **api).json()
    assert me["name"] == "instructor"
    assert me["admin"] is False
    assert me["groups"] == ["instructors"]
    assert not [
        scope for scope in me["scopes"] if scope.startswith("admin") or "users!" not in scope + "users!"
    ]
    assert instructor.session.get(f"{hub.site.url}/hub/api/users", params=xsrf, **api).status_code == 403
    reply = instructor.session.post(f"{hub.site.url}/hub/api/users/mallory", params=xsrf, **api)
    assert reply.status_code == 403
    assert instructor.get("/hub/admin").status_code == 403


def test_native_pages_that_act_on_others_do_not_exist(hub: Hub) -> None:
    instructor = hub.instructor()
    for path in ("authorize", "authorize/ada", "discard/ada", "change-password/ada"):
        assert instructor.get(f"/hub/{path}").status_code == 404


def test_learners_gain_no_group_and_do_not_see_enrolment(hub: Hub) -> None:
    learner = hub.learner("lena")
    xsrf = {"_xsrf": learner.session.cookies.get("_xsrf", path="/hub/")}
    me = learner.session.get(f"{hub.site.url}/hub/api/user", params=xsrf, timeout=30).json()
    assert (me["groups"], me["admin"]) == ([], False)
    assert learner.get("/hub/enrolment").status_code == 403
    hub.browser().sign_up("mate")
    reply = learner.session.post(
        f"{hub.site.url}/hub/enrolment", data={**xsrf, "username": "mate", "action": "admit"}, timeout=30
    )
    assert reply.status_code == 403
    assert hub.browser().sign_in("mate", PASSWORD).status_code == 403
    assert "enrolment" not in learner.get("/hub/home").text
    assert "/hub/enrolment" in hub.instructor().get("/hub/home").text
    assert "/hub/login" in hub.browser().get("/hub/enrolment").url


@pytest.mark.parametrize("path", ["login", "signup", "enrolment", "change-password", "invitation"])
def test_a_form_without_its_token_is_refused(hub: Hub, path: str) -> None:
    browser = hub.instructor()
    fields = {"username": "mallory", "password": PASSWORD, "password_again": PASSWORD, "code": hub.code}
    fields |= {"action": "admit", "old_password": "x"}
    for token in ({}, {"_xsrf": "made-up"}):
        reply = browser.session.post(f"{hub.site.url}/hub/{path}", data=fields | token, timeout=30)
        assert reply.status_code == 403
    with closing(Accounts(hub.site)) as accounts:
        assert accounts.find("mallory") is None


def test_what_strangers_typed_is_escaped(hub: Hub) -> None:
    markup = '<img src=x onerror="alert(1)">'
    reply = hub.browser().sign_up("evil", full_name=markup, email='"<script>"@x')
    assert "Waiting" in reply.text
    page = hub.instructor().get("/hub/enrolment").text
    assert "<img src=x" not in page
    assert '"<script>' not in page
    assert "&lt;img src=x" in page
    reply = hub.browser().sign_up('"><script>alert(1)</script>', code='"><b>')
    assert "<script>alert" not in reply.text
    assert '"><b>' not in reply.text
    assert "<script>" not in hub.browser().get('/hub/signup?next="><script>x</script>').text.split("<main")[1]


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "///evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
    ],
)
def test_nobody_is_sent_to_another_site(hub: Hub, target: str) -> None:
    hub.learner("redirect") if target.startswith("https") else None
    browser = hub.browser()
    page = BeautifulSoup(
        browser.get("/hub/login?next=" + requests.utils.quote(target, safe="")).text, "html.parser"
    )
    assert page.find("a", href=re.compile("signup"))["href"].startswith("/hub/signup?next=")
    reply = browser.sign_in("redirect", PASSWORD, query="?next=" + requests.utils.quote(target, safe=""))
    assert reply.status_code == 302
    assert reply.headers["Location"].startswith("/hub/home")


def test_pages_load_nothing_from_elsewhere_and_run_nothing_within_them(hub: Hub) -> None:
    instructor = hub.instructor()
    for path in ("login", "signup", "invitation", "nowhere", "change-password", "enrolment", "home"):
        browser = instructor if path in ("change-password", "enrolment", "home") else hub.browser()
        reply = browser.get(f"/hub/{path}")
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert f"form-action 'self' http://*.127.0.0.1:{hub.site.port}" in policy
        page = BeautifulSoup(reply.text, "html.parser")
        for element in page.find_all(["script", "link", "img"]):
            assert (element.get("src") or element.get("href") or "/").startswith("/")
        if path not in ("nowhere", "home"):  # JupyterHub's own pages have scripts within them
            assert "unsafe" not in policy
            assert all(script.get("src") for script in page.find_all("script"))
            assert not page.find(style=True)


# --- Telemetry


def test_instructors_alone_see_the_telemetry_of_the_machine(hub: Hub) -> None:
    stranger, learner, instructor = hub.browser(), hub.learner("tess"), hub.instructor()
    reply = stranger.get("/hub/telemetry/", follow=False)
    assert reply.status_code == 302
    assert reply.headers["Location"].startswith("/hub/login?next=%2Fhub%2Ftelemetry%2F")
    assert stranger.get("/hub/telemetry/api/board/fleet").status_code == 401
    for path in ("", "page.js", "api/boards", "api/board/fleet"):
        assert learner.get(f"/hub/telemetry/{path}").status_code == 403, path
    assert not (hub.site.var / "telemetry").exists(), "nobody who may see it has looked"

    page = instructor.get("/hub/telemetry")
    assert "<h1>Telemetry</h1>" in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert 'href="/hub/telemetry/"' in instructor.get("/hub/home").text
    assert 'href="/hub/telemetry/"' not in learner.get("/hub/home").text
    deadline = time.monotonic() + STARTUP_S
    while "problem" in (answer := instructor.get("/hub/telemetry/api/board/fleet").json()):
        assert "is starting" in answer["problem"], answer
        assert time.monotonic() < deadline, (hub.site.log / "telemetry.log").read_text()
        time.sleep(0.1)
    (gpus,) = answer["panels"]["gpus"]["series"]
    assert gpus["values"][0] > 0
    assert answer["source"]["tiers"] == [gpus["name"]]
