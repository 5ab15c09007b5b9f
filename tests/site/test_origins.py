"""No page of a learner's acts with another's session."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import Page

from distlab.course.site import Site
from tests.site.browser import Browser

pytestmark = pytest.mark.site

ATTACK = """<!doctype html><title>attack</title><script>
const attempts = {};
const attempt = async (name, act) => {
    try { attempts[name] = await act(); } catch (error) { attempts[name] = `refused: ${error.name}`; }
};
const hub = "HUB", server = "SERVER";
const read = async (url, options) =>
    (await (await fetch(url, {credentials: "include", ...options})).text()).slice(0, 200);
(async () => {
    await attempt("read the Hub's API", () => read(hub + "/hub/api/user"));
    await attempt("read the enrolment page", () => read(hub + "/hub/enrolment"));
    await attempt("read the instructor's files", () => read(server + "/api/contents"));
    await attempt("start a kernel", () => read(server + "/api/kernels", {method: "POST", body: "{}"}));
    await attempt("frame the Hub", async () => {
        const frame = document.createElement("iframe");
        frame.src = hub + "/hub/home";
        document.body.append(frame);
        await new Promise(done => { frame.onload = frame.onerror = done; });
        return frame.contentDocument.body.innerHTML.slice(0, 200);
    });
    await attempt("set the Hub's cookie", async () => {
        document.cookie = "_xsrf=forged; domain=" + new URL(hub).hostname + "; path=/";
        return document.cookie.includes("forged") ? "set" : "refused: ignored";
    });
    document.title = "done";
    document.body.textContent = JSON.stringify(attempts);
})();
</script><body></body>"""


def test_a_learners_page_cannot_act_with_the_instructors_session(site: Site) -> None:
    """The page answers at a learner's own address: what runs there is under the learner's control."""
    password = (site.secrets / "instructor-password").read_text().strip()
    server = f"http://instructor.{site.host}:{site.port}/user/instructor"
    with Browser(site) as browser:
        instructor = browser.person("instructor", password)
        instructor.visit("/hub/user-redirect/lab")
        instructor.log_in()
        instructor.page.wait_for_url("**/lab**", timeout=90_000)
        before = kernels(instructor.page, server)

        attack = ATTACK.replace("HUB", site.url).replace("SERVER", server)
        address = f"http://eve.{site.host}:{site.port}/user/eve/files/attack.html"
        instructor.context.route(address, lambda route: route.fulfill(body=attack, content_type="text/html"))
        page = instructor.context.new_page()
        page.goto(address)
        page.wait_for_function("document.title === 'done'")
        attempts = json.loads(page.inner_text("body"))

        assert len(attempts) == 6
        assert {name: result for name, result in attempts.items() if not result.startswith("refused")} == {}
        assert kernels(instructor.page, server) == before


def kernels(page: Page, server: str) -> int:
    """How many kernels run on the instructor's server, asked with the instructor's own session."""
    running = page.evaluate(
        """async url => {
            const token = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)[1];
            return await (await fetch(url, {headers: {"X-XSRFToken": token}})).json();
        }""",
        f"{server}/api/kernels",
    )
    assert isinstance(running, list), running
    return len(running)
