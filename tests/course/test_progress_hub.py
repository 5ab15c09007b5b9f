"""The progress page at a real Hub: who sees whose, what it says, and how it reads in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import requests
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import expect

from distlab.course.accounts.store import Accounts
from distlab.course.site import LEARN, TEACH
from tests.course.hub_rig import PASSWORD, Browser, Hub, running_hub
from tests.course.progress_rig import HEAD, LAB, MODULE, PROJECT, QUIZ, Exchange
from tests.site.browser import Browser as Chromium
from tests.site.test_book_pages import ACCESSIBILITY, FAINT_TEXTS, SIZES

NAMES = ("ann", "bob", "carl")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Ann has passed and handed in everything, Bob something; Carl nothing; Dora waits to be admitted."""
    with running_hub(tmp_path_factory.mktemp("site")) as started:
        site = started.site
        exchange = Exchange(site, tmp_path_factory.mktemp("work"))
        with closing(Accounts(site, bcrypt_rounds=4)) as accounts:
            for name in (*NAMES, "dora"):
                accounts.sign_up(name, PASSWORD, admitted=name != "dora")
        for lab, points in ((LAB, 86.25), (QUIZ, 92.0)):
            exchange.release(exchange.submit("ann", lab.id), HEAD.format(points, 100.0))
        exchange.submit("ann", PROJECT.id)
        exchange.release(exchange.submit("bob", QUIZ.id), HEAD.format(71.0, 100.0))
        exchange.submit("bob", QUIZ.id)
        (site.homes / "bob" / LAB.id).mkdir(parents=True)
        page = site.book / "html" / "mod-9" / "lab-1.html"
        page.parent.mkdir(parents=True)
        page.write_text("the lab's page")
        yield started


def signed_in(hub: Hub, name: str) -> Browser:
    browser = hub.browser()
    assert browser.sign_in(name, PASSWORD).status_code == 302
    return browser


def main_of(reply: requests.Response) -> Tag:
    found = BeautifulSoup(reply.content, "html.parser").find("main")
    assert isinstance(found, Tag), reply.text
    return found


def words(tag: Tag) -> str:
    return " ".join(tag.get_text(" ").split()).replace(" ,", ",").replace(" :", ":")


def rows(reply: requests.Response) -> dict[str, list[str]]:
    """The cells of the table's body, by the id of the row."""
    return {
        str(row.get("id")): [words(cell) for cell in row.find_all("td")]
        for row in main_of(reply).select("tbody tr")
    }


def token(hub: Hub, browser: Browser, name: str, *scopes: str) -> str:
    """A token as a server has one."""
    made = browser.session.post(
        f"{hub.site.url}/hub/api/users/{name}/tokens",
        json={"scopes": list(scopes)},
        headers={"X-XSRFToken": str(browser.session.cookies.get("_xsrf", path="/hub/"))},
        timeout=30,
    )
    assert made.status_code == 201, made.text
    return str(made.json()["token"])


def ask(hub: Hub, token: str, query: str = "") -> tuple[int, Any]:
    reply = requests.get(
        f"{hub.site.url}/hub/api/progress{query}", headers={"Authorization": f"token {token}"}, timeout=30
    )
    return reply.status_code, reply.json()


# --- What it says


def test_a_learner_who_did_nothing_sees_what_there_is_to_do(hub: Hub) -> None:
    reply = signed_in(hub, "carl").get("/hub/progress")
    assert rows(reply) == {
        "mod-9-lab-1": ["not opened", "none released", "80% of the points", "not done", "Open Lab 1 in JupyterLab"],
        "mod-9-quiz": ["not opened", "none released", "80% of the points", "not done", "Open Quiz in JupyterLab"],
        "mod-9-lab-8": ["not yet available", "none released", "nothing", "not done", "–"],
        "mod-9-lab-9": ["not opened", "none released", "a submission", "not done", "Open Project in JupyterLab"],
    }  # fmt: skip
    main = main_of(reply)
    note = main.select_one(".note")
    assert note is not None
    assert words(note) == (
        "Not complete, 0 of 3 parts are done; still missing are Lab 1, Quiz, Project: not opened."
    )
    links = {words(link): link["href"] for link in main.find_all("a")}
    assert links["Open Lab 1 in JupyterLab"] == "/hub/user-redirect/distlab/open?lab=mod-9-lab-1"
    assert links["Add"] == "/hub/book/mod-9/lab-1.html"
    assert "Ask" not in links, "the book has no page of the quiz"
    assert links["Lab 1"] == "#mod-9-lab-1"


def test_released_marks_and_what_is_missing(hub: Hub) -> None:
    reply = signed_in(hub, "bob").get("/hub/progress")
    state, points, _, done, _ = rows(reply)["mod-9-quiz"]
    moment = r"20\d\d-\d\d-\d\d \d\d:\d\d UTC"
    assert re.fullmatch(f"marked; submitted {moment}, again {moment}, of which no marks are released", state)
    assert (points, done) == ("71 of 100 (71%), not passed", "not done")
    assert rows(reply)["mod-9-lab-1"][0] == "opened"
    note = main_of(reply).select_one(".note")
    assert note is not None
    assert words(note) == (
        "Not complete, 0 of 3 parts are done; still missing are Lab 1: opened, not submitted; "
        "Quiz: 71% of the 80% needed; Project: not opened."
    )


def test_the_gate_is_complete(hub: Hub) -> None:
    reply = signed_in(hub, "ann").get("/hub/progress")
    note = main_of(reply).select_one(".note")
    assert note is not None
    assert words(note) == "Complete: all 3 parts are done."
    assert rows(reply)["mod-9-lab-1"][1] == "86.25 of 100 (86.2%), passed"
    assert [row[3] for row in rows(reply).values()] == ["done", "done", "not done", "done"]


def test_the_bar_and_the_home_lead_there(hub: Hub) -> None:
    page = BeautifulSoup(signed_in(hub, "carl").get("/hub/home").text, "html.parser")
    for where in ("header nav", "main"):
        assert page.select(f'{where} a[href="/hub/progress"]'), where
    assert not BeautifulSoup(hub.browser().get("/hub/login").text, "html.parser").select(
        'a[href="/hub/progress"]'
    )


# --- Who sees whose


def test_it_asks_who_you_are_first(hub: Hub) -> None:
    for path in ("/hub/progress", "/hub/progress/ann"):
        reply = hub.browser().get(path, follow=False)
        assert reply.status_code == 302
        assert reply.headers["Location"].startswith("/hub/login?next=%2Fhub%2Fprogress")
        assert "86.25" not in reply.text


def test_a_learner_sees_nobody_elses_nor_who_there_is(hub: Hub) -> None:
    browser = signed_in(hub, "carl")
    told = set()
    for name in ("ann", "bob", "dora", "instructor", "nobody", "carl%2F..%2Fann", "Ann", "carl%00"):
        reply = browser.get(f"/hub/progress/{name}")
        if reply.status_code == 403:
            told.add(words(main_of(reply)))
        assert reply.status_code in (403, 404), name
        assert "86.25" not in reply.text
    assert len(told) == 1, "the refusal says whether there is such a learner"
    for path in (
        "/hub/progress",
        "/hub/progress/carl",
        "/hub/progress?learner=ann",
        "/hub/progress?name=ann",
    ):
        text = browser.get(path).text
        assert "carl" in text
        for other in ("ann", "bob", "dora", "86.25"):
            assert not re.search(rf"\b{other}\b", text), (path, other)
    assert browser.get("/hub/progress/carl/").status_code == 404


def test_instructors_see_all_and_each(hub: Hub) -> None:
    instructor = hub.instructor()
    page = main_of(instructor.get("/hub/progress"))
    assert [words(row) for row in page.select("tbody tr")] == [
        "ann complete",
        "bob 0 of 3 done",
        "carl 0 of 3 done",
    ]
    reply = instructor.get(str(page.select("tbody a")[0]["href"]))
    assert words(main_of(reply).select("h1")[0]) == "Progress of ann"
    assert rows(reply)["mod-9-lab-1"][1] == "86.25 of 100 (86.2%), passed"
    assert not main_of(reply).select('a[href*="user-redirect"]'), "an instructor does not open it for her"
    for name in ("nobody", "dora", "instructor"):
        assert instructor.get(f"/hub/progress/{name}").status_code == 404


def test_a_server_may_ask_what_its_owner_may(hub: Hub) -> None:
    carl, teacher = signed_in(hub, "carl"), hub.instructor()
    own = token(hub, carl, "carl", LEARN)
    status, told = ask(hub, own)
    assert (status, list(told)) == (200, ["carl"])
    assert ask(hub, own, "?learner=carl") == (200, told)
    refused = [ask(hub, own, f"?learner={name}") for name in ("ann", "nobody", "dora", "instructor", "*")]
    assert {(status, answer["message"]) for status, answer in refused} == {
        (403, "You see your own progress here, and nobody else's.")
    }
    assert ask(hub, token(hub, carl, "carl", "read:users!user"))[0] == 403
    assert ask(hub, "no token")[0] == 401
    all_of = token(hub, teacher, "instructor", TEACH)
    status, told = ask(hub, all_of)
    assert (status, list(told)) == (200, list(NAMES))
    assert told["ann"][0]["complete"] is True
    assert list(ask(hub, all_of, "?learner=bob")[1]) == ["bob"]
    assert ask(hub, all_of, "?learner=dora")[0] == 404
    assert ask(hub, token(hub, teacher, "instructor", LEARN), "?learner=ann")[0] == 403


def test_a_browser_has_no_business_at_the_api(hub: Hub) -> None:
    reply = signed_in(hub, "ann").get("/hub/api/progress")
    assert reply.status_code == 401
    assert "86.25" not in reply.text


def test_it_is_the_sites_own_page_that_nobody_keeps(hub: Hub) -> None:
    other = hub.browser(Host=f"eve.{hub.site.host}:{hub.site.port}").get("/hub/progress", follow=False)
    assert (other.status_code, other.headers["Location"]) == (302, f"{hub.site.url}/hub/progress")
    headers = signed_in(hub, "carl").get("/hub/progress").headers
    assert headers["Cache-Control"] == "no-store"
    assert "unsafe-inline" not in headers["Content-Security-Policy"]


def test_a_wrong_table_is_told_to_the_log_alone(hub: Hub) -> None:
    table = hub.site.var / "completion.yml"
    right = table.read_text()
    try:
        table.write_text("- module: mod-9\n  titel: canary\n")
        reply = signed_in(hub, "carl").get("/hub/progress")
    finally:
        table.write_text(right)
    assert reply.status_code == 500
    assert "is wrong on this site" in words(main_of(reply))
    assert "canary" not in reply.text
    assert str(hub.site.var) not in reply.text
    assert "did you mean title?" in hub.log.read_text()


# --- How it reads


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_in_a_browser(hub: Hub, size: str, scheme: Any) -> None:
    password = (hub.site.secrets / "instructor-password").read_text().strip()
    with Chromium(hub.site) as chromium:
        for name, secret, paths in (
            ("bob", PASSWORD, ["/hub/progress"]),
            ("instructor", password, ["/hub/progress", "/hub/progress/ann"]),
        ):
            context = chromium.chromium.new_context(
                base_url=hub.site.url, viewport=SIZES[size], color_scheme=scheme
            )
            page = context.new_page()
            faults: list[str] = []
            page.on("console", lambda message, faults=faults: faults.append(message.text))
            page.goto("/hub/login?next=/hub/progress")
            page.get_by_label("User name").fill(name)
            page.get_by_label("Password", exact=True).fill(secret)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url("**/hub/progress")
            for path in paths:
                page.goto(path)
                assert page.evaluate("document.documentElement.dataset.bsTheme") == scheme
                faults += page.evaluate(ACCESSIBILITY) + page.evaluate(FAINT_TEXTS)
                excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                assert excess <= 0, f"{path} is {excess} px wider than the window"
                assert page.evaluate("document.querySelectorAll('main table > caption').length") == 1
                table = page.get_by_role("table")
                expect(table).to_have_count(1)
                assert page.get_by_role("columnheader").count() >= 2
                assert page.get_by_role("rowheader").count() >= 3
            assert not faults, "\n".join(faults)
            context.close()


def test_the_keyboard_reaches_what_is_missing_and_the_lab_without_scripts(hub: Hub) -> None:
    with Chromium(hub.site) as chromium:
        context = chromium.chromium.new_context(base_url=hub.site.url, java_script_enabled=False)
        page = context.new_page()
        page.goto("/hub/login?next=/hub/progress")
        page.get_by_label("User name").fill("bob")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("Your progress")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.locator(".note a").first).to_be_focused()
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"#{LAB.id}$"))
        for _ in range(2):
            page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Open Lab 1 in JupyterLab")).to_be_focused()
        expect(page.get_by_role("row", name=re.compile("Quiz"))).to_contain_text(
            "71 of 100 (71%), not passed"
        )
        assert len(MODULE.parts) + 1 == page.get_by_role("row").count()
        context.close()
