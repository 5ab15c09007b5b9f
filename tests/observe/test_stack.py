"""Real Prometheus, Alertmanager and exporter: an incident from the GPU to the webhook, and how the three end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from distlab.errors import SettingError, WorkError
from distlab.machine import LOOPBACK, free_port
from distlab.observe import stack as module
from distlab.observe import up as up_command
from distlab.observe.check_exporter import Check
from distlab.observe.rules import Receivers
from distlab.observe.scrape import fetch_json
from distlab.observe.stack import Addresses, Stack, StackFailedError, addresses_in
from distlab.observe.validate import examine, validate
from tests.observe.stack_rig import EXPORT, INTERVAL_S, SCALE, Hook, hook, until


@pytest.fixture(scope="module")
def pager() -> Iterator[Hook]:
    with hook() as kept:
        yield kept


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, pager: Hook) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack") / "telemetry"
    receivers = Receivers(page=pager.url, ticket=pager.url, log=pager.url)
    with Stack(folder, EXPORT, receivers=receivers, interval_s=INTERVAL_S, time_scale=SCALE) as stack:
        yield stack


def states(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def test_a_gpu_that_is_lost_pages_somebody_and_its_return_is_told(running: Stack, pager: Hook) -> None:
    fired = until(lambda: pager.alerts("GpuXidCritical", "firing"), "the page")[0]
    assert fired["labels"]["xid"] == "79"
    assert fired["labels"]["gpu"] == "1"
    assert fired["labels"]["tier"] == "simulated"
    link = "http://localhost:8000/hub/book/resources/runbooks.html#xid-79"
    assert fired["annotations"]["runbook_url"] == link
    assert "XID 79 on GPU 1" in fired["annotations"]["summary"]
    until(lambda: pager.alerts("GpuXidCritical", "resolved"), "the resolution")
    until(lambda: not firing(running), "the end of GpuLost in Prometheus")
    assert firing(running, during="[5m]"), "it fired meanwhile"
    assert not pager.alerts("GpuLost", "firing"), "the XID that names the cause inhibits it"
    assert not pager.alerts("ExporterDown", "firing"), "it was up before Prometheus was"


def firing(stack: Stack, during: str = "") -> bool:
    """Does GpuLost fire, now or within a time?"""
    series = f'ALERTS{{alertname="GpuLost",alertstate="firing"}}{during}'
    expr = quote(f"max_over_time({series})" if during else series)
    found = fetch_json(f"{stack.addresses.prometheus}/api/v1/query?query={expr}")
    return bool(found["data"]["result"])


def test_what_runs_is_valid_once_the_gpu_is_back(running: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    def every_check() -> list[Check]:
        checks = examine(running.addresses.exporter, running.addresses.prometheus, seconds=0.5)
        return checks if all(check.state == "ok" for check in checks) else []

    checks = until(every_check, "a state without a fault")
    names = [
        "Exporter",
        "GPUs",
        "Tier of the data",
        "Metrics",
        "Labels",
        "Values",
        "Memory",
        "Counters",
        "Fresh",
    ]
    assert [check.name for check in checks] == [
        *names,
        *("Prometheus", "Target", "Samples", "Rules", "Alerting", "Firing now"),
    ]
    assert validate(folder=running.folder, seconds=0.5, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == [check.name for check in checks]
    assert validate(folder=running.folder, seconds=0.5, require_tier="gpu") == 1
    assert "run the exporter on a machine with GPUs" in capsys.readouterr().out


def test_series_are_named_by_the_machine_and_not_by_a_port_that_changes(running: Stack) -> None:
    [up] = fetch_json(f"{running.addresses.prometheus}/api/v1/query?query=up")["data"]["result"]
    assert up["metric"]["instance"] == socket.gethostname()


def test_up_says_what_to_do_next_and_what_is_simulated(
    running: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    up_command._say(running.addresses, running.folder, "http://course/hub/book/", json=False)
    said = capsys.readouterr().out
    assert "The GPUs are SIMULATED" in said
    assert "http://course/hub/book/resources/runbooks.html" in said
    for command in ("page", "validate"):
        assert f"`distlab observe {command} --folder {running.folder}`" in said


def test_another_exporter_than_the_one_that_is_scraped_is_noticed(running: Stack) -> None:
    checks = examine("http://127.0.0.1:1", running.addresses.prometheus, seconds=0.5)
    assert states(checks)["Exporter"] == "fail"
    assert states(checks)["Target"] == "fail"
    assert "does not answer" in checks[0].found


def test_a_prometheus_that_is_none_is_one_sentence(running: Stack) -> None:
    for address in (running.addresses.exporter, running.addresses.alertmanager, "http://127.0.0.1:1"):
        checks = examine(running.addresses.exporter, address, seconds=0.5)
        assert checks[-1].name == "Prometheus"
        assert checks[-1].state == "fail"


def test_a_second_stack_in_the_folder_is_refused(running: Stack) -> None:
    with pytest.raises(SettingError, match=rf"Process {os.getpid()} runs a stack in .*; stop it first"):
        Stack(running.folder).__enter__()
    assert addresses_in(running.folder) == running.addresses


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingError, match=rf"Port {port}, for the prometheus, cannot be used .*; choose"
        ):
            Stack(tmp_path / "x", prometheus_port=port).__enter__()


def test_a_usual_port_that_is_taken_gives_way_to_a_free_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(up_command, "USUAL_PORTS", {"prometheus": port})
        assert up_command._port("prometheus", None) is None
        assert up_command._port("prometheus", port) == port, "what was asked for is not replaced"
    assert up_command._port("prometheus", None) == port


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port: int, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="give one from 1 to 65535"):
        Stack(tmp_path / "x", exporter_port=port).__enter__()


def test_ports_have_to_differ(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(SettingError, match="not all different"):
        Stack(tmp_path / "x", exporter_port=port, prometheus_port=port).__enter__()


def test_a_folder_that_cannot_be_had_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingError, match=r"Cannot write into .*/file/x: .*; name another folder\."):
        Stack(tmp_path / "file" / "x").__enter__()


@pytest.mark.parametrize("name", ["lock", "exporter.log"])
def test_a_link_in_the_folder_is_not_written_through(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).symlink_to(tmp_path / "precious")
    said = r"Cannot write .*: it is a link, .* name another folder\."
    with pytest.raises(SettingError, match=said), Stack(tmp_path / "x"):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_without_the_programs_the_command_that_gets_them_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROGRAMS", {"prometheus": ("no-such-prometheus",)})
    with pytest.raises(WorkError, match="apt-get install prometheus prometheus-alertmanager"):
        Stack(tmp_path / "x").__enter__()
    assert not (tmp_path / "x").exists()


def test_a_part_that_does_not_start_says_why_and_leaves_none_running(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "x", ["--scenario", "no-such-scenario"])
    with pytest.raises(StackFailedError, match=r"The exporter did not start; its log, .*no-such-scenario"):
        stack.__enter__()
    assert all(process.poll() is not None for process in stack.processes.values())
    assert addresses_in(tmp_path / "x") is None


NUMBERS = '{"exporter": 1, "prometheus": 2, "alertmanager": 3}'


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"exporter": 1, "surplus": 2}', NUMBERS, "\x00"])
def test_addresses_that_are_none_are_not_there(text: str, tmp_path: Path) -> None:
    (tmp_path / module.STATE).write_text(text)
    assert addresses_in(tmp_path) is None


def test_all_end_with_the_command_even_where_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distlab.cli", "observe", "up", "--json", "--interval", "0.5"]
    command += ["--source", "simulated", "--gpus", "1"]
    for signum, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 130)):
        up = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        assert up.stdout
        addresses = Addresses(**json.loads(up.stdout.readline()))
        assert fetch_json(f"{addresses.prometheus}/api/v1/query?query=up")["status"] == "success"
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) == 3
        up.send_signal(signum)
        assert up.wait(30) == status
        up.stdout.close()
        for child in children:
            until(lambda child=child: gone(child), f"the end of {child}")  # type: ignore[misc]


def gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def test_a_part_that_ends_by_itself_ends_all(tmp_path: Path) -> None:
    options = ["--source", "simulated", "--gpus", "1"]
    with Stack(tmp_path / "x", options, interval_s=INTERVAL_S) as stack:
        stack.processes["alertmanager"].terminate()
        with pytest.raises(StackFailedError, match="The alertmanager ended"):
            stack.wait()
    assert all(process.poll() is not None for process in stack.processes.values())
