"""Prometheus' and Alertmanager's own tools on rules and configurations; what rules and runbooks have in common."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from distlab.errors import SettingError
from distlab.observe.check_prometheus import routes
from distlab.observe.metrics import METRICS
from distlab.observe.rules import (
    BOOK_URL,
    FOLDER,
    RUNBOOKS,
    Receivers,
    alertmanager_config,
    alerts,
    prometheus_config,
    recorded,
    rule_files,
    rules,
    write_config,
)
from distlab.observe.xids import XIDS

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
UNIT_TESTS = sorted((HERE / "rules").glob("*.yml"))
CATALOG = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"


def tool(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: str(file.stem))
def test_the_rules_do_what_their_unit_tests_say(file: Path) -> None:
    tool("promtool", "test", "rules", file)


def test_each_alert_is_tested_where_it_fires_and_where_it_must_not() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    for file in UNIT_TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for check in case.get("alert_rule_test", ()):
                (fires if check["exp_alerts"] else quiet).add(check["alertname"])
    assert fires == set(alerts())
    assert quiet >= set(alerts())


@pytest.mark.parametrize("scale", [1.0, 1 / 60])
def test_prometheus_and_alertmanager_accept_what_is_written(scale: float, tmp_path: Path) -> None:
    receivers = Receivers(page="https://pager.example.org/a?b='c'&d=\"e\"", log="http://127.0.0.1:9/log")
    written = write_config(
        tmp_path,
        exporters=("node1:9400", "[::1]:9400"),
        receivers=receivers,
        time_scale=scale,
        interval_s=60 * scale,
    )
    assert len(written) == 2 + len(list((FOLDER / "rules").glob("*.yml")))
    tool("promtool", "check", "config", tmp_path / "prometheus.yml")
    tool("amtool", "check-config", tmp_path / "alertmanager.yml")
    config = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    hooks = {one["name"]: [hook["url"] for hook in one["webhook_configs"]] for one in config["receivers"]}
    assert hooks == {"page": [receivers.page], "ticket": [], "log": [receivers.log]}
    config = yaml.safe_load((tmp_path / "prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": ["node1:9400", "[::1]:9400"]}]


def test_alerts_are_complete() -> None:
    for name, rule in alerts().items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), name
        assert rule["labels"]["component"], name
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, name
        link = f"{BOOK_URL}{RUNBOOKS}#"
        assert rule["annotations"]["runbook_url"].startswith(link), name
        values = re.search(r"\$value|\$labels", rule["annotations"]["description"])
        assert values, f"{name} says no value"


def test_a_duration_has_its_reason() -> None:
    """Each `for:` stands below a comment right above its rule."""
    for path in (FOLDER / "rules").glob("*.yml"):
        for rule in re.split(r"\n      - ", path.read_text())[1:]:
            before = path.read_text().split(f"      - {rule}")[0].rstrip().split("\n")[-1]
            assert "\n        for: " not in rule or before.lstrip().startswith("#"), rule


def test_the_sets_of_xids_are_those_of_the_table() -> None:
    def codes(severity: str) -> set[int]:
        return {code for code, entry in XIDS.items() if entry.severity == severity}

    found = {
        name: set(map(int, re.findall(r"\d+", rule["expr"].split("{")[1])))
        for name, rule in alerts().items()
        if name.startswith("GpuXid")
    }
    assert found == {
        "GpuXidCritical": codes("critical"),
        "GpuXidWarning": codes("warning"),
        "GpuXidInfo": codes("info"),
        "GpuXidUnknown": set(XIDS),
    }
    unhealthy = re.search(r'xid=~"([^"]*)"', recorded()["gpu:unhealthy:bool"])
    assert unhealthy
    assert set(map(int, unhealthy[1].split("|"))) == codes("critical")


def test_rules_use_only_metrics_that_exist() -> None:
    others = {"up", "DCGM_FI_DEV_CLOCKS_EVENT_REASONS"}  # Prometheus' own, and DCGM 4's name of a field
    for expr in (*recorded().values(), *(rule["expr"] for rule in alerts().values())):
        for name in re.findall(r"\b(?:DCGM_FI_\w+|distlab_\w+|(?:gpu|rank|run|fleet):[\w:]+)", expr):
            assert name in METRICS or name in recorded() or name in others, name


def test_a_scale_shortens_every_window_wait_and_offset() -> None:
    """Also those that are written in a form that the scaling does not know: then some duration stays."""
    whole = "\n".join(rule_files().values())
    scaled = "\n".join(rule_files(time_scale=1 / 60).values())
    without_names = [re.sub(r"#.*|\w+:[\w:]+|: .*\(.*days.*", "", text) for text in (whole, scaled)]
    durations = [re.findall(r"(?<![\w.])\d+(?:ms|s|m|h|d)\b", text) for text in without_names]
    assert len(durations[0]) == len(durations[1]) > 60
    one_minute = {"1h": "1m", "15m": "15s", "5m": "5s", "3d": "72m", "6h": "6m", "30m": "30s", "30s": "500ms"}
    one_minute |= {"10m": "10s", "1m": "1s"}
    assert [one_minute[duration] for duration in durations[0]] == durations[1]


@pytest.mark.parametrize(("interval_s", "scale"), [(61, 1), (0.51, 1 / 120), (0.05, 1)])
def test_an_interval_that_leaves_windows_empty_is_refused(
    interval_s: float, scale: float, tmp_path: Path
) -> None:
    with pytest.raises(SettingError, match="The interval is"):
        write_config(tmp_path, interval_s=interval_s, time_scale=scale)


@pytest.mark.parametrize("scale", [0, -1, 2])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    with pytest.raises(SettingError, match="time_scale is"):
        rule_files(time_scale=scale)


@pytest.mark.parametrize(
    "address", ["", "node1", "node1:0", "node1:65536", "http://node1:9400", "a b:1", 'a"]:1']
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="is no address; give host:port"):
        prometheus_config((address,))


@pytest.mark.parametrize("url", ["pager", "ftp://x", "http://", "http://x\ny", "http://[1"])
def test_a_receiver_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="page_url is"):
        alertmanager_config(Receivers(page=url))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"Cannot write into .*/file: .*; name another folder\."):
        rules(tmp_path / "file")


def test_alertmanager_routes_as_we_read_its_tree(tmp_path: Path) -> None:
    write_config(tmp_path)
    config = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())
    wanted = {"critical": "page", "warning": "ticket", "info": "log", "strange": "ticket"}
    for severity, receiver in wanted.items():
        said = tool(
            *("amtool", "config", "routes", "test", "--config.file", tmp_path / "alertmanager.yml"),
            f"severity={severity}",
        )
        assert said.split() == [receiver]
        assert routes(config["route"], {"alertname": "X", "severity": severity}) == [receiver]


def test_the_reading_of_a_tree_knows_every_matcher() -> None:
    tree: dict[str, Any] = {
        "receiver": "top",
        "routes": [
            {"matchers": ['team =~ "ml|hpc"'], "receiver": "a", "continue": True},
            {"match": {"severity": "info"}, "receiver": "b"},
            {"match_re": {"severity": "w.*"}, "routes": [{"matchers": ["team != hpc"], "receiver": "c"}]},
        ],
    }
    assert routes(tree, {"team": "ml", "severity": "info"}) == ["a", "b"]
    assert routes(tree, {"severity": "warning"}) == ["c"]
    assert routes(tree, {"team": "hpc", "severity": "warning"}) == ["a", "top"]
    assert routes(tree, {"severity": "critical"}) == ["top"]


def test_inhibitions_name_alerts_that_exist() -> None:
    config = yaml.safe_load(alertmanager_config())
    matchers = [
        m for rule in config["inhibit_rules"] for m in rule["source_matchers"] + rule["target_matchers"]
    ]
    named = {
        name
        for m in matchers
        if m.startswith("alertname")
        for name in re.findall(r"[A-Z]\w+", m.split("=", 1)[1])
    }
    assert named <= set(alerts())
    assert len(named) > 10


# --- the runbooks ---


def page() -> str:
    return (REPOSITORY / "book" / f"{RUNBOOKS.removesuffix('.html')[1:]}.md").read_text()


def test_each_runbook_has_its_place_on_the_page() -> None:
    anchors = set(re.findall(r"^\(([\w-]+)\)=$", page(), re.MULTILINE))
    for name, rule in alerts().items():
        anchor = rule["annotations"]["runbook_url"].split("#")[1]
        wanted = {f"xid-{code}" for code in XIDS} if "{{" in anchor else {anchor}
        assert wanted <= anchors, f"{name}: {wanted - anchors}"
    assert "resources/runbooks" in (REPOSITORY / "_toc.yml").read_text()


def test_the_page_names_each_alert_and_each_xid_as_the_tables_do() -> None:
    text = page()
    for name, rule in alerts().items():
        assert f"`{name}`" in text, name
        row = next(line for line in text.split("\n") if line.startswith("|") and f"`{name}`" in line)
        assert f"| {rule['labels']['severity']} |" in row, name
    for entry in XIDS.values():
        row = next(line for line in text.split("\n") if line.startswith(f"| [{entry.code}]"))
        assert f"| {entry.name} | {entry.severity} | {entry.action} |" in row, entry
    assert CATALOG in text


def test_the_command_names_the_files_that_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rules(tmp_path, exporter=("a:1", "b:2"), page_url="http://x/y") == 0
    files = capsys.readouterr().out.split()
    assert json.dumps(["a:1", "b:2"]) in (tmp_path / "prometheus.yml").read_text()
    assert all(Path(file).is_file() for file in files)
