"""The Grafana dashboards: whole in the SDK's own types, and what somebody who opens them meets."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as grafana

from distlab import cli
from distlab.observe import dashboards as module
from distlab.observe.panels import DASHBOARDS
from distlab.observe.panels.panel import Dashboard
from tests.observe.telemetry_rig import variables_of

register_default_plugins()

BUILT_IN = {"__rate_interval", "__url_time_range", "datasource"}


@pytest.fixture(params=DASHBOARDS, ids=lambda board: board.id)
def board(request: pytest.FixtureRequest) -> Dashboard:
    made: Dashboard = request.param
    return made


@pytest.fixture
def drawn(board: Dashboard) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(module.as_json(board))
    return made


def test_it_is_whole_in_the_types_of_the_sdk(board: Dashboard) -> None:
    text = module.as_json(board)
    read = grafana.Dashboard.from_json(json.loads(text))
    assert JSONEncoder(indent=2, sort_keys=True).encode(read) + "\n" == text
    assert module.as_json(board) == text


def test_it_asks_what_the_panels_ask_and_nothing_else(board: Dashboard, drawn: dict[str, Any]) -> None:
    asked = [[target["expr"] for target in panel["targets"]] for panel in drawn["panels"]]
    assert asked == [[query.expr for query in panel.queries] for panel in board.panels]
    for panel, source in zip(drawn["panels"], board.panels, strict=True):
        assert {target["refId"] for target in panel["targets"]} == set("ABCDEF"[: len(panel["targets"])])
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert {target.get("instant") for target in panel["targets"]} == {source.instant}


def test_its_variables_are_declared_and_lead_to_one_another(drawn: dict[str, Any]) -> None:
    declared: set[str] = set(BUILT_IN)
    for variable in drawn["templating"]["list"]:
        if variable["type"] == "query":
            assert variables_of(variable["query"]["query"]) <= declared, (
                "it is asked before what it depends on"
            )
            assert variable["includeAll"]
            assert variable["allValue"] == ".*"
        declared.add(variable["name"])
    used = {
        name
        for panel in drawn["panels"]
        for target in panel["targets"]
        for name in variables_of(target["expr"])
    }
    assert used <= declared
    assert declared - used <= BUILT_IN | {"job_name"}, "a choice that changes nothing"


def test_links_lead_on_with_the_values_of_what_was_clicked() -> None:
    boards = {board.uid: board for board in DASHBOARDS}
    found = set()
    for board in DASHBOARDS:
        drawn = json.loads(module.as_json(board, "https://course.example.org/hub/book"))
        assert drawn["links"][0]["includeVars"]
        for panel in drawn["panels"]:
            for link in panel.get("links", []):
                assert link["url"].startswith("https://course.example.org/hub/book/resources/runbooks.html")
            for link in panel["fieldConfig"]["defaults"].get("links", []):
                uid, values = re.fullmatch(r"/d/([a-z-]+)\?(.*)", link["url"]).groups()  # type: ignore[union-attr]
                names = re.findall(r"var-(\w+)=\$\{__(?:data\.fields|field\.labels)\.(\w+)\}", values)
                assert [a for a, _ in names] == [variable.name for variable in boards[uid].variables]
                assert all(a == b for a, b in names)
                found.add((board.id, boards[uid].id))
    assert found == {("fleet", "training"), ("fleet", "gpu"), ("training", "gpu")}


def test_panels_fill_the_grid_without_covering_each_other(drawn: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in drawn["panels"]]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for y in {place["y"] for place in places}:
        assert sum(place["w"] for place in places if place["y"] == y) == 24
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]


def test_a_gap_stays_a_gap_and_an_old_value_is_not_shown(drawn: dict[str, Any]) -> None:
    for panel in drawn["panels"]:
        assert panel["fieldConfig"]["defaults"]["noValue"].endswith(".")
        if panel["type"] == "timeseries":
            assert panel["fieldConfig"]["defaults"]["custom"]["spanNulls"] is False
            assert panel["options"]["legend"]["showLegend"]
        else:
            assert all(target["instant"] for target in panel["targets"])


def test_colours_go_from_good_to_bad_on_the_side_that_is_bad(board: Dashboard, drawn: dict[str, Any]) -> None:
    states = {module.OK: 0, module.WARNING: 1, module.CRITICAL: 2}
    for panel, source in zip(drawn["panels"], board.panels, strict=True):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        order = [states[step["color"]] for step in steps]
        values = [step["value"] for step in steps]
        assert values[0] is None
        assert values[1:] == sorted(mark.value for mark in source.thresholds)
        assert order == sorted(order, reverse=source.bad == "below")
        assert len(set(order)) == len(order)


def test_tables_show_their_labels_first_and_their_queries_by_name(
    board: Dashboard, drawn: dict[str, Any]
) -> None:
    for panel, source in zip(drawn["panels"], board.panels, strict=True):
        if panel["type"] == "table":
            organize = panel["transformations"][1]["options"]
            names = sorted(organize["indexByName"], key=organize["indexByName"].get)
            assert tuple(names[: len(source.keys)]) == source.keys
            assert set(organize["renameByName"].values()) == {query.legend for query in source.queries}
            assert organize["excludeByName"] == {"Time": True}


def test_the_command_writes_what_grafana_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "grafana"
    with pytest.raises(SystemExit) as ended:
        cli.main(["observe", "dashboards", "--out", str(out), "--prometheus-url", "http://prometheus:9090"])
    assert ended.value.code == 0
    written = sorted(file for file in out.rglob("*") if file.is_file())
    assert sorted(capsys.readouterr().out.split()) == [str(file) for file in written]
    names = {json.loads(file.read_text())["uid"] for file in (out / "dashboards").iterdir()}
    assert names == {"distlab-fleet", "distlab-training", "distlab-cost", "distlab-gpu"}
    (source,) = yaml.safe_load((out / "provisioning/datasources/distlab.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    (provider,) = yaml.safe_load((out / "provisioning/dashboards/distlab.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"


def test_a_folder_that_cannot_be_written_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as ended:
        cli.main(["observe", "dashboards", "--out", str(tmp_path / "file")])
    assert ended.value.code == 1
    assert re.fullmatch(
        r"distlab observe dashboards: .* cannot be written: .*--out\.\n", capsys.readouterr().err
    )
