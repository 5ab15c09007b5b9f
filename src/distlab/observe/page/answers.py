"""Ask Prometheus a panel's own queries, and put the answers on one time axis. Nobody else's PromQL passes here.

A moment without a sample is None in the answer: a gap stays a gap.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPResponse
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from distlab.errors import SettingError, WorkError
from distlab.observe.panels.fleet import ALERTS
from distlab.observe.panels.panel import Dashboard, Panel, Query, exactly, filled

RANGES_S = (300, 900, 3600, 6 * 3600, 24 * 3600)
"""What a viewer can look back to."""
POINTS = 180
"""On a line at most."""
SHORTEST_STEP_S = 2
RATE_WINDOW_S = 60
"""The shortest window of a rate: several scrapes."""
MOST_SERIES = 64
"""Of one query; what is left out is said."""
MOST_VALUES = 500
MOST_TEXT = 300
MOST_VALUE_CHARS = 256
MOST_BYTES = 16 * 2**20
TIMEOUT_S = 10.0

LAST_SAMPLE = "max(timestamp(distlab_source_up)) or max(max_over_time(timestamp(distlab_source_up)[1h:15s]))"
"""When the exporter was last scraped, also where that is minutes ago; an hour is far enough back."""

Answer = dict[str, Any]


class Prometheus:
    """A running Prometheus, asked and never told."""

    def __init__(self, url: str) -> None:
        """url: as `http://127.0.0.1:9090`."""
        self.url = url.rstrip("/")

    def address(self) -> str:
        """Where it answers now."""
        return self.url

    @functools.cached_property
    def http(self) -> AsyncHTTPClient:
        """Made with the first question: it belongs to the loop that runs then."""
        return SimpleAsyncHTTPClient(max_body_size=MOST_BYTES, max_clients=16, force_instance=True)

    async def ask(self, path: str, **parameters: str) -> list[dict[str, Any]]:
        """The series that answer a query. WorkError, in one sentence, where there is no answer."""
        answer = await self._fetch(path, method="POST", body=urlencode(parameters))
        return _data(answer, "result", self.address())

    async def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire or are about to, with what their rules say of them."""
        return _data(await self._fetch("alerts"), "alerts", self.address())

    async def _fetch(self, path: str, **arguments: Any) -> HTTPResponse:
        url = self.address()
        try:
            return await self.http.fetch(
                f"{url}/api/v1/{path}", request_timeout=TIMEOUT_S, raise_error=False, **arguments
            )
        except (OSError, HTTPClientError) as error:
            raise UnreachableError(url, error) from None


class UnreachableError(WorkError):
    """No Prometheus answers."""

    def __init__(self, url: str, error: BaseException) -> None:
        super().__init__(f"Prometheus does not answer at {url} ({error}); start it with: distlab observe up")


def _data(response: HTTPResponse, name: str, url: str) -> list[dict[str, Any]]:
    if response.code == 599:
        raise UnreachableError(url, response.error or TimeoutError())
    try:
        answer = json.loads(response.body)
        if answer["status"] != "success":
            raise WorkError(f"Prometheus refuses the query: {answer['error']}")
        return list(answer["data"][name])
    except (ValueError, KeyError, TypeError):
        raise WorkError(f"{url} does not answer as Prometheus does (HTTP {response.code}).") from None


def chosen(board: Dashboard, asked: Mapping[str, str]) -> dict[str, str]:
    """What each variable of the dashboard stands for in PromQL, from the values that a viewer asked for.

    SettingError for a variable that the dashboard does not have, and for a value that is too long.
    """
    known = {variable.name: variable.all_value for variable in board.variables}
    for name, value in asked.items():
        if name not in known:
            raise SettingError(f"{board.title} cannot be narrowed to {name[:40]!r}.")
        if len(value) > MOST_VALUE_CHARS:
            raise SettingError(f"The value of {name} is longer than {MOST_VALUE_CHARS} characters.")
    return {**known, **{name: exactly(value) for name, value in asked.items()}}


async def board_now(
    prometheus: Prometheus, board: Dashboard, range_s: int, asked: Mapping[str, str]
) -> Answer:
    """All that the page shows of one dashboard at this moment, as plain data.

    SettingError for a range or a value that nobody can choose on the page. Where Prometheus is away, `problem` says so,
    and there are no panels.
    """
    if range_s not in RANGES_S:
        raise SettingError(f"The range is {range_s} s; it must be one of {', '.join(map(str, RANGES_S))}.")
    step_s = max(SHORTEST_STEP_S, math.ceil(range_s / POINTS))
    end = math.floor(time.time() / step_s) * step_s
    values = chosen(board, asked) | {"__rate_interval": f"{max(RATE_WINDOW_S, 4 * step_s)}s"}
    times = [end - range_s + i * step_s for i in range(range_s // step_s + 1)]
    answer: Answer = {"now": time.time(), "start": times[0], "step_s": step_s, "points": len(times)}
    try:
        answer["source"] = await _source(prometheus)
    except WorkError as error:
        return answer | {"problem": str(error)}
    panels, choices = await asyncio.gather(
        asyncio.gather(*(_panel(prometheus, panel, values, times, step_s) for panel in board.panels)),
        asyncio.gather(*(_choices(prometheus, v.name, filled(v.expr, values)) for v in board.variables)),
    )
    answer["panels"] = dict(zip((panel.id for panel in board.panels), panels, strict=True))
    answer["variables"] = dict(zip((v.name for v in board.variables), choices, strict=True))
    return answer


async def _source(prometheus: Prometheus) -> Answer:
    """Where the numbers come from, and how old the last ones are."""
    tiers, up, scraped = await asyncio.gather(
        prometheus.ask("query", query="sum by (tier) (distlab_source_up)"),
        prometheus.ask("query", query='max(up{job="distlab"})'),
        prometheus.ask("query", query=LAST_SAMPLE),
    )
    return {
        "tiers": sorted(str(series["metric"].get("tier", ""))[:40] for series in tiers),
        "readable": all(_number(series["value"][1]) for series in tiers),
        "exporter": bool(up) and _number(up[0]["value"][1]) == 1,
        "last_sample": _number(scraped[0]["value"][1]) if scraped else None,
    }


async def _choices(prometheus: Prometheus, label: str, expr: str) -> list[str]:
    """The values of a variable."""
    try:
        series = await prometheus.ask("query", query=expr)
    except WorkError:
        return []
    found = {str(one["metric"].get(label, "")) for one in series}
    return sorted((value for value in found if 0 < len(value) <= MOST_VALUE_CHARS), key=_natural)[
        :MOST_VALUES
    ]


async def explained(prometheus: Prometheus, series: Sequence[Answer]) -> None:
    """Give each alert among the series what its rule says: a summary, and where its runbook is."""
    firing = [alert for alert in await prometheus.alerts() if alert["state"] == "firing"]
    for one in series:
        labels = {name: value for name, value in one["labels"].items() if value}
        for alert in firing:
            if labels.items() <= alert["labels"].items():
                one["summary"] = str(alert["annotations"].get("summary", ""))[:MOST_TEXT]
                one["runbook"] = str(alert["annotations"].get("runbook_url", ""))[:MOST_TEXT]
                break


async def _panel(
    prometheus: Prometheus, panel: Panel, values: Mapping[str, str], times: Sequence[float], step_s: int
) -> Answer:
    """A panel's series, or the sentence that says why there are none."""
    try:
        answers = await asyncio.gather(
            *(_query(prometheus, panel, query, values, times, step_s) for query in panel.queries)
        )
        if panel is ALERTS:
            await explained(prometheus, answers[0])
    except WorkError as error:
        return {"series": [], "left_out": 0, "problem": str(error)}
    series = [one for answer in answers for one in answer]
    kept = [one for answer in answers for one in answer[:MOST_SERIES]]
    return {"series": kept, "left_out": len(series) - len(kept)}


async def _query(
    prometheus: Prometheus,
    panel: Panel,
    query: Query,
    values: Mapping[str, str],
    times: Sequence[float],
    step_s: int,
) -> list[Answer]:
    expr = filled(query.expr, values)
    place = panel.queries.index(query)
    if panel.instant:
        found = await prometheus.ask("query", query=expr)
        points: list[list[float | None]] = [[_number(one["value"][1])] for one in found]
    else:
        found = await prometheus.ask(
            "query_range", query=expr, start=str(times[0]), end=str(times[-1]), step=str(step_s)
        )
        points = [_on_axis(one["values"], times, step_s) for one in found]
    made = [
        {
            "query": place,
            "name": named(query.legend, one["metric"]),
            "labels": {k: v for k, v in one["metric"].items() if k != "__name__"},
            "values": values_,
        }
        for one, values_ in zip(found, points, strict=True)
    ]
    return sorted(made, key=lambda one: _natural(str(one["name"])))


def _on_axis(samples: Sequence[Sequence[Any]], times: Sequence[float], step_s: int) -> list[float | None]:
    row: list[float | None] = [None] * len(times)
    for moment, value in samples:
        row[round((moment - times[0]) / step_s)] = _number(value)
    return row


def _number(text: str) -> float | None:
    """What Prometheus writes as text; None for what is no number of JSON's."""
    value = float(text)
    return value if math.isfinite(value) else None


def named(legend: str, labels: Mapping[str, str]) -> str:
    """The legend with the labels' values in it, as Grafana fills it in."""
    for label in [part.split("}}")[0] for part in legend.split("{{")[1:]]:
        legend = legend.replace(f"{{{{{label}}}}}", labels.get(label, ""))
    return legend.strip()[:MOST_VALUE_CHARS]


def _natural(text: str) -> list[Any]:
    """GPU 2 before GPU 10."""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]{1,18})", text)]
