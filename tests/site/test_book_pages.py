"""Every page of the real book in a real browser, served as the Hub serves it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Request, expect
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from distlab.course.book import build_book
from distlab.course.book_server import book_handlers
from distlab.course.site import Site
from tests.site.browser import Browser

REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy: ${event.violatedDirective} refused ${event.blockedURI || event.sample}`);
});
"""
SIZES = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}


@dataclass(frozen=True)
class Served:
    """The built book and where it answers."""

    html: Path
    url: str

    @property
    def pages(self) -> list[str]:
        return sorted(page.relative_to(self.html).as_posix() for page in self.html.rglob("*.html"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The book, built if it has changed, behind the Hub's handlers on a free port."""
    site = Site.from_env()
    html = build_book(site).resolve()
    started = threading.Event()
    address: list[str] = []
    loops: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = HTTPServer(
            Application([("/hub" + pattern, *rest) for pattern, *rest in book_handlers(site)])
        )
        (socket,) = bind_sockets(0, "127.0.0.1")
        address.append(f"http://127.0.0.1:{socket.getsockname()[1]}/hub/book/")
        server.add_socket(socket)
        started.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    started.wait()
    yield Served(html, address[0])
    loops[0].call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(Site.from_env()) as started:
        yield started


@dataclass
class Watch:
    """What a browser context asks for and complains of."""

    url: str
    faults: list[str] = field(default_factory=list)

    def over(self, context: BrowserContext) -> None:
        context.add_init_script(REPORT_VIOLATIONS)
        context.on("request", self.request)
        context.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        context.on("console", self.console)
        context.on(
            "weberror", lambda error: self.faults.append(f"{error.page and error.page.url}: {error.error}")
        )
        context.on(
            "response",
            lambda response: (
                response.status >= 400 and self.faults.append(f"{response.status}: {response.url}")
            ),
        )

    def request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"asked for {request.url}")

    def console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"{message.page and message.page.url}: {message.text}")


@pytest.fixture
def context(request: pytest.FixtureRequest, browser: Browser) -> Iterator[BrowserContext]:
    size, scheme = getattr(request, "param", ("desktop", "light"))
    made = browser.chromium.new_context(viewport=SIZES[size], color_scheme=scheme)
    yield made
    made.close()


def read(page: Page, url: str) -> None:
    """Open a page, scroll through it, and wait until everything it asks for has come."""
    page.goto(url)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    page.wait_for_load_state("networkidle")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "context", [("desktop", "light"), ("phone", "dark")], indirect=True, ids=["desktop", "phone"]
)
def test_every_page_stays_at_home_and_in_its_width(served: Served, context: BrowserContext) -> None:
    watch = Watch(served.url)
    watch.over(context)
    page = context.new_page()
    assert "index.html" in served.pages
    for name in served.pages:
        read(page, served.url + name)
        assert page.evaluate("document.compatMode") == "CSS1Compat"
        excess = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        if excess > 0:
            watch.faults.append(f"{name} is {excess} px wider than the window")
        watch.faults += [f"{name}: {fault}" for fault in page.evaluate(ACCESSIBILITY)]
    assert not watch.faults, "\n".join(watch.faults)


ACCESSIBILITY = """() => {
  const faults = [];
  const seen = (element) => element.getClientRects().length > 0;
  if ([...document.querySelectorAll("h1")].filter(seen).length !== 1) faults.push("not exactly one h1");
  if (!document.documentElement.lang) faults.push("no language");
  for (const image of document.querySelectorAll("main img:not([alt])")) faults.push(`no alt: ${image.src}`);
  const named = "[aria-label], [aria-labelledby], [aria-hidden]";
  for (const drawing of document.querySelectorAll(`main figure svg:not(${named})`))
    faults.push(`a figure without a name: ${drawing.outerHTML.slice(0, 80)}`);
  for (const control of document.querySelectorAll("a[href], button")) {
    const image = control.querySelector("img[alt], svg[aria-label]");
    const name = control.textContent.trim() || control.ariaLabel || control.title || image;
    if (seen(control) && !name) faults.push(`a control without a name: ${control.outerHTML.slice(0, 80)}`);
  }
  let level = 1;
  for (const heading of document.querySelectorAll("main :is(h1, h2, h3, h4)")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) faults.push(`heading "${heading.textContent}" skips a level`);
    level = next;
  }
  for (const box of document.querySelectorAll("main pre, .pst-scrollable-table-container"))
    if (seen(box) && box.scrollWidth > box.clientWidth + 1 && box.tabIndex !== 0)
      faults.push(`the keyboard cannot scroll ${box.textContent.trim().slice(0, 40)}`);
  return faults;
}"""


def test_links_within_the_book_lead_somewhere(served: Served, context: BrowserContext) -> None:
    page = context.new_page()
    targets = set()
    for name in served.pages:
        page.goto(served.url + name)
        targets |= set(page.eval_on_selector_all("main a[href]", "links => links.map((link) => link.href)"))
    inside = {target.split("#")[0] for target in targets if target.startswith(served.url)}
    assert inside, "no page links to another"
    for target in sorted(inside):
        assert context.request.get(target).status == 200, target


@pytest.mark.parametrize(
    "context", [("desktop", "light"), ("phone", "light")], indirect=True, ids=["desktop", "phone"]
)
def test_search_finds_the_chapter(served: Served, context: BrowserContext) -> None:
    watch = Watch(served.url)
    watch.over(context)
    page = context.new_page()
    page.goto(served.url)
    page.locator("button.search-button__button:visible, button.search-button:visible").first.click()
    field = page.locator("#pst-search-dialog input[type=search]")
    field.fill("NCCL")
    field.press("Enter")
    expect(page).to_have_url(f"{served.url}search.html?q=NCCL")
    found = page.locator("#search-results a", has_text="Multi-GPU and distributed").first
    expect(found).to_be_visible()
    page.wait_for_load_state("networkidle")  # the search reads every page that it found, for a summary
    found.click()
    expect(page.locator("article h1")).to_contain_text("Multi-GPU and distributed")
    assert not watch.faults, "\n".join(watch.faults)


def test_formulas_are_set(served: Served, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{served.url}mod-107/05-multi-gpu-and-distributed.html")
    expect(page.locator("mjx-container").first).to_be_visible()
    assert page.locator("mjx-merror").count() == 0


def test_the_keyboard_reaches_the_text_and_the_lab(served: Served, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(f"{served.url}mod-107/lab-3.html")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to main content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    button = page.get_by_role("link", name="Open the lab: MOD-107 Lab 3")
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("link => link === document.activeElement"):
            break
    expect(button).to_be_focused()
    assert button.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    assert button.get_attribute("href") == "/hub/user-redirect/distlab/open?lab=mod-107-lab-3"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(served: Served, browser: Browser, scheme: str) -> None:
    """Contrast of 4.5:1 (3:1 for large text), as WCAG 2.2 (1.4.3) asks, of every text."""
    context = browser.chromium.new_context(viewport=SIZES["desktop"], color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    faint: list[str] = []
    for name in served.pages:
        page.goto(served.url + name)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        faint += [f"{name}: {text}" for text in page.evaluate(FAINT_TEXTS)]
    context.close()
    assert not faint, "\n".join(faint)


FAINT_TEXTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || element.closest("script, style, noscript, svg, mjx-container, .visually-hidden, dialog")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const [a, b] = [luminance(rgba(style.color)), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < (large ? 3 : 4.5))
      faint.add(`${ratio.toFixed(2)}:1 ${element.tagName}.${element.className} "${text.slice(0, 40)}"`);
  }
  return [...faint];
}"""
