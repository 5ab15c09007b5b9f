"""What a panel of a dashboard is, whoever draws it: Grafana (`dashboards.py`) or distlab's own page (`page/`).

The panels themselves stand beside this file, a dashboard each.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["line", "stack", "stat", "bar", "table"]
"""Over time, a line or an area a series; the last values; a row a set of labels."""

Unit = Literal[
    "count", "percent", "ratio", "celsius", "watts", "bytes", "bytes/s", "seconds", "hours", "per s", "money"
]  # fmt: skip
"""`percent` is 0 to 100, `ratio` 0 to 1 and shown in percent; `money` is in the price table's currency."""

State = Literal["warning", "critical"]

Bad = Literal["above", "below"]

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")

RATE_WINDOW = "$__rate_interval"
"""Grafana's own variable: a window that holds at least four scrapes. The page fills it in itself."""


@dataclass(frozen=True)
class Query:
    """PromQL, with `$run` and the like for what the viewer has chosen, and what its series are called.

    legend: with `{{label}}` for a label's value; in a table, the column's heading.
    unit: of a table's column; elsewhere the panel's own.
    """

    expr: str
    legend: str
    unit: Unit | None = None


@dataclass(frozen=True)
class Threshold:
    """From where on a value is bad, and what to do then. `alert` is the rule that fires on it, if there is one."""

    value: float
    state: State
    do: str
    alert: str | None = None


@dataclass(frozen=True)
class Panel:
    """One question that a dashboard answers.

    id: its name in addresses, unique over all dashboards.
    bad: on which side of the thresholds the trouble lies.
    minimum, maximum: of the value axis, where the unit has natural ends.
    runbook: an anchor of the book's page of runbooks; empty for the page itself.
    empty: what it means that there is no data, in one sentence.
    """

    id: str
    title: str
    description: str
    kind: Kind
    unit: Unit
    queries: tuple[Query, ...]
    thresholds: tuple[Threshold, ...] = ()
    bad: Bad = "above"
    minimum: float | None = None
    maximum: float | None = None
    keys: tuple[str, ...] = ()
    """A table's: the labels that name a row."""
    wide: bool = False
    """Over the whole width."""
    leads_to: str | None = None
    """The dashboard that tells more about a series or a row, narrowed to its labels."""
    runbook: str | None = None
    empty: str = "No data in this range."

    @property
    def instant(self) -> bool:
        """Whether only the values of this moment are asked for."""
        return self.kind in ("stat", "bar", "table")

    @property
    def runbook_path(self) -> str:
        """Below the book's address."""
        return f"/resources/runbooks.html#{self.runbook or ''}".rstrip("#")

    @property
    def advice(self) -> str:
        """The description with what each threshold asks the reader to do."""
        side = "Above" if self.bad == "above" else "Below"
        lines = [f"{side} {_short(t.value, self.unit)} ({t.state}): {t.do}" for t in self.thresholds]
        return "\n\n".join([self.description, *lines])


@dataclass(frozen=True)
class Variable:
    """What a viewer can narrow a dashboard to: the values of `label` that `metric` has.

    all_value: the regular expression that stands for all of them.
    """

    name: str
    title: str
    metric: str
    all_value: str = ".*"

    @property
    def expr(self) -> str:
        """PromQL that has a series for each value."""
        return f"group by ({self.name}) ({self.metric})"


@dataclass(frozen=True)
class Dashboard:
    """Panels that belong together."""

    id: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    panels: tuple[Panel, ...]

    @property
    def uid(self) -> str:
        """Grafana's name of it."""
        return f"distlab-{self.id}"


def filled(expr: str, values: Mapping[str, str]) -> str:
    """PromQL with `values` in place of its variables. KeyError for a variable without a value."""
    return VARIABLE.sub(lambda match: values[match[1] or match[2]], expr)


def exactly(value: str) -> str:
    """A regular expression for PromQL's double quotes that matches `value` and nothing else.

    Everything but letters, digits and a few harmless signs is written as a code point, so that neither the expression
    nor the quotes around it can be left.
    """
    return "".join(
        c if (c.isalnum() and c.isascii()) or c in "_ :/@-" else f"\\\\x{{{ord(c):x}}}" for c in value
    )


def _short(value: float, unit: Unit) -> str:
    if unit == "ratio":
        return f"{value * 100:g}%"
    return f"{value:g}" + {"percent": "%", "celsius": " °C", "seconds": " s", "hours": " h"}.get(unit, "")
