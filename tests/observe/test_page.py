"""Telemetry's live page: its server in front of a real Prometheus, and the page in a real browser."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import requests
from playwright.sync_api import BrowserContext, Page, Route, expect

from distlab import cli
from distlab.course.site import Site
from distlab.machine import LOOPBACK, free_port
from distlab.observe import show_page
from distlab.observe.page.answers import RANGES_S
from distlab.observe.panels import DASHBOARDS
from distlab.observe.stack import Stack
from tests.observe.stack_rig import EXPORT, INTERVAL_S, SCALE, until
from tests.site.browser import Browser
from tests.site.test_book_pages import ACCESSIBILITY, FAINT_TEXTS, SIZES, Watch


@contextlib.contextmanager
def served(*words: str) -> Iterator[str]:
    """`distlab observe page` on a free port; its address."""
    url = f"http://{LOOPBACK}:{(port := free_port())}"
    command = [sys.executable, "-m", "distlab.cli", "observe", "page", "--port", str(port), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert url in process.stderr.readline()
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.stderr.close()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A GPU of two is lost, and comes back."""
    folder = tmp_path_factory.mktemp("stack") / "telemetry"
    with Stack(folder, EXPORT, interval_s=INTERVAL_S, time_scale=SCALE) as made:
        yield made


@pytest.fixture(scope="module")
def url(stack: Stack) -> Iterator[str]:
    with served("--folder", str(stack.folder), "--book-url", "/book") as made:
        yield made


@pytest.fixture(scope="module")
def nobody() -> Iterator[str]:
    """The page of a Prometheus that is not there."""
    with served("--prometheus-url", f"http://{LOOPBACK}:{free_port()}") as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(Site.from_env()) as started:
        yield started


@pytest.fixture
def context(request: pytest.FixtureRequest, browser: Browser) -> Iterator[BrowserContext]:
    size, scheme = getattr(request, "param", ("desktop", "light"))
    made = browser.chromium.new_context(viewport=SIZES[size], color_scheme=scheme)
    made.set_default_timeout(20_000)
    yield made
    made.close()


def board_now(url: str, board: str, **values: str) -> dict[str, Any]:
    reply = requests.get(f"{url}/api/board/{board}", values, timeout=20)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


# --- The server


def test_it_tells_the_panels_as_they_are(url: str) -> None:
    told = requests.get(f"{url}/api/boards", timeout=20).json()
    assert [board["id"] for board in told["boards"]] == [board.id for board in DASHBOARDS]
    panels = {panel["id"]: panel for board in told["boards"] for panel in board["panels"]}
    shown = {panel.id: panel for board in DASHBOARDS for panel in board.panels}
    assert list(panels) == list(shown)
    assert panels["gpus-lost"]["runbook"] == "/book/resources/runbooks.html#gpu-lost"
    assert panels["utilization"]["queries"][0]["expr"] == shown["utilization"].queries[0].expr


def test_a_moment_without_a_sample_is_none(url: str) -> None:
    answer = until(
        lambda: (now := board_now(url, "fleet", range="300"))["panels"]["utilization"]["series"] and now,
        "data",
    )
    for series in answer["panels"]["utilization"]["series"]:
        assert len(series["values"]) == answer["points"] == 300 // answer["step_s"] + 1
        assert series["values"][0] is None, "nothing was measured before the exporter started"
        assert series["name"].endswith(f"GPU {series['labels']['gpu']}")
    assert answer["source"]["tiers"] == ["simulated"]
    assert 0 <= answer["now"] - answer["source"]["last_sample"] < 20


def test_an_alert_comes_with_its_words_and_its_runbook(url: str) -> None:
    def lost() -> list[dict[str, Any]]:
        series = board_now(url, "fleet")["panels"]["alerts"]["series"]
        return [one for one in series if one["labels"]["alertname"] == "GpuXidCritical"]

    (alert,) = until(lost, "the alert")
    assert alert["summary"] == f"XID 79 on GPU 1 of {socket.gethostname()}"
    assert alert["runbook"].endswith("/resources/runbooks.html#xid-79")


def test_a_choice_narrows_the_panels_and_no_promql_passes(url: str) -> None:
    chosen = board_now(url, "gpu", gpu="0", range="300")["panels"]["temperature"]["series"]
    assert {series["labels"]["gpu"] for series in chosen} == {"0"}
    for value in (".*", '0"} or vector(1) #', "0|1", "\\", "$gpu", "\n"):
        answer = board_now(url, "gpu", gpu=value)
        assert all(not panel["series"] and "problem" not in panel for panel in answer["panels"].values()), (
            value
        )


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("api/board/fleet?range=7", 400, "must be one of 300"),
        ("api/board/fleet?range=1e9", 400, "no number"),
        ("api/board/fleet?query=up", 400, "cannot be narrowed to 'query'"),
        ("api/board/fleet?Hostname=" + "x" * 300, 400, "longer than 256"),
        ("api/board/none", 404, "no such dashboard"),
        ("api/v1/query?query=up", 404, "Not Found"),
        ("api/v1/admin/tsdb/snapshot", 404, "Not Found"),
        ("page.py", 404, "Not Found"),
        ("../server.py", 404, "Not Found"),
    ],
)
def test_what_the_page_does_not_ask_is_refused(url: str, path: str, status: int, word: str) -> None:
    reply = requests.get(f"{url}/{path}", timeout=20)
    assert reply.status_code == status
    assert word in reply.text
    assert "Traceback" not in reply.text


def test_it_is_read_only_and_answers_under_no_foreign_name(url: str) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert requests.request(method, f"{url}/api/board/fleet", timeout=20).status_code == 405
    for host in ("rebound.example.org", "localhost.example.org:9480"):
        assert requests.get(f"{url}/api/boards", headers={"Host": host}, timeout=20).status_code == 403
    assert requests.get(url, headers={"Host": "localhost:1234"}, timeout=20).status_code == 200
    listening = {c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr.port == int(url[-5:])}
    assert listening <= {LOOPBACK}


def test_no_prometheus_is_one_sentence_with_the_next_step(nobody: str) -> None:
    answer = board_now(nobody, "fleet")
    assert answer["problem"].endswith("start it with: distlab observe up")
    assert "panels" not in answer


def test_what_cannot_be_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        for words, code, text in (
            (["--port", str(other.getsockname()[1])], 1, "choose another with --port"),
            (["--prometheus-url", "localhost:9090"], 2, "must begin with http://"),
            (["--port", "70000"], 2, "from 1 to 65535"),
        ):
            with pytest.raises(SystemExit) as ended:
                cli.main(["observe", "page", *words])
            assert ended.value.code == code
            assert text in capsys.readouterr().err


# --- The page


def opened(context: BrowserContext, url: str, board: str) -> Page:
    page = context.new_page()
    page.goto(f"{url}/#{board}")
    expect(page.locator("#panels")).to_have_attribute("aria-busy", "false")
    return page


@pytest.mark.parametrize(
    "context",
    [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")],
    indirect=True,
    ids="-".join,
)
def test_every_dashboard_can_be_read(url: str, context: BrowserContext) -> None:
    watch = Watch(url)
    watch.over(context)
    page = opened(context, url, "fleet")
    for board in DASHBOARDS:
        page.get_by_role("link", name=board.title, exact=True).click()
        expect(page.locator("#panels h2")).to_have_text(board.title)
        for panel in board.panels:
            place = page.locator(f"#{panel.id} .body")
            expect(place).not_to_contain_text("Loading")
            expect(place).not_to_be_empty()
        expect(page.locator("#tier")).to_contain_text("SIMULATED")
        expect(page.locator("#problem")).to_be_hidden()
        page.locator("details").evaluate_all("all => all.forEach((details) => (details.open = true))")
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        watch.faults += [f"{board.id}: {fault}" for fault in page.evaluate(ACCESSIBILITY)]
        watch.faults += [f"{board.id}: {fault}" for fault in page.evaluate(FAINT_TEXTS)]
    assert not watch.faults, "\n".join(watch.faults)


def test_a_chart_is_told_in_words_in_a_table_and_by_the_keyboard(url: str, context: BrowserContext) -> None:
    page = opened(context, url, "gpu?gpu=0")
    panel = page.locator("#temperature")
    chart = panel.get_by_role("img", name="Distance to slowdown, last 15 minutes. Now")
    expect(chart).to_be_visible()
    expect(panel.locator(".summary")).to_contain_text("GPU 0")
    chart.focus()
    page.keyboard.press("End")  # the point before it may be older than the first sample
    expect(page.locator("#announce")).to_contain_text("°C")
    first = page.locator("#announce").inner_text()
    page.keyboard.press("Home")
    expect(page.locator("#announce")).to_contain_text("no value")
    page.keyboard.press("End")
    # The cursor stays when the chart is drawn anew.
    page.evaluate("document.querySelector('#temperature .line').id = 'drawn-before'")
    ask_again(page)
    expect(page.locator("#drawn-before")).to_have_count(0)
    assert first
    expect(panel.locator(".chart")).to_be_focused()
    expect(panel.locator(".cursor")).to_have_attribute("visibility", "visible")
    panel.locator("summary").click()
    row = panel.get_by_role("row", name="GPU 0")
    expect(row.get_by_role("cell")).to_have_count(4)
    expect(panel).to_contain_text("look at the fans")
    expect(panel.get_by_role("link", name="Runbook")).to_have_attribute(
        "href", "/book/resources/runbooks.html#thermal-throttling"
    )


def test_choices_stay_in_the_address_and_lead_on(url: str, context: BrowserContext) -> None:
    page = opened(context, url, "fleet")
    page.locator("#utilization .legend a", has_text="GPU 1").click()
    expect(page).to_have_url(f"{url}/#gpu?Hostname={socket.gethostname()}&gpu=1")
    expect(page.locator("#variables").get_by_label("GPU")).to_have_value("1")
    page.locator("#variables").get_by_label("GPU").select_option("0")
    expect(page).to_have_url(f"{url}/#gpu?Hostname={socket.gethostname()}&gpu=0")
    expect(page.locator("#temperature .legend li")).to_have_count(1)
    page.go_back()
    expect(page.locator("#variables").get_by_label("GPU")).to_have_value("1")


def ask_again(page: Page) -> None:
    """At once, as when a page comes to the front again."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def canned(page: Page, change: dict[str, Any]) -> None:
    """Answer for the server from now on: `change` laid over what it says; None takes a key away."""

    def answer(route: Route) -> None:
        real = route.fetch().json()
        route.fulfill(json={**real, **change} if "problem" not in change else change)

    page.route("**/api/board/*", answer)


def test_a_gap_breaks_the_line(url: str, context: BrowserContext) -> None:
    values = [1.0, 2.0, None, None, 3.0, 2.0, None, 4.0]
    series = {"query": 0, "name": "host GPU 0", "labels": {"gpu": "0"}, "values": values}
    page = context.new_page()
    panels = {panel.id: {"series": [], "left_out": 0} for panel in DASHBOARDS[0].panels}
    panels["utilization"] = {"series": [series], "left_out": 3}
    panels["fleet-power"] = {"series": [series], "left_out": 0}
    canned(page, {"start": 0, "step_s": 2, "points": len(values), "panels": panels})
    page.goto(f"{url}/#fleet")
    line = page.locator("#utilization .line").first
    expect(line).to_have_count(1)
    assert str(line.get_attribute("d")).count("M") == 3
    assert str(page.locator("#fleet-power .area").get_attribute("d")).count("M") == 3
    expect(page.locator("#utilization .summary")).to_contain_text("It has gaps")
    expect(page.locator("#utilization")).to_contain_text("3 more series are left out")
    expect(page.locator("#alerts")).to_contain_text("No alert is firing.")


def test_each_gpu_of_a_server_has_a_colour_and_each_of_32_a_look(url: str, context: BrowserContext) -> None:
    made = [
        {"query": 0, "name": f"GPU {n}", "labels": {"gpu": f"{n}"}, "values": [1.0, 2.0]} for n in range(32)
    ]
    page = context.new_page()
    panels = {panel.id: {"series": [], "left_out": 0} for panel in DASHBOARDS[0].panels}
    panels["utilization"] = {"series": made, "left_out": 0}
    canned(page, {"start": 0, "step_s": 2, "points": 2, "panels": panels})
    page.goto(f"{url}/#fleet")
    expect(page.locator("#utilization .legend li")).to_have_count(32)
    for lines in ("#utilization .chart .line", "#utilization .legend .line"):
        looks = page.locator(lines).evaluate_all(
            "all => all.map((one) => [getComputedStyle(one).stroke, getComputedStyle(one).strokeDasharray])"
        )
        assert len({colour for colour, _ in looks[:8]}) == 8
        assert len({tuple(look) for look in looks}) == 32


def test_old_numbers_are_said_to_be_old(url: str, nobody: str, context: BrowserContext) -> None:
    page = opened(context, url, "fleet")
    expect(page.locator("#freshness")).to_contain_text("Last sample")
    canned(
        page, {"source": {"tiers": ["simulated"], "readable": True, "exporter": False, "last_sample": 1000.0}}
    )
    ask_again(page)
    expect(page.locator("#problem")).to_contain_text("The exporter does not answer Prometheus since")
    page.unroute("**/api/board/*")
    canned(page, {"problem": "Prometheus does not answer at nowhere"})
    ask_again(page)
    expect(page.locator("#problem")).to_contain_text("does not answer at nowhere")
    expect(page.locator("#freshness")).to_contain_text("Not live. What is shown is of")
    expect(page.locator("#grid")).to_have_class("old")
    page.unroute("**/api/board/*")
    page.goto(f"{nobody}/")
    expect(page.get_by_role("alert")).to_contain_text("distlab observe up")
    expect(page.locator("#gpus .body")).to_have_text("No data yet.")
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("does not answer. Is it still running?")


def test_it_can_be_paused(url: str, context: BrowserContext) -> None:
    page = opened(context, url, "fleet")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Range").select_option(str(RANGES_S[0]))
    expect(page.locator("#freshness")).to_contain_text("Paused.")
    assert len(asked) == 1


# --- In a notebook


def test_a_notebook_shows_the_page_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/alice/")
    assert show_page(height=700).src == "/user/alice/telemetry/"


def test_a_notebook_elsewhere_starts_a_page_that_ends_with_it(stack: Stack) -> None:
    code = (
        "import json, os\nfrom distlab.observe import show_page\n"
        f"page = show_page({stack.addresses.prometheus!r})\n"
        f"assert show_page({stack.addresses.prometheus!r}).src == page.src\nprint(page.src, flush=True)\ninput()"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB")}
    notebook = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert notebook.stdout is not None
    src = notebook.stdout.readline().strip()

    def answers() -> bool:
        with contextlib.suppress(requests.ConnectionError):
            reply = requests.get(src, timeout=20)
            return "http://localhost:*" in reply.headers["Content-Security-Policy"]
        return False

    until(answers, "the page")
    notebook.communicate("\n", timeout=20)
    until(lambda: not answers(), "the end of the page")
