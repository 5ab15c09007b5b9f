"""`distlab observe dashboards`: the panels as Grafana dashboards, and what Grafana needs to load them by itself.

    distlab observe dashboards --out grafana
    cp -r grafana/provisioning /etc/grafana/ && cp -r grafana/dashboards /var/lib/grafana/   # then restart Grafana

The same input gives the same bytes. Colours are those of Okabe and Ito, which the colour-blind can tell apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import bargauge, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import common as options
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard

from distlab.errors import WorkError
from distlab.observe.panels import DASHBOARDS
from distlab.observe.panels.panel import Dashboard, Panel, Query, Variable
from distlab.observe.ports import PROMETHEUS_URL
from distlab.observe.rules import BOOK_URL

DATASOURCE_UID = "distlab-prometheus"
TAG = "distlab"

OK, WARNING, CRITICAL = "#0072B2", "#E69F00", "#D55E00"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")

UNITS = {
    "count": "none",
    "percent": "percent",
    "ratio": "percentunit",
    "celsius": "celsius",
    "watts": "watt",
    "bytes": "bytes",
    "bytes/s": "Bps",
    "seconds": "s",
    "hours": "h",
    "per s": "cps",
    "money": "none",
}
"""Grafana's names of units."""

COLUMNS = 24
HEIGHTS = {"line": 8, "stack": 8, "stat": 4, "bar": 4, "table": 8}
"""In rows of Grafana's grid."""
MOST_SMALL = 6
"""Small panels beside each other at most."""

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")

Chart = timeseries.Panel | stat.Panel | bargauge.Panel | table.Panel


def dashboards(
    out: Path,
    prometheus_url: str = PROMETHEUS_URL,
    book_url: str = BOOK_URL,
    grafana_folder: str = "/var/lib/grafana/dashboards",
) -> int:
    """Write the Grafana dashboards and their provisioning.

    Args:
        out: The folder to write into; what it holds of the same names is replaced.
        prometheus_url: Where Grafana finds Prometheus.
        book_url: The course's book, which holds the runbooks.
        grafana_folder: Where the dashboards will lie on Grafana's machine.
    """
    files = {out / "dashboards" / f"{board.id}.json": as_json(board, book_url) for board in DASHBOARDS} | {
        out / "provisioning" / "datasources" / "distlab.yml": datasource_yml(prometheus_url),
        out / "provisioning" / "dashboards" / "distlab.yml": provider_yml(grafana_folder),
    }
    for file, text in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise WorkError(
                f"{file} cannot be written: {error.strerror}; name another folder with --out."
            ) from None
        print(file)
    return 0


def as_json(board: Dashboard, book_url: str = BOOK_URL) -> str:
    """The dashboard as Grafana imports it."""
    return JSONEncoder(indent=2, sort_keys=True).encode(build(board, book_url).build()) + "\n"


def build(board: Dashboard, book_url: str) -> grafana.Dashboard:
    """The dashboard in the SDK's types."""
    made = (
        grafana.Dashboard(f"distlab: {board.title}")
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(grafana.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .link(
            grafana.DashboardLink("distlab")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
    )
    for variable in board.variables:
        made.with_variable(_variable(variable))
    places = _places(board.panels)
    for number, (panel, place) in enumerate(zip(board.panels, places, strict=True), 1):
        made.with_panel(_panel(panel, number, book_url).grid_pos(place))
    return made


def _places(panels: Sequence[Panel]) -> list[dashboard.GridPos]:
    """Small panels side by side, large ones two in a row; each row fills the width."""
    places: list[dashboard.GridPos] = []
    y = 0
    for size, group in itertools.groupby(panels, _beside):
        waiting = list(group)
        for row in (waiting[i : i + size] for i in range(0, len(waiting), size)):
            width, height = COLUMNS // len(row), max(HEIGHTS[panel.kind] for panel in row)
            for x in range(0, len(row) * width, width):
                last = x == (len(row) - 1) * width
                places.append(dashboard.GridPos(h=height, w=COLUMNS - x if last else width, x=x, y=y))
            y += height
    return places


def _beside(panel: Panel) -> int:
    """How many such panels may stand in a row."""
    return 1 if panel.wide else MOST_SMALL if panel.kind in ("stat", "bar") else 2


def _variable(variable: Variable) -> grafana.QueryVariable:
    return (
        grafana.QueryVariable(variable.name)
        .label(variable.title)
        .datasource(SOURCE)
        .query({"query": f"label_values({variable.metric}, {variable.name})", "refId": variable.name})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.NUMERICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(variable.all_value)
        .current(dashboard.VariableOption(text="All", value="$__all", selected=True))
    )


def _panel(panel: Panel, number: int, book_url: str) -> Chart:
    draw: dict[str, Callable[[Panel], Chart]] = {
        "line": _lines,
        "stack": _lines,
        "stat": _stat,
        "bar": _bars,
        "table": _table,
    }
    chart = draw[panel.kind](panel)
    chart.id(number).title(panel.title).description(panel.advice).datasource(SOURCE).no_value(panel.empty)
    chart.unit(UNITS[panel.unit]).thresholds(_thresholds(panel))
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        chart.with_target(_target(panel, query, letter))
    if panel.minimum is not None:
        chart.min(panel.minimum)
    if panel.maximum is not None:
        chart.max(panel.maximum)
    if panel.runbook:
        chart.links(
            [_link("Runbook", f"{book_url}/resources/runbooks.html#{panel.runbook}").target_blank(True)]
        )
    if panel.leads_to:
        chart.data_links([_leads_to(panel)])
    return chart


def _target(panel: Panel, query: Query, letter: str) -> prometheus.Dataquery:
    made = (
        prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).datasource(SOURCE)
    )
    made = made.instant() if panel.instant else made.range()
    return made.format("table") if panel.kind == "table" else made  # type: ignore[arg-type]


def _lines(panel: Panel) -> timeseries.Panel:
    chart = (
        timeseries.Panel()
        .line_width(2)
        .fill_opacity(60 if panel.kind == "stack" else 0)
        .show_points(common.VisibilityMode.NEVER)
        .span_nulls(False)
        .legend(
            options.VizLegendOptions()
            .show_legend(True)
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
        )
        .tooltip(
            options.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
        .color_scheme(grafana.FieldColor().mode(dashboard.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if panel.kind == "stack":
        chart.stacking(options.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if panel.thresholds:
        style = common.GraphTresholdsStyleMode.DASHED
        chart.thresholds_style(options.GraphThresholdsStyleConfig().mode(style))
    if len(panel.queries) > 1:
        for letter, colour in zip("ABCDEFG", SERIES[: len(panel.queries)], strict=False):
            fixed = {"mode": "shades", "fixedColor": colour}
            chart.override_by_query(letter, [dashboard.DynamicConfigValue(id_val="color", value=fixed)])
    return chart


def _stat(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .reduce_options(options.ReduceDataOptions().calcs(["last"]))
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE if panel.thresholds else common.BigValueColorMode.NONE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME)
    )


def _bars(panel: Panel) -> bargauge.Panel:
    return (
        bargauge.Panel()
        .reduce_options(options.ReduceDataOptions().calcs(["last"]))
        .orientation(common.VizOrientation.HORIZONTAL)
        .display_mode(common.BarGaugeDisplayMode.BASIC)
    )


def _table(panel: Panel) -> table.Panel:
    """One row a set of labels, one column a query."""
    values = {
        f"Value #{letter}": query.legend for letter, query in zip("ABCDEFGH", panel.queries, strict=False)
    }
    if len(panel.queries) == 1:
        values["Value"] = panel.queries[0].legend
    order = {name: place for place, name in enumerate((*panel.keys, *values))}
    chart = (
        table.Panel()
        .show_header(True)
        .with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize",
                options={"excludeByName": {"Time": True}, "indexByName": order, "renameByName": values},
            )
        )
    )
    for query in panel.queries:
        unit = UNITS[query.unit or panel.unit]
        chart.override_by_name(query.legend, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    return chart


def _thresholds(panel: Panel) -> grafana.ThresholdsConfig:
    """Grafana colours from a value upwards: where low values are bad, the worst state comes first."""
    colours = {"warning": WARNING, "critical": CRITICAL}
    marks = sorted(panel.thresholds, key=lambda mark: mark.value)
    if panel.bad == "above" or not marks:
        steps = [(None, OK), *((mark.value, colours[mark.state]) for mark in marks)]
    else:
        froms = [None, *(mark.value for mark in marks)]
        steps = list(zip(froms, [*(colours[mark.state] for mark in marks), OK], strict=True))
    return (
        grafana.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=colour) for value, colour in steps])
    )


def _link(title: str, url: str) -> grafana.DashboardLink:
    return grafana.DashboardLink(title).type(dashboard.DashboardLinkType.LINK).url(url)


def _leads_to(panel: Panel) -> grafana.DashboardLink:
    """To another dashboard, with the values of the clicked series or row in its variables."""
    board = next(board for board in DASHBOARDS if board.id == panel.leads_to)
    field = "__data.fields" if panel.kind == "table" else "__field.labels"
    values = "&".join(f"var-{variable.name}=${{{field}.{variable.name}}}" for variable in board.variables)
    return _link(f"Open {board.title}", f"/d/{board.uid}?{values}&${{__url_time_range}}")


def datasource_yml(url: str) -> str:
    """Grafana's provisioning of the data source."""
    source = {
        "name": "distlab Prometheus",
        "uid": DATASOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": url,
        "isDefault": True,
        "jsonData": {"httpMethod": "POST", "timeInterval": "5s"},
    }
    return _yaml({"apiVersion": 1, "datasources": [source]})


def provider_yml(folder: str) -> str:
    """Grafana's provisioning of the dashboards."""
    provider = {
        "name": "distlab",
        "folder": "distlab",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "options": {"path": folder},
    }
    return _yaml({"apiVersion": 1, "providers": [provider]})


def _yaml(content: dict[str, Any]) -> str:
    return yaml.safe_dump(content, sort_keys=False)
