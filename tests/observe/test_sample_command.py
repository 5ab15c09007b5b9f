"""`distlab observe sample` and `record`: tables that fit, JSON that is nothing but JSON, one sentence for trouble."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tyro
from rich.console import Console

from distlab.cli import main
from distlab.observe.gpu_table import gpu_table
from distlab.observe.open import SourceOptions
from distlab.observe.recording import TelemetryFile
from distlab.observe.sample import GpuSample, MigInstance, Problem, Reading, Xid
from distlab.observe.simulated import simulate


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["observe", *args])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    "options",
    [
        SourceOptions(),
        SourceOptions("recorded", recording="-odd name", loop=True, speed=2.5),
        SourceOptions("simulated", scenario="xid-79", gpus=3, seed=7, follow="runs/a b"),
    ],
)
def test_the_words_for_another_command_say_the_same(options: SourceOptions) -> None:
    assert tyro.cli(SourceOptions, args=options.words()) == options


@pytest.mark.parametrize("command", ["sample", "record", "export", "up"])
def test_all_commands_name_a_source_alike(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == 0
    shown = capsys.readouterr().out
    for name in vars(SourceOptions()):
        assert f" --{name}" in shown


def table(reading: Reading, before: Reading | None = None, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(gpu_table("simulated", reading, before, width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_table_fits_and_cuts_no_cell(width: int) -> None:
    before, now = simulate("overheating", seconds=135, gpus=8)[-2:]
    text = table(now, before, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in "".join(text.splitlines()[1:])
    assert "busy" in text
    assert ("PCIe GB/s" in text) == (width >= 120), "what matters least is left out first"


def test_the_table_says_what_nvidia_smi_does_not() -> None:
    before, now = simulate("overheating", seconds=135, gpus=2)[-2:]
    text = table(now, before, 160)
    assert "2 x SIMULATED H100 80GB · tier simulated" in text
    for head in ("tensor", "held down by", "NVLink GB/s", "PCIe GB/s", "ECC"):
        assert head in text
    assert "sw thermal slowdown" in text


def test_what_is_not_known_is_a_dash_or_no_column() -> None:
    bare = GpuSample(time=1, gpu=0, uuid="a", name="GPU [bold]one[/]", tier="gpu")
    known = GpuSample(
        time=1,
        gpu=1,
        uuid="b",
        name="other",
        tier="gpu",
        power_W=300,
        xids=(Xid(time=1, code=31), Xid(time=1, code=79)),
    )
    text = table(
        Reading((bare, known), (Problem("GPU 2 is lost.", 2, (Xid(time=1, code=79), Xid(time=1, code=999))),))
    )
    assert "tensor" not in text
    assert "300/-" in text
    assert "[bold]one[/]" in text, "a name is no markup"
    assert "! GPU 2 is lost. XID 79 (GPU has fallen off the bus), 999." in text
    assert "! GPU 1: XID 79 (GPU has fallen off the bus)." in text
    instance = MigInstance(
        gpu_instance=7,
        compute_instance=0,
        profile="1g.10gb",
        uuid="m",
        memory_used_bytes=1,
        memory_total_bytes=2,
    )
    sliced = GpuSample(time=1, gpu=0, uuid="a", name="x", tier="gpu", mig=(instance,))
    assert "1g.10gb" in table(Reading((sliced,)))


def test_a_single_look_is_into_the_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", "--source", "simulated", "--scenario", "xid-79", "--gpus", "2") == 0
    out = capsys.readouterr().out
    assert "1 x SIMULATED H100 80GB" in out
    assert "GPU 1 has fallen off the bus" in out


def test_json_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("sample", "--source", "simulated", "--json", "--gpus", "2") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["tier"] == "simulated"
    assert [sample["gpu"] for sample in values["samples"]] == [0, 1]
    assert values["samples"][0]["mig"] is None
    assert (
        run("sample", "--source", "simulated", "--json", "--count", "3", "--every", "0.05", "--speed", "60")
        == 0
    )
    energies = [
        json.loads(line)["samples"][0]["energy_J_total"] for line in capsys.readouterr().out.splitlines()
    ]
    assert len(energies) == 3
    assert energies == sorted(energies)


def test_without_a_driver_the_next_step_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pynvml  # type: ignore[import-untyped]

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert run("sample", "--source", "nvml") == 1
    error = capsys.readouterr().err
    assert error.startswith("distlab observe sample: No NVIDIA driver is installed here")
    assert "choose the source simulated" in error
    assert run("record", "x", "--source", "nvml") == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sample", "--scenario", "trianing", "--source", "simulated"], "did you mean 'training'"),
        (["sample", "--every", "0"], "choose 0.05 to 3600 seconds"),
        (["sample", "--count", "0"], "choose 1 or more"),
        (["sample", "--source", "recorded", "--recording", "absent"], "No such file"),
        (["sample", "--follow", "runs/absent"], "runs/absent holds no log of a run"),
        (["sample", "--source", "simulated", "--speed", "nan"], "3600 at most"),
        (["record", "x", "--seconds", "nan"], "every <= seconds"),
        (["record", "x", "--source", "recorded"], "copy the file"),
        (["record", "x", "--recording", "y"], "copy the file"),
    ],
)
def test_bad_input_is_one_sentence(
    args: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*args) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_what_is_recorded_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "hot.telemetry.jsonl.gz"
    options = ("--source", "simulated", "--scenario", "overheating", "--gpus", "2", "--speed", "1000")
    assert (
        run("record", str(out), *options, "--seconds", "200", "--every", "10", "--about", "a test", "--json")
        == 0
    )
    facts = json.loads(capsys.readouterr().out)
    assert facts == {
        "file": str(out),
        "tier": "simulated",
        "readings": 21,
        "samples": 42,
        "bytes": out.stat().st_size,
    }
    with TelemetryFile(out) as file:
        assert file.provenance.hardware == "2 x SIMULATED H100 80GB"
        assert (file.provenance.interval_s, file.provenance.about) == (10.0, "a test")
        assert str(tmp_path) not in file.provenance.command
    assert run("sample", "--source", "recorded", "--recording", str(out), "--at", "100", "--json") == 0
    replayed = json.loads(capsys.readouterr().out)
    assert replayed["tier"] == "simulated"
    assert replayed["samples"][0]["utilization_percent"] > 90
    assert run("sample", "--recording", str(out)) == 0
    short = tmp_path / "short.telemetry.jsonl.gz"
    assert run("record", str(short), *options, "--seconds", "20", "--every", "10") == 0
    assert run("sample", "--recording", str(short)) == 0, "a single look falls within it"
    capsys.readouterr()
    assert run("record", str(out), *options) == 2
    assert "exists; choose another name" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    out = tmp_path / "x"
    command = [sys.executable, "-m", "distlab.cli", "observe", "record", str(out), "--source", "simulated"]
    process = subprocess.Popen(
        [*command, "--every", "0.05", "--seconds", "3000"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size > 5000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Stopped; what was recorded is kept." in error
    with TelemetryFile(out) as file:
        assert len(list(file.readings())) > 3, "whole to its end"


def test_a_watch_on_a_terminal_ends_with_ctrl_c() -> None:
    """In a pseudo-terminal, as people use it: redrawn in place, the cursor comes back."""
    import pty

    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "distlab.cli",
        "observe",
        "sample",
        "--watch",
        "--source",
        "simulated",
        "--every",
        "0.1",
    ]
    process = subprocess.Popen(
        command,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    shown = b""
    deadline = time.monotonic() + 60
    while shown.count(b"tier simulated") < 3:
        assert time.monotonic() < deadline
        shown += os.read(leader, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # the other end is closed
        pass
    assert process.wait(30) == 0
    assert b"\x1b[?25h" in shown
    assert b"Traceback" not in shown
