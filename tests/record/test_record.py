"""Recording a GPU, rehearsed on the CPU: every part runs, failures cost the others nothing, limits hold."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distlab.bench.results import read_results
from distlab.errors import SettingError, WorkError
from distlab.observe.recording import Recorder, TelemetryFile, provenance
from distlab.observe.sample import GpuSample, Reading
from distlab.record import command, oom
from distlab.record.plan import Mode, PartPlan, parts
from distlab.record.process import Call, run_call
from distlab.record.recordings import read_recording, recordings, unpack_run
from distlab.record.steps import CPU_SIZES, STEPS, measure_all
from distlab.record.store import Store, folder_name, scrubbed, scrubbed_text
from distlab.record.telemetry import Telemetry, in_words, seen, simulated_by
from distlab.train.records import read_info, read_log

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "record_gpu"
STAMP = {"tier": "gpu", "hardware": "NVIDIA H200", "driver": "580.1", "date": "2026-11-29T00:00:00+00:00"} | {
    "command": "scripts/record_gpu", "torch": "2.13.0", "system": "Linux"
}  # fmt: skip


def script(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recording of every part."""
    root = tmp_path_factory.mktemp("rehearsal")
    with script("--rehearse", str(root), "--short") as child:
        _, errors = child.communicate(timeout=240)
    assert child.returncode == 0, errors
    (folder,) = root.iterdir()
    return folder


def test_every_part_is_recorded_and_labelled(rehearsed: Path) -> None:
    recording = read_recording(rehearsed)
    assert recording.tier == "cpu"
    planned = [plan.name for plan in parts(Mode("cpu", 0, short=True), rehearsed)]
    assert recording.parts == dict.fromkeys(planned, "done")
    tiers = {file.kind: file.provenance["tier"] for file in recording.contents}
    assert tiers == {"results": "cpu", "run": "cpu", "profile": "cpu", "telemetry": "simulated"}
    assert "SIMULATED" in recording.file("good.telemetry.jsonl.gz").provenance["hardware"]
    assert recordings(rehearsed.parent) == [], "a rehearsal is no recording of a GPU"


def test_what_was_recorded_can_be_read(rehearsed: Path, tmp_path: Path) -> None:
    recording = read_recording(rehearsed)
    assert read_results(rehearsed / "bench.json").kind == "gpu"
    assert {row["data"] for row in read_results(rehearsed / "zeros.json").rows} == {"zeros"}
    assert read_results(rehearsed / "collectives.json").kind == "collectives"
    (step,) = read_results(rehearsed / "steps.json").rows
    assert (step["hidden"], step["layers"], len(step["samples_s"])) == (64, 2, STEPS)
    for case, batch in (("good", 16), ("starved", 16), ("small_batch", 1)):
        run = unpack_run(recording, case, tmp_path)
        lines = read_log(str(run))
        assert len(lines) >= 3
        assert {line.samples for line in lines} == {batch}
        assert read_info(str(run)).config["name"] == case
    with TelemetryFile(rehearsed / "good.telemetry.jsonl.gz") as file:
        assert len(list(file.readings())) >= 3
    analysis = json.loads((rehearsed / "profile_good" / "analysis.json").read_text())
    assert len(analysis["ranks"]) == 1
    oom = json.loads((rehearsed / "oom.json").read_text())
    assert "allocate memory" in oom["error"]
    assert [attempt["fits"] for attempt in oom["attempts"]].index(False) == len(oom["attempts"]) - 1


def test_no_size_is_begun_once_the_time_is_over() -> None:
    found = dict(measure_all(CPU_SIZES, torch.device("cpu"), 0.0))
    assert found == dict.fromkeys(CPU_SIZES, "not begun: the 0 s were over")


def test_the_slow_loader_starves_the_run(rehearsed: Path, tmp_path: Path) -> None:
    starved = read_log(str(unpack_run(read_recording(rehearsed), "starved", tmp_path)))
    assert all(line.data_s >= 0.05 for line in starved)


def test_no_path_and_no_name_of_the_machine_is_left(rehearsed: Path) -> None:
    for path in rehearsed.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            text = gzip.decompress(content) if path.name.endswith(".gz") else content
            for private in (str(REPOSITORY), sys.prefix, str(rehearsed.parent), f'"{os.uname().nodename}"'):
                assert private.encode() not in text, (path.name, private)


def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    with script("--rehearse", str(tmp_path), "--parts", "hot") as child:
        assert child.stderr is not None
        assert any("hot: products" in line for line in child.stderr)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "what was recorded is kept" in errors
    (folder,) = tmp_path.iterdir()
    assert read_recording(folder).parts == {"hot": "interrupted"}


# --- refusals ---


def test_without_a_gpu_it_refuses_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "gpus", lambda: ())
    monkeypatch.setattr(sys, "argv", ["record_gpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command.start()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("record_gpu: There is no NVIDIA GPU here")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_settings_that_go_together(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="not both"):
        command.main(out=tmp_path, rehearse=tmp_path)
    with pytest.raises(SettingError, match="--short goes with --rehearse"):
        command.main(short=True)
    with pytest.raises(SettingError, match=r"There is no part 'benhc'; there are bench, "):
        command.main(parts=("benhc",), rehearse=tmp_path)


# --- parts, one by one ---


def plan(tmp_path: Path, name: str, *arguments: str, box_s: float = 60.0) -> PartPlan:
    return PartPlan(
        name, "A part", box_s, Call("tests.record.calls", arguments), False, tmp_path / "s" / name
    )


def record_plans(store: Store, tmp_path: Path, plans: list[PartPlan]) -> list[str]:
    (tmp_path / "s").mkdir()
    return command._record(store, plans, Mode("cpu", 0), again=False)


def test_a_part_that_fails_or_hangs_is_said_and_the_others_are_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "r" / "gpu", STAMP)
    out = str(tmp_path / "s")
    plans = [
        plan(tmp_path, "raises", "raise", f"{out}/raises"),
        plan(tmp_path, "dies", "die", f"{out}/dies"),
        plan(tmp_path, "hangs", "hang", f"{out}/hangs", box_s=5.0),
        plan(tmp_path, "works", "work", f"{out}/works"),
    ]
    assert record_plans(store, tmp_path, plans) == ["raises", "dies", "hangs"]
    told = capsys.readouterr().err
    assert "failed with exit code 1:" in told
    assert "ValueError: nothing works" in told
    assert "was ended by signal 9" in told
    assert "Its 5 s were over" in told
    recording = read_recording(tmp_path / "r" / "gpu")
    assert recording.parts == {"raises": "failed", "dies": "failed", "hangs": "failed", "works": "done"}
    assert {file.name for file in recording.contents} == {"raises.json", "hangs.json", "works.json"}, (
        "what was written before is kept"
    )


def test_what_is_done_is_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plans = [plan(tmp_path, name, name, f"{tmp_path}/s/{name}") for name in ("work", "raise")]
    assert record_plans(Store(tmp_path / "r" / "gpu", STAMP), tmp_path, plans) == ["raise"]
    shutil.rmtree(tmp_path / "s")
    capsys.readouterr()
    assert record_plans(Store(tmp_path / "r" / "gpu", STAMP), tmp_path, plans) == ["raise"]
    told = capsys.readouterr().err
    assert "[1/2] work: done before" in told
    assert "[2/2] raise: failed in" in told


@pytest.mark.parametrize(("what", "code"), [("deaf", None), ("leaves", 0)])
def test_what_a_part_started_ends_with_it(
    what: str, code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distlab.record.process.PATIENCE_S", 0.5)
    ended = run_call(Call("tests.record.calls", (what, str(tmp_path / "pid"))), tmp_path / "log", 6.0)
    assert ended.code == code, ended.said
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_limit_holds_and_what_does_not_fit_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path / "gpu", STAMP, limit_bytes=40_000)
    store.begin("bench")
    given: dict[str, Any] = {"kind": "results", "about": "x", "command": "y", "scratch": tmp_path}
    store.add("bench", "bench.json", b"[1]", **given)
    with pytest.raises(WorkError, match=r"profile.json has 40,000 bytes, .* remove an old recording"):
        store.add("bench", "profile.json", b"x" * 40_000, **given)
    assert [file.name for file in read_recording(tmp_path / "gpu").contents] == ["bench.json"]
    store.add("bench", "trace.json.gz", b"x" * 40_000, **given)  # packed, it is small
    assert gzip.decompress((tmp_path / "gpu" / "trace.json.gz").read_bytes()) == b"x" * 40_000


def test_another_machine_s_recording_is_not_gone_on_with(tmp_path: Path) -> None:
    Store(tmp_path / "gpu", STAMP).write()
    with pytest.raises(SettingError, match="was recorded on NVIDIA H200"):
        Store(tmp_path / "gpu", {**STAMP, "hardware": "NVIDIA A100-SXM4-80GB"})


def test_names_and_paths() -> None:
    assert folder_name({"hardware": "NVIDIA H100 80GB HBM3"}, 8) == "nvidia-h100-80gb-hbm3-x8"
    assert scrubbed(f"{REPOSITORY}/src/a.py and {REPOSITORY}-more".encode()) == (
        f"<repository>/src/a.py and {REPOSITORY}-more".encode()
    )
    assert scrubbed_text(f"{sys.prefix}/bin/python") == "<python>/bin/python"


# --- out of memory ---


def test_the_largest_blocks_are_found_in_a_snapshot() -> None:
    frames = [{"filename": f"{REPOSITORY}/src/distlab/train/gpt.py", "line": 7, "name": "forward"}]
    block = {"size": 512, "state": "active_allocated", "frames": frames}
    snapshot = {
        "segments": [{"blocks": [block, block, {"size": 2048, "state": "inactive", "frames": frames}]}]
    }
    clean = oom.without_paths(snapshot)
    assert str(REPOSITORY).encode() not in pickle.dumps(clean)
    assert oom.largest_blocks(clean) == [
        {"bytes": 1024, "blocks": 2, "frames": ["<repository>/src/distlab/train/gpt.py:7 forward"]}
    ]


# --- telemetry ---


def test_telemetry_that_fails_is_said_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise LookupError("no such device")

    monkeypatch.setattr("distlab.record.telemetry.open_source", fails)
    with Telemetry(tmp_path / "x.telemetry.jsonl.gz", "command", "about", None, lead_s=0.01) as telemetry:
        pass
    assert telemetry.problem == "LookupError: no such device"


def test_what_held_the_clock_down_is_said(tmp_path: Path) -> None:
    sample = GpuSample(
        time=1.0, gpu=0, uuid="u", name="NVIDIA H200", tier="gpu", power_W=690.0, temperature_C=85.0,
        throttle_reasons=("gpu_idle", "sw_power_cap"),
    )  # fmt: skip
    path = tmp_path / "hot.telemetry.jsonl.gz"
    origin = provenance(Reading((sample,)), tier="gpu", interval_s=1.0, command="c")
    with Recorder(path, origin) as recorder:
        recorder.write(
            Reading((sample, replace(sample, gpu=1, uuid="v", power_W=700.0, throttle_reasons=())))
        )
    assert (
        in_words(seen(path)) == "1 readings, up to 700 W, up to 85 C; the clock was held down by sw_power_cap"
    )
    assert simulated_by(path) == {}


def test_nothing_that_is_preloaded_asks_for_a_gpu() -> None:
    """A process forked from one that has asked could not use it."""
    program = """
import importlib, torch
def asked(*_, **__): raise AssertionError("the GPU was asked for")
for name in ("is_available", "device_count", "init", "get_device_properties", "current_device"):
    setattr(torch.cuda, name, asked)
from distlab.record.process import PRELOADED
for name in (*PRELOADED, "distlab.record.command"): importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
