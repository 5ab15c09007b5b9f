"""A source is opened by its kind, `auto` takes the driver's where there is one, and a run can be followed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from distlab.errors import SettingError
from distlab.observe.follow import MOST_POLL_BYTES, SILENT_S, follow_run, ranks_of
from distlab.observe.nvml import NvmlSource
from distlab.observe.open import find_telemetry_file, open_source, telemetry_files
from distlab.observe.recorded import RecordedSource
from distlab.observe.recording import Recorder, provenance
from distlab.observe.sample import GpuSample, Reading
from distlab.observe.simulated import SimulatedSource, simulate
from distlab.record.recordings import FOLDER, FORMAT, MANIFEST, TELLING, VERSION
from distlab.train.records import LogLine
from tests.observe.nvml_rig import build_driver


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_auto_is_simulated_where_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distlab.observe.nvml.driver_is_installed", lambda: False)
    source = open_source()
    assert isinstance(source, SimulatedSource)
    assert source.tier == "simulated"
    assert len(source.read().samples) == 8


def test_auto_is_the_drivers_where_one_is_installed(tmp_path: Path) -> None:
    program = "from distlab.observe.open import open_source\nsource = open_source()\nprint(source.tier, source.read())"
    (tmp_path / "control").write_text("fail nvmlInit 18\n")
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(build_driver(tmp_path)),
        "FAKE_NVML": str(tmp_path / "control"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("gpu "), "a driver that is broken is not papered over with simulated GPUs"
    assert "reboot" in done.stdout


def test_a_kind_is_what_it_says(tmp_path: Path) -> None:
    assert isinstance(open_source("nvml"), NvmlSource)
    taken = simulate("idle", seconds=1, gpus=1)
    path = tmp_path / "x"
    with Recorder(path, provenance(taken[0], tier="gpu", interval_s=1, command="x")) as recorder:
        recorder.write(taken[0])
    assert isinstance(open_source("recorded", recording=str(path)), RecordedSource)
    assert isinstance(open_source(recording=str(path)), RecordedSource)


def test_without_a_recording_the_next_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert telemetry_files() == {}
    with pytest.raises(SettingError, match=r"no recording of a GPU yet: .* the source simulated"):
        open_source("recorded")


def made(folder: Path, date: str, *names: str) -> None:
    """What `scripts/record_gpu` leaves, as far as telemetry is concerned."""
    folder.mkdir()
    stamp = dict.fromkeys(TELLING, "x") | {"tier": "gpu", "date": date}
    files = []
    for name in names:
        taken = simulate("idle", seconds=0, gpus=1)
        path = folder / f"{name}.telemetry.jsonl.gz"
        with Recorder(path, provenance(taken[0], tier="gpu", interval_s=1, command="x")) as recorder:
            recorder.write(taken[0])
        common = {"kind": "telemetry", "sha256": "0", "about": "a test", "provenance": stamp}
        files.append(common | {"name": path.name, "bytes": path.stat().st_size})
    parts = {"runs": {"status": "done", "files": files}}
    manifest = {"format": FORMAT, "version": VERSION, "stamp": stamp, "parts": parts}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_recordings_are_found_by_name_and_the_newest_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    made(tmp_path / "a100", "2026-01-01", "training", "starved")
    made(tmp_path / "h200", "2026-11-29", "training")
    assert list(telemetry_files()) == ["training", "a100/training", "starved"]
    assert find_telemetry_file("training").parent.name == "h200"
    assert find_telemetry_file("a100/training").parent.name == "a100"
    assert find_telemetry_file(None) == find_telemetry_file("training")
    assert find_telemetry_file("other/file") == Path("other/file")
    assert open_source("recorded").read().samples


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(SettingError, match="not simulated; choose that one"):
        open_source("simulated", recording="x")
    with pytest.raises(SettingError, match="Only simulated GPUs follow a run"):
        open_source("nvml", follow="runs/x")
    with pytest.raises(SettingError, match="not on a disk of this machine"):
        open_source(follow="s3://bucket/run")


def line(rank: int, step: int, at: float, compute_s: float, data_s: float, communication_s: float) -> LogLine:
    return LogLine(
        step=step, epoch=0, loss=2.0, learning_rate=0.1, samples=8, tokens=8,
        step_s=compute_s + data_s + communication_s, data_s=data_s, compute_s=compute_s,
        communication_s=communication_s, rank=rank, world_size=2, attempt=0, tier="cpu", time=at, run_s=1.0,
        samples_per_s=400.0, tokens_per_s=400.0, ram_bytes=3 * 10**9, vram_bytes=None, mfu=None, cost=0.0,
    )  # fmt: skip


class Run:
    """The log of a run of two ranks, written as it goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "log").mkdir(parents=True)

    def log(self, *lines: LogLine) -> None:
        for line in lines:
            with (self.folder / "log" / f"rank_{line.rank}.jsonl").open("a") as file:
                file.write(json.dumps(asdict(line)) + "\n")


def busy(reading: Reading) -> list[float | None]:
    return [sample.utilization_percent for sample in reading.samples]


def test_simulated_gpus_show_the_load_of_a_run(tmp_path: Path) -> None:
    clock = Clock()
    run = Run(tmp_path / "demo")
    for step in range(10):  # rank 0 computes for all of a step, rank 1 waits for data for half of it
        run.log(line(0, step, 999, 0.1, 0.0, 0.0), line(1, step, 999, 0.05, 0.05, 0.0))
    source = open_source(follow=str(run.folder), clock=clock)
    clock.now += 1
    reading = source.read()
    assert busy(reading) == [100, pytest.approx(50, abs=2)]
    assert all(sample.tier == "simulated" for sample in reading.samples)
    assert [sample.memory_used_bytes for sample in reading.samples] == [3 * 10**9] * 2
    assert power(reading, 0) > 1.3 * power(reading, 1)
    warm = open_source(follow=str(run.folder), at_s=120, clock=clock).read()
    assert (warm.samples[0].temperature_C or 0) > (reading.samples[0].temperature_C or 0) + 15
    for step in range(10, 20):
        clock.now += 0.5
        run.log(line(0, step, clock.now, 0.02, 0.08, 0.0), line(1, step, clock.now, 0.02, 0.0, 0.08))
        reading = source.read()
    assert busy(reading) == [pytest.approx(20, abs=2), 100], (
        "the run has changed, and waiting in a collective is busy"
    )
    clock.now += SILENT_S + 1
    assert busy(source.read()) == [0, 0], "a run that is silent loads nothing"


def power(reading: Reading, gpu: int) -> float:
    return reading.samples[gpu].power_W or 0.0


def test_a_run_may_begin_later_and_anew(tmp_path: Path) -> None:
    clock = Clock()
    source = SimulatedSource(follow_run(str(tmp_path / "demo"), clock), gpus=2, clock=clock)
    assert ranks_of(str(tmp_path / "demo")) == 0
    clock.now += 1
    assert busy(source.read()) == [0, 0]
    run = Run(tmp_path / "demo")
    run.log(line(0, 0, clock.now, 0.1, 0.0, 0.0))
    assert ranks_of(str(tmp_path / "demo")) == 1
    clock.now += 1
    assert busy(source.read()) == [100, 0]
    (tmp_path / "demo" / "log").rename(tmp_path / "demo" / "log.1")
    (tmp_path / "demo" / "log").mkdir()
    clock.now += 1
    run.log(line(0, 0, clock.now, 0.025, 0.075, 0.0))
    source.read()
    clock.now += 1
    assert busy(source.read())[0] == pytest.approx(25, abs=3), "the new log, not the one that was set aside"


@pytest.mark.parametrize(
    "content", [b"x" * 10**6, b'{"step": 1}\n' * 1000, b"[" * 10**5 + b"\n", b"\xff\x00\n"]
)
def test_a_hostile_log_loads_nothing(tmp_path: Path, content: bytes) -> None:
    run = Run(tmp_path / "demo")
    (run.folder / "log" / "rank_0.jsonl").write_bytes(content)
    (run.folder / "log" / "rank_1.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(run.folder / "log" / "rank_2.jsonl")
    clock = Clock()
    source = open_source(follow=str(run.folder), clock=clock)
    clock.now += 1
    reading = source.read()
    assert busy(reading) == [0, 0, 0]
    run.log(line(0, 0, clock.now, 0.1, 0.0, 0.0))
    clock.now += 1
    source.read()


def test_a_log_that_grows_fast_is_followed_at_its_end(tmp_path: Path) -> None:
    clock = Clock()
    run = Run(tmp_path / "demo")
    run.log(line(0, 0, clock.now, 0.1, 0.0, 0.0))
    source = open_source(follow=str(run.folder), clock=clock)
    source.read()
    clock.now += 1
    old = json.dumps(asdict(line(0, 1, clock.now - 100, 0.1, 0.0, 0.0))) + "\n"
    with (run.folder / "log" / "rank_0.jsonl").open("a") as file:
        file.write(old * (3 * MOST_POLL_BYTES // len(old)))
    run.log(line(0, 2, clock.now, 0.03, 0.07, 0.0))
    source.read()
    clock.now += 1
    assert busy(source.read()) == [pytest.approx(30, abs=2)], "now, not three polls later"


def test_a_run_of_more_ranks_than_can_be_simulated(tmp_path: Path) -> None:
    run = Run(tmp_path / "demo")
    for rank in (0, 63, 64, 10**8):
        run.log(line(rank, 0, 999, 0.1, 0.0, 0.0))
    assert ranks_of(str(run.folder)) == 2
    open_source(follow=str(run.folder)).read()


def test_the_contract_of_a_sample() -> None:
    """Only facts that every source has are required: the rest is None until it is known."""
    sample = GpuSample(time=1.0, gpu=0, uuid="GPU-0", name="x", tier="gpu")
    assert {name for name, value in asdict(sample).items() if value is not None} == {
        "time", "gpu", "uuid", "name", "tier", "xids",
    }  # fmt: skip
