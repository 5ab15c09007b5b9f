"""Each check of `distlab observe validate` on pages that an exporter gives, and on ones that it must not give."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distlab.errors import SettingError
from distlab.observe import check_exporter as checks
from distlab.observe.check_prometheus import MALFORMED, alerts_now, alerts_routed, rules_loaded, target_up
from distlab.observe.exposition import Page
from distlab.observe.gpu_metrics import NOBODY, GpuMetrics, write_source
from distlab.observe.rules import Receivers, alertmanager_config, alerts, recorded
from distlab.observe.scrape import NoAnswerError, Scrape, fetch, parse, scrape
from distlab.observe.simulated import SimulatedSource
from distlab.observe.validate import validate
from distlab.predict.hardware.prices import read_prices
from tests.observe.stack_rig import until

EDITED = Callable[[str], str]


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    """Two pages of two simulated GPUs under training, two seconds apart."""
    now = [1000.0]
    source = SimulatedSource("training", gpus=2, clock=lambda: now[0])
    metrics = GpuMetrics(read_prices(None))
    texts = []
    for _ in range(2):
        now[0] += 2
        reading = source.read()
        metrics.take(reading)
        page = Page()
        write_source(page, "simulated", reading, up=True)
        metrics.write(page, reading, dict.fromkeys([gpu.uuid for gpu in reading.samples], NOBODY))
        texts.append(page.render().decode())
    return texts[0], texts[1]


def examined(pages: tuple[str, str], edit: EDITED = lambda text: text) -> dict[str, checks.Check]:
    """The checks of the two pages, the second one edited."""
    found = checks.check_exporter(parse(pages[0], 0.0), parse(edit(pages[1]), 2.0))
    return {check.name: check for check in found}


def setting(metric: str, value: str, gpu: int = 0) -> EDITED:
    """Give a GPU's metric another value."""

    def edit(text: str) -> str:
        new, count = re.subn(
            rf'^({metric}\{{gpu="{gpu}".*\}}) \S+$', rf"\1 {value}", text, flags=re.MULTILINE
        )
        assert count
        return new

    return edit


def without(pattern: str) -> EDITED:
    """Leave lines out."""

    def edit(text: str) -> str:
        new = re.sub(rf"^.*{pattern}.*\n", "", text, flags=re.MULTILINE)
        assert new != text
        return new

    return edit


def replacing(old: str, new: str) -> EDITED:
    def edit(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return edit


def test_what_the_exporter_gives_is_in_order(pages: tuple[str, str]) -> None:
    found = examined(pages)
    assert {check.state for check in found.values()} == {"ok"}
    assert found["GPUs"].found == "2: SIMULATED H100 80GB"
    assert found["Metrics"].found == "all 27, for each GPU"
    assert found["Memory"].found == "used, free and reserved add up to 79.6 GiB"


@pytest.mark.parametrize(
    ("check", "edit", "said"),
    [
        ("GPUs", replacing('gpus{tier="simulated"} 2', 'gpus{tier="simulated"} 3'), "2 on the page, 3 read"),
        ("GPUs", lambda text: text + 'distlab_gpu_lost{gpu="7"} 1\n', "GPU 7 was there and is lost"),
        ("GPUs", without("DCGM_FI"), "no GPU on the page"),
        ("Tier of the data", replacing('tier="simulated"', 'tier="gpu"'), "SIMULATED H100 80GB under another tier"),
        ("Tier of the data", replacing('modelName="SIMULATED H100', 'modelName="NVIDIA H100'), "under another tier"),
        ("Metrics", without('DCGM_FI_DEV_FB_USED.gpu="1"'), "missing: DCGM_FI_DEV_FB_USED"),
        ("Metrics", without("DCGM_FI_DEV_GPU_UTIL{"), "missing: DCGM_FI_DEV_GPU_UTIL"),
        ("Labels", replacing('device="nvidia0"', 'device="nvidia1"'), "device nvidia1 for gpu 0"),
        ("Labels", lambda text: re.sub(r'(DCGM_FI_DEV_GPU_TEMP.*),run=""', r"\1", text), "GPU_TEMP lacks run"),
        ("Labels", lambda text: re.sub(r'(DCGM_FI_DEV_GPU_TEMP.*),run=""', r'\1,run="",x=""', text), "has x"),
        ("Labels", lambda text: text + "DCGM_FI_DEV_GPU_HEAT 5\n", "DCGM_FI_DEV_GPU_HEAT is unknown"),
        ("Values", setting("DCGM_FI_DEV_GPU_UTIL", "101"), "DCGM_FI_DEV_GPU_UTIL of GPU 0 is 101"),
        ("Values", setting("DCGM_FI_DEV_GPU_UTIL", "-1"), "is -1"),
        ("Values", setting("DCGM_FI_DEV_GPU_TEMP", "0"), "DCGM_FI_DEV_GPU_TEMP of GPU 0 is 0"),
        ("Values", setting("DCGM_FI_DEV_GPU_TEMP", "NaN"), "is nan"),
        ("Values", setting("DCGM_FI_DEV_SM_CLOCK", "1981"), "DCGM_FI_DEV_SM_CLOCK of GPU 0 is 1981"),
        ("Values", setting("DCGM_FI_DEV_POWER_USAGE", "841"), "DCGM_FI_DEV_POWER_USAGE of GPU 0 is 841"),
        ("Values", setting("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "1.01"), "is 1.01"),
        ("Values", setting("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "-1"), "is -1"),
        ("Memory", setting("DCGM_FI_DEV_FB_FREE", "1", gpu=1), "moved from 81558 to"),
        ("Memory", replacing("H100 80GB", "H100 40GB"), "79.6 GiB on a SIMULATED H100 40GB"),
        ("Counters", setting("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "1"), "ENERGY_CONSUMPTION fell from"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(check: str, edit: EDITED, said: str, pages: tuple[str, str]) -> None:
    found = examined(pages, edit)[check]
    assert found.state == "fail"
    assert said in found.found
    assert found.fix


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", "100"),
        ("DCGM_FI_DEV_GPU_UTIL", "0"),
        ("DCGM_FI_DEV_SM_CLOCK", "1980"),
        ("DCGM_FI_DEV_POWER_USAGE", "840"),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "1"),
        ("DCGM_FI_DEV_GPU_TEMP", "110"),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "511"),
    ],
)
def test_the_limits_themselves_are_possible(metric: str, value: str, pages: tuple[str, str]) -> None:
    assert examined(pages, setting(metric, value))["Values"].state == "ok"


def test_values_that_stand_still_are_no_telemetry(pages: tuple[str, str]) -> None:
    found = examined((pages[1], pages[1]))
    assert found["Fresh"].state == "fail"
    assert {name for name, check in found.items() if check.state == "fail"} == {"Fresh"}


def test_one_gpu_that_stands_still_is_found_beside_another(pages: tuple[str, str]) -> None:
    old = dict(line.rsplit(" ", 1) for line in pages[0].split("\n") if 'gpu="1"' in line)
    lines = [line.rsplit(" ", 1) for line in pages[1].split("\n")]
    mixed = "\n".join(" ".join((words[0], old.get(words[0], words[-1]))) for words in lines)
    mixed = re.sub(
        r'^DCGM_FI_DEV_NVLINK.*gpu="1".*\n', "", mixed, flags=re.MULTILINE
    )  # not on the first page
    found = examined((pages[0], mixed))["Fresh"]
    assert found.state == "fail"
    assert found.found.count("GPU-") == 1


def test_dcgm_exporter_s_own_page_is_taken_with_notes(pages: tuple[str, str]) -> None:
    def plain(text: str) -> str:
        text = re.sub(r"^distlab.*\n", "", text, flags=re.MULTILINE).replace("SIMULATED", "NVIDIA")
        return re.sub(r',tier="[^"]*",job_name="[^"]*",run="[^"]*"', "", text)

    found = examined((plain(pages[0]), plain(pages[1])))
    assert {name for name, check in found.items() if check.state != "ok"} == {"Tier of the data", "Labels"}
    assert {check.state for check in found.values()} == {"ok", "warn"}


def test_what_a_model_does_not_tell_is_a_note(pages: tuple[str, str]) -> None:
    found = examined(pages, without("DCGM_FI_PROF_DRAM_ACTIVE"))["Metrics"]
    assert found.state == "warn"
    assert found.found == "26 of 27 for each GPU; not told: DCGM_FI_PROF_DRAM_ACTIVE"


def test_with_mig_the_instances_memory_does(pages: tuple[str, str]) -> None:
    def sliced(text: str) -> str:
        text = re.sub(r"^DCGM_FI_DEV_(GPU_UTIL|MEM_COPY_UTIL)\{.*\n", "", text, flags=re.MULTILINE)
        mig = ',GPU_I_PROFILE="1g.10gb",GPU_I_ID="3"'
        return re.sub(r"^(DCGM_FI_DEV_FB_(?:USED|FREE)\{.*)\}", rf"\1{mig}}}", text, flags=re.MULTILINE)

    found = examined((sliced(pages[0]), sliced(pages[1])))
    assert {name for name, check in found.items() if check.state != "ok"} == {"Memory"}
    assert found["Memory"].state == "warn"


# --- reading a page ---


def test_a_page_is_read_with_its_escapes_and_kinds() -> None:
    text = '# HELP a b c\n# TYPE a_total counter\na_total{x="q\\"}\\n\\\\",y=""} 1e3 1700000000000\n\nb NaN\nc -Inf\n'
    page = parse(text, 5.0)
    assert page.kinds == {"a_total": "counter"}
    assert [one.name for one in page.series] == ["a_total", "b", "c"]
    assert page.series[0].labels == {"x": 'q"}\n\\', "y": ""}
    assert page.series[0].value == 1000


@pytest.mark.parametrize(
    "text", ["<html>", "a", "a{", "a{x=1} 2", 'a{x="1"y="2"} 3', "a 1 2 3", "a b", '{x="1"} 2', 'a{x="1} 2']
)
def test_a_page_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|could not convert"):
        parse(text)


@contextmanager
def serving(status: int, body: bytes, headers: dict[str, str]) -> Iterator[str]:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [(200, b"<html>\x1b[2J", "no page of metrics"), (500, b"", "answers 500"), (200, b"\xff", "no page of metrics"),
     (302, b"", "answers 302")],
)  # fmt: skip
def test_an_answer_that_is_no_page_is_one_printable_sentence(status: int, body: bytes, said: str) -> None:
    with (
        serving(status, body, {"Location": "http://127.0.0.1:1/"}) as url,
        pytest.raises(NoAnswerError) as caught,
    ):
        scrape(url)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distlab.observe.scrape.MOST_BYTES", 1000)
    with serving(200, b"a 1\n" * 300, {}) as url, pytest.raises(NoAnswerError, match="more than"):
        fetch(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://[1", "file:///etc/passwd", "nothing"])
def test_an_address_without_an_answer_is_one_sentence(url: str) -> None:
    with pytest.raises(NoAnswerError, match="does not answer"):
        fetch(url)


# --- Prometheus and Alertmanager, on their answers ---

TARGET = {
    "labels": {"job": "distlab"},
    "scrapeUrl": "http://localhost:9400/metrics",
    "health": "up",
    "lastError": "",
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"health": "down", "lastError": "connection refused"}, "connection refused"),
        ({"health": "unknown"}, "not scraped yet"),
        ({"labels": {"job": "dcgm"}}, "no job distlab is scraped"),
        ({"scrapeUrl": "http://localhost:9401/metrics"}, "not http://127.0.0.1:9400/metrics"),
    ],
)
def test_a_target_that_is_not_right_is_named(change: dict[str, Any], said: str) -> None:
    exporter = "http://127.0.0.1:9400/metrics"
    assert target_up({"activeTargets": [TARGET]}, exporter).state == "ok"
    found = target_up({"activeTargets": [TARGET | change]}, exporter)
    assert found.state == "fail"
    assert said in found.found
    assert found.fix


def test_a_rule_that_is_missing_or_sick_is_named() -> None:
    every = [{"name": name, "health": "ok"} for name in (*alerts(), *recorded())]
    assert rules_loaded({"groups": [{"rules": every}]}).state == "ok"
    found = rules_loaded({"groups": [{"rules": [one for one in every if one["name"] != "GpuLost"]}]})
    assert (found.state, found.found) == ("fail", "1 are not loaded: GpuLost")
    sick = [*every, {"name": "Mine", "health": "err", "lastError": "many-to-many"}]
    found = rules_loaded({"groups": [{"rules": sick}]})
    assert (found.state, found.found) == ("fail", "Mine: many-to-many")


def test_alerts_that_nobody_gets_are_counted() -> None:
    assert alerts_routed(None).state == "fail"
    every = Receivers(page="http://x", ticket="http://x", log="http://x")
    assert alerts_routed(("http://am", alertmanager_config(every))).state == "ok"
    found = alerts_routed(("http://am", alertmanager_config(replace(every, page=None))))
    critical = sum(rule["labels"]["severity"] == "critical" for rule in alerts().values())
    assert found.state == "warn"
    assert f"page ({critical} alerts)" in found.found


@pytest.mark.parametrize(
    "config", ["", "[", "receivers: 1", "receivers: []\nroute: {receiver: x}", "route: {}"]
)
def test_a_configuration_that_is_none_is_caught(config: str) -> None:
    with pytest.raises(MALFORMED):
        alerts_routed(("http://am", config))


def test_what_fires_now_is_named() -> None:
    firing = {"state": "firing", "labels": {"alertname": "GpuLost", "severity": "critical"}}
    pending = {"state": "pending", "labels": {"alertname": "Other"}}
    assert alerts_now({"alerts": [firing, pending]}).found == "GpuLost (critical)"
    assert alerts_now({"alerts": [pending]}).found == "nothing"
    assert alerts_now({"alerts": [firing, pending]}).state == "warn"
    assert "runbook" in alerts_now({"alerts": [firing]}).fix
    warning = {"state": "firing", "labels": {"alertname": "A", "severity": "warning"}}
    assert alerts_now({"alerts": [warning, firing]}).found == "GpuLost (critical), A (warning)"
    assert {alerts_now({"alerts": these}).state for these in ([], [pending], [warning])} == {"ok"}


# --- the command ---


def test_without_anything_it_fails_and_says_what_to_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = "http://127.0.0.1:1"
    assert validate(exporter_url=nobody, prometheus_url=nobody, folder=tmp_path, json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert [check["state"] for check in report["checks"]] == ["fail", "fail"]
    assert "distlab observe export" in report["checks"][0]["fix"]
    assert "distlab observe up" in report["checks"][1]["fix"]


@pytest.mark.parametrize("options", [{"seconds": 0}, {"seconds": 1e9}, {"exporter_url": "node1:9400"}])
def test_settings_that_are_none_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give"):
        validate(folder=tmp_path, **options)


def test_without_prometheus_the_exporter_alone_is_checked(
    pages: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    left = [parse(page, float(at)) for at, page in enumerate(pages)]

    def next_page(url: str) -> Scrape:
        assert url == "http://x/metrics"
        return left.pop(0)

    monkeypatch.setattr("distlab.observe.validate.scrape", next_page)
    assert validate(exporter_url="http://x", exporter_only=True, folder=tmp_path, seconds=0.01) == 0
    assert "The monitoring is valid." in capsys.readouterr().out
    assert until(lambda: not left, "both scrapes")
