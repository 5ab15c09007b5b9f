"""Every query of every panel, asked of a Prometheus that scrapes real exporters; and what panels say of alerts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distlab.observe.panels import DASHBOARDS
from distlab.observe.panels.panel import Dashboard, Panel, Query, Threshold, exactly, filled
from distlab.observe.rules import rule_files
from tests.observe.stack_rig import until
from tests.observe.telemetry_rig import RUN, Fleet, fleet, variables_of

ALL = [(board, panel, query) for board in DASHBOARDS for panel in board.panels for query in panel.queries]
WINDOW = {"__rate_interval": "5s"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet")) as made:
        yield made


def everything(board: Dashboard) -> dict[str, str]:
    return {variable.name: variable.all_value for variable in board.variables} | WINDOW


@pytest.mark.parametrize(
    ("board", "panel", "query"), ALL, ids=[f"{panel.id}-{query.legend}" for _, panel, query in ALL]
)
def test_a_query_gives_data(running: Fleet, board: Dashboard, panel: Panel, query: Query) -> None:
    expr = filled(query.expr, everything(board))
    series = until(lambda: running.ask(expr), f"an answer to {expr}")
    labels = set(re.findall(r"{{(\w+)}}", query.legend)) - {"GPU_I_PROFILE"}
    for one in series:
        # Prometheus leaves a label away that is empty: a legend's must be there.
        assert labels <= set(one["metric"]), f"the legend {query.legend!r} of {one['metric']}"
    if panel.kind == "table":
        assert {label for one in series for label in one["metric"]} <= set(panel.keys)
    numbers = [float(one["value"][1]) for one in series]
    assert all(map(math.isfinite, numbers)), numbers
    if panel.unit == "ratio" and panel.maximum == 1 and panel.id not in ("budget", "budget-projected"):
        assert all(-0.001 <= number <= 1.001 for number in numbers), numbers


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.id)
def test_what_can_be_chosen_narrows_a_dashboard(running: Fleet, board: Dashboard) -> None:
    for variable in board.variables:
        found = until(lambda v=variable: running.ask(filled(v.expr, everything(board))), variable.name)  # type: ignore[misc]
        values = [one["metric"].get(variable.name, "") for one in found]
        assert len(set(values)) == len(values)
        chosen = RUN if RUN in values else next(filter(None, values))
        narrowed = everything(board) | {variable.name: exactly(chosen)}
        exprs = [q.expr for p in board.panels for q in p.queries if variable.name in variables_of(q.expr)]
        assert exprs, f"{variable.name} narrows nothing"
        for expr in exprs:
            seen = {one["metric"].get(variable.name) for one in running.ask(filled(expr, narrowed))}
            assert seen <= {chosen, None, "(nobody)"}, expr


@pytest.mark.parametrize(
    "value", ['a"} or vector(1) or x{y="', "gpt.*", "run\\", "Läuft", "x" * 200, "$run", "a\nb"]
)
def test_a_name_that_is_chosen_matches_itself_alone(running: Fleet, value: str) -> None:
    expr = f'label_replace(vector(1), "run", "{exactly_written(value)}", "", "")'
    (own,) = running.ask(expr)
    assert own["metric"]["run"] == value
    # As a selector it is one whole matcher: Prometheus parses it, and finds nothing by that name.
    assert running.ask(f'distlab_train_step{{run=~"{exactly(value)}"}}') == []
    assert running.ask(f'count(distlab_train_step{{run!~"{exactly(value)}"}})')
    matched = f'label_replace({expr}, "found", "yes", "run", "{exactly(value)}")'
    assert running.ask(matched)[0]["metric"].get("found") == "yes"


def exactly_written(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("$", "$$")


def test_panels_have_names_titles_and_words_for_their_silence() -> None:
    assert len({panel.id for _, panel, _ in ALL}) == sum(len(board.panels) for board in DASHBOARDS), (
        "no name twice"
    )
    for board in DASHBOARDS:
        for panel in board.panels:
            assert re.fullmatch("[a-z0-9-]+", panel.id)
            assert panel.title
            assert panel.description.endswith(".")
            assert panel.empty.endswith(".")
            assert (panel.kind == "table") == bool(panel.keys)
            names = {variable.name for variable in board.variables} | set(WINDOW)
            assert all(variables_of(query.expr) <= names for query in panel.queries), panel.id
            assert panel.leads_to in (None, *(other.id for other in DASHBOARDS))


RULES = {
    rule["alert"]: rule
    for text in rule_files().values()
    for group in yaml.safe_load(text)["groups"]
    for rule in group["rules"]
    if "alert" in rule
}
MARKS = [(panel, mark) for board in DASHBOARDS for panel in board.panels for mark in panel.thresholds]


def numbers_in(expr: str) -> set[float]:
    """The numbers of an expression, and the products of two that stand in it."""
    products = re.findall(r"([\d.]+) \* ([\d.]+)", expr)
    singles = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", expr)
    return {float(a) * float(b) for a, b in products} | {float(a) for a in singles}


@pytest.mark.parametrize(("panel", "mark"), MARKS, ids=[f"{p.id}-{m.value:g}" for p, m in MARKS])
def test_a_threshold_says_what_to_do_and_is_that_of_its_alert(panel: Panel, mark: Threshold) -> None:
    assert mark.do.endswith(".")
    assert mark.do in panel.advice
    if mark.alert is None:
        return
    rule: dict[str, Any] = RULES[mark.alert]
    # An alert on a sign that is 0 or 1, or on one sum over another, has no number of its own.
    if mark.alert not in ("BudgetSpent", "BudgetProjectedOver"):
        assert any(math.isclose(mark.value, number) for number in numbers_in(rule["expr"])), rule["expr"]
    anchors = {
        RULES[other.alert]["annotations"]["runbook_url"].split("#")[1]
        for other in panel.thresholds
        if other.alert
    }
    assert panel.runbook in anchors


def test_each_alert_on_cost_is_a_threshold_of_the_dashboard_of_cost() -> None:
    (board,) = (board for board in DASHBOARDS if board.id == "cost")
    marked = {mark.alert for panel in board.panels for mark in panel.thresholds} - {None}
    assert marked == {name for name, rule in RULES.items() if rule["labels"]["component"] == "cost"}
    for panel in board.panels:
        assert bool(panel.thresholds) == bool(panel.runbook), "whoever sees a colour finds what to do"


def test_each_runbook_is_in_the_book() -> None:
    page = (Path(__file__).parents[2] / "book/resources/runbooks.md").read_text()
    anchors = set(re.findall(r"^\(([a-z0-9-]+)\)=$", page, re.MULTILINE))
    assert {panel.runbook for _, panel, _ in ALL if panel.runbook} <= anchors
