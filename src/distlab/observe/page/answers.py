"""Ask Prometheus a panel's own queries, and put the answers on one time axis. Nobody else's PromQL passes here.

A moment without a sample is None in the answer: a gap stays a gap.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from distlab.errors import SettingError, WorkError
from distlab.observe.page.prometheus import MOST_TEXT, Alert, Prometheus, Series
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
MOST_VALUE_CHARS = 256
MOST_ALERTS = 1000
"""That are looked through for what a rule says."""

LAST_SAMPLE = "max(timestamp(distlab_source_up)) or max(max_over_time(timestamp(distlab_source_up)[1h:15s]))"
"""When the exporter was last scraped, also where that is minutes ago; an hour is far enough back."""

Answer = dict[str, Any]


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
        prometheus.ask(list, "query", query="sum by (tier) (distlab_source_up)"),
        prometheus.ask(list, "query", query='max(up{job="distlab"})'),
        prometheus.ask(list, "query", query=LAST_SAMPLE),
    )
    return {
        "tiers": sorted(series.labels.get("tier", "")[:40] for series in tiers[:MOST_SERIES]),
        "readable": all(series.value for series in tiers),
        "exporter": bool(up) and up[0].value == 1,
        "last_sample": scraped[0].value if scraped else None,
    }


async def _choices(prometheus: Prometheus, label: str, expr: str) -> list[str]:
    """The values of a variable."""

    def values(found: list[Series]) -> list[str]:
        texts = {one.labels.get(label, "") for one in found}
        fitting = (text for text in texts if 0 < len(text) <= MOST_VALUE_CHARS)
        return sorted(fitting, key=_natural)[:MOST_VALUES]

    try:
        return await prometheus.ask(values, "query", query=expr)
    except WorkError:
        return []


def explain(series: Sequence[Answer], alerts: Sequence[Alert]) -> None:
    """Give each alert among the series what its rule says: a summary, and where its runbook is."""
    firing = [alert for alert in alerts[:MOST_ALERTS] if alert.state == "firing"]
    for one in series:
        labels = {name: value for name, value in one["labels"].items() if value}
        for alert in firing:
            if labels.items() <= alert.labels.items():
                one["summary"] = alert.annotations.get("summary", "")[:MOST_TEXT]
                one["runbook"] = alert.annotations.get("runbook_url", "")[:MOST_TEXT]
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
            explain(answers[0][0], await prometheus.alerts())
    except WorkError as error:
        return {"series": [], "left_out": 0, "problem": str(error)}
    return {
        "series": [one for kept, _ in answers for one in kept],
        "left_out": sum(left_out for _, left_out in answers),
    }


async def _query(
    prometheus: Prometheus,
    panel: Panel,
    query: Query,
    values: Mapping[str, str],
    times: Sequence[float],
    step_s: int,
) -> tuple[list[Answer], int]:
    """The first series that answer a query, and how many are left out."""
    place = panel.queries.index(query)

    def made(found: list[Series]) -> tuple[list[Answer], int]:
        by_name = sorted(((named(query.legend, one.labels), one) for one in found), key=_by_name)
        kept = [
            {
                "query": place,
                "name": name,
                "labels": {k: v for k, v in one.labels.items() if k != "__name__"},
                "values": [one.value] if panel.instant else _on_axis(one, times, step_s),
            }
            for name, one in by_name[:MOST_SERIES]
        ]
        if panel.kind != "table":
            _tell_apart(kept)
        return kept, len(found) - len(kept)

    expr = filled(query.expr, values)
    if panel.instant:
        return await prometheus.ask(made, "query", query=expr)
    span = {"start": str(times[0]), "end": str(times[-1]), "step": str(step_s)}
    return await prometheus.ask(made, "query_range", query=expr, **span)


def _tell_apart(series: Sequence[Answer]) -> None:
    """Add to a name that several have the labels that tell them apart: a GPU's series is another one with each run."""
    same: dict[str, list[Answer]] = {}
    for one in series:
        same.setdefault(one["name"], []).append(one)
    for ones in same.values():
        # The run first: it is what most often changes.
        names = sorted(
            {label for one in ones for label in one["labels"]}, key=lambda label: (label != "run", label)
        )
        for label in names:
            if len({one["name"] for one in ones}) == len(ones):
                break
            if len({one["labels"].get(label, "") for one in ones}) > 1:
                for one in ones:
                    told = f"{one['name']}, {label} {one['labels'].get(label) or 'none'}"
                    one["name"] = told[:MOST_VALUE_CHARS]


def _on_axis(series: Series, times: Sequence[float], step_s: int) -> list[float | None]:
    """The series' values at `times`; ValueError for one at another time."""
    row: list[float | None] = [None] * len(times)
    for moment, value in series.samples:
        place = round((moment - times[0]) / step_s)
        if not 0 <= place < len(row):
            raise ValueError(f"nobody asked for {moment}")
        row[place] = value
    return row


def named(legend: str, labels: Mapping[str, str]) -> str:
    """The legend with the labels' values in it, as Grafana fills it in."""
    # In one pass: a value that looks like a label's name stays what it is.
    text = _LABEL.sub(lambda found: labels.get(found[1], "")[:MOST_VALUE_CHARS], legend)
    return text.strip()[:MOST_VALUE_CHARS]


_LABEL = re.compile(r"{{(\w+)}}")


def _by_name(one: tuple[str, Series]) -> list[int | str]:
    return _natural(one[0])


def _natural(text: str) -> list[int | str]:
    """GPU 2 before GPU 10."""
    # Every second part is what the pattern found; others may have digits of other scripts.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split("([0-9]{1,18})", text))]
