"""`distlab doctor`, on this machine and on machines made up of files and commands."""

from __future__ import annotations

import io
import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from distlab import doctor
from distlab.doctor import Check
from distlab.labs import labs
from distlab.machine import Gpu
from tests.programs import command

REPOSITORY = Path(__file__).resolve().parents[1]


def test_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTLAB_ROOT", str(REPOSITORY))
    status = doctor.doctor(json=True)
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["can_run"] else 1)
    assert report["can_run"] == all(check["ok"] for check in report["checks"] if check["needed"])
    assert {lab["lab"] for lab in report["labs"]} == {lab.id for lab in labs()}
    assert all(check["ok"] or check["fix"] for check in report["checks"]), "a problem without its fix"
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    assert report["hardware"]["memory_bytes"] == memory_kib * 1024


def test_torch_without_cuda_beside_gpus_is_a_limit_with_its_fix() -> None:
    gpu = Gpu(0, "NVIDIA H100 80GB HBM3", 81559 * 2**20, "580.65.06")
    found = doctor.Hardware("CPU", 2, 2**33, (gpu,))
    checks = {check.name: check for check in doctor.base_checks(found, "", {"torch": "2.13.0+cpu"})}
    check = checks["torch for the GPUs"]
    assert not check.ok
    assert not check.needed
    assert check.fix.endswith("-m pip install --force-reinstall torch==2.13.0")
    assert not checks["Lab packages"].ok, "numpy is not in the list of installed packages"
    assert "numpy missing" in checks["Lab packages"].found


def test_a_missing_program_fails_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "_config.yml").write_text("title: x")
    command(tmp_path / "bin", "node", "echo v18.2.0")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    report = doctor.examine(tmp_path)
    failed = {check.name: check for check in report.checks if not check.ok}
    assert set(failed) >= {"Node.js", "mathjax", "configurable-http-proxy", "bwrap", "setpriv"}
    assert failed["bwrap"].fix.endswith("apt-get install -y bubblewrap")
    assert failed["Alertmanager"].fix.endswith("apt-get install -y prometheus-alertmanager")
    assert not failed["Prometheus"].needed
    assert failed["mathjax"].fix == "npm ci"
    assert "20 or later" in failed["Node.js"].fix
    assert not report.can_run
    monkeypatch.setenv("DISTLAB_ROOT", str(tmp_path))
    assert doctor.doctor() == 1


def test_outside_the_repository_the_site_is_not_asked_for(tmp_path: Path) -> None:
    names = {check.name for check in doctor.examine(tmp_path).checks}
    assert "Lab packages" in names
    assert "Node.js" not in names


def test_a_gpu_can_be_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DISTLAB_ROOT", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert doctor.doctor() == 0
    capsys.readouterr()
    assert doctor.doctor(require_gpu=True) == 1
    assert "mod-107-lab-3" in capsys.readouterr().err


def test_commands_are_printed_in_one_piece() -> None:
    fix = "sudo apt-get install -y " + "bubblewrap[extra] " * 12
    report = doctor.Report(
        hardware=doctor.Hardware("CPU", 2, 2**33, ()),
        versions={},
        frameworks=(doctor.Framework("horovod", "", get="pip install horovod[pytorch] " * 8),),
        labs=(),
        checks=(Check("Sandbox", "one learner at a time", ok=False, needed=False, fix=fix),),
    )
    console = Console(width=80, record=True, file=io.StringIO())
    doctor.show(report, console)
    text = console.export_text()
    assert fix.strip() in text
    assert "To install horovod: " + ("pip install horovod[pytorch] " * 8).strip() in text
    assert "The course can run" in text


def test_the_frameworks_are_those_of_the_extra(tmp_path: Path) -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {Requirement(text).name: Requirement(text) for text in extras["frameworks"]}
    installed = {"deepspeed": "0.19.8", "accelerate": "0.1", "horovod": str(doctor.HOROVOD.specifier)[2:]}
    found = {one.name: one for one in doctor.frameworks(REPOSITORY, installed)}
    assert set(found) == {*wanted, "horovod"}
    assert found["deepspeed"] == doctor.Framework("deepspeed", "0.19.8", get="")
    assert found["accelerate"] == doctor.Framework("accelerate", "0.1", get="scripts/setup dev")
    assert found["horovod"].get == ""
    elsewhere = {one.name: one.get for one in doctor.frameworks(tmp_path, {})}
    assert elsewhere["ray"].endswith("-m pip install 'distlab[frameworks]'")
    assert "scripts/build_horovod gloo" in elsewhere["horovod"]


def test_horovod_is_the_one_that_is_built() -> None:
    assert f'"{doctor.HOROVOD} --hash=' in (REPOSITORY / "scripts" / "build_horovod").read_text()
