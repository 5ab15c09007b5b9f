"""People at the site, in the system's Chromium: a class of them, each with a session of their own."""

from __future__ import annotations

import re
import shutil
from types import TracebackType
from typing import Any

from playwright.sync_api import Locator, Page, expect, sync_playwright

from distlab.course.site import Site

PATIENCE_MS = 180_000
"""For what starts processes: a learner's server, a grading run."""

CHROMIUM_FLAGS = (
    "--no-sandbox",  # as root, as in CI, Chromium refuses its own
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


expect.set_options(timeout=30_000)


class Browser:
    """Chromium for the time of a `with` block."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self) -> Browser:
        self._playwright = sync_playwright().start()
        executable = shutil.which("chromium") or shutil.which("chromium-browser")
        self.chromium = self._playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.chromium.close()
        self._playwright.stop()

    def person(self, name: str, password: str = "a long enough passphrase") -> Person:
        return Person(self, name, password)


class Person:
    """One person in a browser profile of their own."""

    def __init__(self, browser: Browser, name: str, password: str) -> None:
        self.site, self.name, self.password = browser.site, name, password
        self.context = browser.chromium.new_context(
            base_url=self.site.url, viewport={"width": 1280, "height": 900}
        )
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(30_000)

    def visit(self, path: str) -> None:
        self.page.goto(path)

    def leave(self) -> None:
        self.context.close()

    # --- Accounts

    def sign_up(self, code: str = "") -> None:
        page = self.page
        page.goto("/hub/signup")
        page.get_by_label("User name").fill(self.name)
        page.get_by_label("Password", exact=True).fill(self.password)
        page.get_by_label("The same once more").fill(self.password)
        page.get_by_label("Enrolment code").fill(code)
        page.get_by_role("button", name="Sign up").click()

    def log_in(self) -> None:
        """Fill in the login form, at the page that shows it or at the Hub's own."""
        if "/hub/login" not in self.page.url:
            self.page.goto("/hub/login")
        self.page.get_by_label("User name").fill(self.name)
        self.page.get_by_label("Password", exact=True).fill(self.password)
        self.page.get_by_role("button", name="Sign in").click()

    # --- Labs

    def open_lab(self) -> None:
        """Click *Open the lab* on the page that is open, and wait for the notebook."""
        self.page.get_by_role("link", name="Open the lab").first.click()
        self.await_notebook()

    def await_notebook(self) -> None:
        self.page.wait_for_url(re.compile(r"/lab/"), timeout=PATIENCE_MS)
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=PATIENCE_MS)

    def run_first_cell(self) -> None:
        expect(self._kernel()).to_contain_text("Idle", timeout=PATIENCE_MS)
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").first
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        expect(cell.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"), timeout=PATIENCE_MS)

    def run_all_cells(self) -> None:
        """Run the whole notebook, and wait until its kernel has nothing left to do."""
        expect(self._kernel()).to_contain_text("Idle", timeout=PATIENCE_MS)
        self.menu("Run", "Run All Cells")
        expect(self._kernel()).to_contain_text("Busy", timeout=PATIENCE_MS)
        expect(self._kernel()).to_contain_text("Idle", timeout=PATIENCE_MS)

    def _kernel(self) -> Locator:
        """The kernel's state, in JupyterLab's status bar."""
        return self.page.locator("#jp-main-statusbar").get_by_text(re.compile(r"Python 3 .*\| "))

    def menu(self, *path: str) -> None:
        """Choose from JupyterLab's menu bar, e.g. `menu("Run", "Run All Cells")`."""
        menus, *items = path
        self.page.locator(f'.lm-MenuBar-itemLabel:text-is("{menus}")').click()
        for item in items:
            self.page.locator(f'.lm-Menu-itemLabel:text-is("{item}")').click()

    # --- nbgrader in JupyterLab

    def assignment_list(self) -> None:
        self.menu("Nbgrader", "Assignment List")
        expect(self.page.locator("#released_assignments_list")).to_be_visible()

    def put_notebook(self, path: str, notebook: dict[str, Any]) -> None:
        """Store a notebook in one's own home, as the open JupyterLab page would."""
        status = self.page.evaluate(
            """async ([url, content]) => {
                const token = document.cookie.match(/(?:^|; )_xsrf=([^;]*)/)[1];
                const body = JSON.stringify({type: "notebook", format: "json", content});
                const headers = {"Content-Type": "application/json", "X-XSRFToken": token};
                return (await fetch(url, {method: "PUT", body, headers})).status;
            }""",
            [f"/user/{self.name}/api/contents/{path}", notebook],
        )
        assert status == 200, status
