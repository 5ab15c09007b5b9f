"""Whatever answers at Prometheus' address, the page says it in a sentence, panel by panel."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from distlab.errors import WorkError
from distlab.machine import LOOPBACK
from distlab.observe.page.answers import MOST_SERIES, board_now, explain, named
from distlab.observe.page.prometheus import MOST_BYTES, Alert, Prometheus
from distlab.observe.panels import DASHBOARDS

FLEET = DASHBOARDS[0]
LINE = next(panel for panel in FLEET.panels if not panel.instant)

Asked = dict[str, str]


def wrapped(*series: Any) -> bytes:
    return json.dumps({"status": "success", "data": {"result": series, "alerts": []}}).encode()


def sound(asked: Asked) -> bytes:
    """As Prometheus answers."""
    return wrapped({"metric": {"gpu": "0"}, "value": [1, "1"], "values": [[asked.get("start", "0"), "1"]]})


def sound_range(asked: Asked) -> bytes:
    return wrapped({"metric": {"gpu": "0"}, "value": [1, "1"], "values": [[float(asked["start"]), "NaN"]]})


@contextmanager
def answering(answer: Callable[[Asked], bytes | str]) -> Iterator[tuple[Prometheus, list[str]]]:
    """A server that answers so (text: where it redirects to), and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            given = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            content = answer({name: values[0] for name, values in parse_qs(given).items()})
            self.send_response(302 if isinstance(content, str) else 200)
            if isinstance(content, str):
                self.send_header("Location", content)
                content = b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content)
            except ConnectionError:
                self.close_connection = True

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing to say."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 64
        daemon_threads = True

    with Server((LOOPBACK, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield Prometheus(f"http://{LOOPBACK}:{server.server_port}"), paths
        server.shutdown()


def board(prometheus: Prometheus) -> dict[str, Any]:
    return asyncio.run(board_now(prometheus, FLEET, 300, {}))


SHAPES: dict[str, bytes] = {
    "a list": b"[]",
    "deep": b"[" * 200_000,
    "nothing": b"",
    "a long number": b"9" * 10_000,
    "no series": wrapped(7),
    "labels that are a text": wrapped({"metric": "x", "value": [1, "1"], "values": []}),
    "labels that are numbers": wrapped({"metric": {"a": 1}, "value": [1, "1"], "values": []}),
    "no value": wrapped({"metric": {}}),
    "a value that is a word": wrapped({"metric": {}, "value": [1, "abc"], "values": [[1, "abc"]]}),
    "a value that is a number": wrapped({"metric": {}, "value": [1, 1], "values": [[1, 1]]}),
    "a time that is a text": wrapped({"metric": {}, "value": ["a", "1"], "values": [["a", "1"]]}),
    "a time that is none": wrapped({"metric": {}, "value": [math.nan, "1"], "values": []}),
    "a refusal that is no text": b'{"status":"error","error":{}}',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_another_shape_is_a_sentence(shape: str) -> None:
    with answering(lambda _: SHAPES[shape]) as (prometheus, _):
        said = board(prometheus)["problem"]
    assert "as Prometheus does (HTTP 200)" in said or said == "Prometheus refuses the query: {}"


@pytest.mark.parametrize("samples", [[[1, "1"]], [[1e308, "1"]], [["x"]], {"a": 1}, 7])
def test_one_panel_that_cannot_be_shown_leaves_the_others(samples: Any) -> None:
    def answer(asked: Asked) -> bytes:
        if asked.get("query") == LINE.queries[0].expr.replace("$Hostname", ".*") and "start" in asked:
            return wrapped({"metric": {}, "values": samples})
        return sound_range(asked) if "start" in asked else sound(asked)

    with answering(answer) as (prometheus, _):
        panels = board(prometheus)["panels"]
    problems = {name: panel["problem"] for name, panel in panels.items() if "problem" in panel}
    assert list(problems) == [LINE.id]
    assert problems[LINE.id].startswith("This cannot be shown: ")
    assert all(panel["series"] for name, panel in panels.items() if name not in (LINE.id, "alerts"))


def test_an_answer_that_is_too_large_is_broken_off() -> None:
    large = wrapped(*[{"metric": {}, "value": [1, "1"]}] * (MOST_BYTES // 30))
    assert len(large) > MOST_BYTES
    with answering(lambda _: large) as (prometheus, _):
        assert "more than 2 MiB: choose a shorter range" in board(prometheus)["problem"]


def test_no_redirect_is_followed() -> None:
    with (
        answering(sound) as (elsewhere, reached),
        answering(lambda _: f"{elsewhere.url}/secret") as (first, _),
    ):
        assert "as Prometheus does (HTTP 302)" in board(first)["problem"]
    assert not reached


def test_answers_are_read_apart_from_the_loop() -> None:
    with answering(sound) as (prometheus, _):
        reading = asyncio.run(
            prometheus.ask(lambda found: (threading.current_thread(), found), "query", query="up")
        )
    assert reading[0] is not threading.main_thread()
    assert reading[1][0].value == 1


def test_many_series_are_cut_where_they_are_read() -> None:
    def answer(asked: Asked) -> bytes:
        return wrapped(*({"metric": {"gpu": str(i)}, "value": [1, "1"], "values": []} for i in range(5000)))

    with answering(answer) as (prometheus, _):
        panel = board(prometheus)["panels"][LINE.id]
    assert len(panel["series"]) == MOST_SERIES * len(LINE.queries)
    assert panel["left_out"] == (5000 - MOST_SERIES) * len(LINE.queries)


def test_a_name_is_filled_in_once_and_sorted_whatever_its_script() -> None:
    labels = {"Hostname": "{{gpu}}" * 150_000, "gpu": "x" * 1_000_000}
    assert named("{{Hostname}} GPU {{gpu}}", labels) == ("{{gpu}}" * 40)[:256]

    def answer(asked: Asked) -> bytes:
        names = ("gpu 2", "٣", "gpu 10", "", "²")
        return wrapped(
            *({"metric": {"Hostname": n, "gpu": n}, "value": [1, "1"], "values": []} for n in names)
        )

    with answering(answer) as (prometheus, _):
        choices = board(prometheus)["variables"]["Hostname"]
    assert choices == ["gpu 2", "gpu 10", "²", "٣"]


def test_an_alert_is_explained_by_its_own_rule_alone() -> None:
    series: list[dict[str, Any]] = [{"labels": {"alertname": "A", "gpu": "1"}}]
    explain(series, [Alert("pending", {"alertname": "A", "gpu": "1"}, {"summary": "early"})])
    explain(series, [Alert("firing", {"alertname": "A", "gpu": "2"}, {"summary": "other"})])
    assert "summary" not in series[0]
    explain(series, [Alert("firing", {"alertname": "A", "gpu": "1"}, {"summary": "x" * 1000})])
    assert series[0]["summary"] == "x" * 300


def test_nobody_is_said_as_such() -> None:
    with answering(sound) as (prometheus, _):
        pass
    with pytest.raises(WorkError, match="start it with: distlab observe up"):
        asyncio.run(prometheus.ask(list, "query", query="up"))


def test_series_of_one_name_are_told_apart_by_what_differs() -> None:
    ones = [
        {"Hostname": "vm", "gpu": "0", "job_name": "", "run": "", "tier": "simulated"},
        {"Hostname": "vm", "gpu": "0", "job_name": "team", "run": "demo", "tier": "simulated"},
        {"Hostname": "vm", "gpu": "1", "job_name": "team", "run": "demo", "tier": "simulated"},
    ]

    def two_of_a_name(asked: Asked) -> bytes:
        values = [[float(asked.get("start", 0)), "1"]]
        return wrapped(*({"metric": one, "value": [1, "1"], "values": values} for one in ones))

    with answering(two_of_a_name) as (prometheus, _):
        answer = asyncio.run(board_now(prometheus, FLEET, 300, {}))
    names = [one["name"] for one in answer["panels"]["utilization"]["series"]]
    assert sorted(names) == ["vm GPU 0, run demo", "vm GPU 0, run none", "vm GPU 1"]
