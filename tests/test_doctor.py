"""`distlab doctor`, on this machine and on machines made up of files and commands."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from distlab import doctor
from distlab.doctor import Check, Lab, lab_tier

REPOSITORY = Path(__file__).resolve().parents[1]

TWO_GPUS = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 580.65.06
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 580.65.06
"""


def command(folder: Path, name: str, script: str) -> None:
    """Put a command of one's own into `folder`."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "bin", "nvidia-smi", f"cat <<END\n{TWO_GPUS}END")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_this_machine(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTLAB_ROOT", str(REPOSITORY))
    status = doctor.doctor(json=True)
    report = json.loads(capsys.readouterr().out)
    assert status == (0 if report["can_run"] else 1)
    assert report["can_run"] == all(check["ok"] for check in report["checks"] if check["needed"])
    assert {lab["lab"] for lab in report["labs"]} == {lab.id for lab in doctor.labs()}
    assert all(check["ok"] or check["fix"] for check in report["checks"]), "a problem without its fix"
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])  # type: ignore[index]
    assert report["hardware"]["memory_bytes"] == memory_kib * 1024


def test_every_lab_is_known() -> None:
    known = {lab.id for lab in doctor.labs()}
    for folder in ("solutions", "labs"):
        assert {path.name for path in (REPOSITORY / folder).glob("mod-*/")} <= known


@pytest.mark.usefixtures("two_gpus")
def test_gpus_as_the_driver_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = doctor.gpus()
    assert (first.index, second.index) == (0, 1)
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert first.memory_bytes == 81559 * 2**20
    assert first.driver == "580.65.06"
    for visible, indices in {"": [], "1": [1], "GPU-aaaa1111": [0], "0,1": [0, 1], "-1": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.index for gpu in doctor.gpus()] == indices, visible


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert doctor.gpus() == ()
    command(tmp_path / "bin", "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert doctor.gpus() == ()
    command(tmp_path / "bin", "nvidia-smi", "echo 'No devices were found'")
    assert doctor.gpus() == ()


LAB = Lab("mod-1-lab-1", "A lab", processes=2, packages=("torch",))
TORCH = {"torch": "2.13.0"}


@pytest.mark.parametrize(
    ("gpus", "cuda", "packages", "tier", "why"),
    [
        (0, "", TORCH, "cpu", "no GPU is visible"),
        (1, "13.0", TORCH, "cpu", "1 GPU visible, 2 needed"),
        (2, "13.0", TORCH, "gpu", "a GPU each"),
        (8, "13.0", TORCH, "gpu", "a GPU each"),
        (2, "", TORCH, "cpu", "without CUDA"),
        (2, "13.0", {}, "none", "not installed: torch"),
    ],
)
def test_the_tier_follows_from_what_is_there(
    gpus: int, cuda: str, packages: dict[str, str], tier: str, why: str
) -> None:
    found = lab_tier(LAB, gpus=gpus, cuda=cuda, installed=packages)
    assert found.tier == tier
    assert why in found.why


def test_the_table_of_the_home_page() -> None:
    (row,) = (row for row in doctor.tiers_by_machine() if row["Lab"] == "mod-107-lab-3")
    assert [row[name] for name in ("Laptop or CPU server", "One GPU", "Two GPUs or more")] == [
        "cpu",
        "cpu",
        "gpu",
    ]


@pytest.mark.usefixtures("two_gpus")
def test_torch_without_cuda_beside_gpus_is_a_limit_with_its_fix() -> None:
    found = doctor.hardware()
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
        labs=(),
        checks=(Check("Sandbox", "one learner at a time", ok=False, needed=False, fix=fix),),
    )
    console = Console(width=80, record=True, file=io.StringIO())
    doctor.show(report, console)
    text = console.export_text()
    assert fix.strip() in text
    assert "The course can run" in text
