"""What collects the telemetry of the site's machine: how it starts, what it says where it cannot, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from distlab.course.site import Site
from distlab.course.telemetry_page import MachinePrometheus
from distlab.errors import WorkError
from tests.observe.stack_rig import until


def said(prometheus: MachinePrometheus) -> str:
    with pytest.raises(WorkError) as error:
        prometheus.address()
    return str(error.value)


def test_a_machine_without_prometheus_says_so_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    prometheus = MachinePrometheus(Site(root=tmp_path, state=tmp_path / "var"))
    assert "is starting" in said(prometheus)
    first = prometheus.process
    assert first is not None
    first.wait(60)
    text = said(prometheus)
    assert text.startswith("Telemetry of this machine is not collected. ")
    assert "is not installed" in text
    assert "apt-get install prometheus" in text
    assert prometheus.process is first, "it is not tried again at once"


START = """
import sys, time
from pathlib import Path
from distlab.course.site import Site
from distlab.course.telemetry_page import MachinePrometheus
prometheus = MachinePrometheus(Site(root=Path(sys.argv[1]), state=Path(sys.argv[1]) / "var"))
while True:
    try:
        print(prometheus.address(), prometheus.process.pid, flush=True)
        break
    except Exception:
        time.sleep(0.1)
input()
"""
"""Stands for the Hub."""


def test_it_ends_with_the_hub_however_that_ends(tmp_path: Path) -> None:
    hub = subprocess.Popen(
        [sys.executable, "-c", START, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert hub.stdout is not None
    address, pid = hub.stdout.readline().split()
    assert address.startswith("http://127.0.0.1:")
    collecting = psutil.Process(int(pid))
    all_of_it = [collecting, *collecting.children()]
    assert len(all_of_it) == 4
    hub.kill()
    hub.communicate()
    until(lambda: not any(process.is_running() for process in all_of_it), "the end of all")
    assert not (tmp_path / "var/telemetry/stack.json").exists()
    assert os.stat(tmp_path / "var/log/telemetry.log").st_mode & 0o777 == 0o600
