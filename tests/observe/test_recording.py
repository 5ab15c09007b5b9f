"""Recordings keep what was read, survive a killed recorder, and are replayed without laundering or filling gaps."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distlab.errors import SettingError, WorkError
from distlab.observe import recording
from distlab.observe.encoding import MOST_ITEMS, Damage, decode, encode
from distlab.observe.recorded import RecordedSource
from distlab.observe.recording import Provenance, Recorder, TelemetryFile, provenance
from distlab.observe.sample import (
    GpuProcess,
    GpuSample,
    MigInstance,
    Problem,
    Reading,
    SampleTier,
    Xid,
)
from distlab.observe.simulated import simulate

ORIGIN = Provenance(
    tier="gpu",
    hardware="1 x NVIDIA H100",
    driver="580.65.06",
    date="2026-11-29T08:00:00+00:00",
    command="distlab observe record x",
    system="Linux",
    distlab="0.1.0",
    interval_s=1.0,
)

texts = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=20).filter(str.isprintable)
counts = st.integers(0, 2**62)
numbers = st.floats(0, 1e15)
samples = st.builds(
    GpuSample,
    time=st.floats(0, 2e9),
    gpu=st.integers(0, 63),
    uuid=texts,
    name=texts,
    tier=st.sampled_from(["gpu", "simulated"]),
    power_W=st.none() | numbers,
    memory_used_bytes=st.none() | counts,
    row_remap_failed=st.none() | st.booleans(),
    throttle_reasons=st.none()
    | st.lists(st.sampled_from(["gpu_idle", "sw_power_cap"]), max_size=2).map(tuple),
    xids=st.lists(st.builds(Xid, time=numbers, code=st.integers(0, 200)), max_size=2).map(tuple),
    processes=st.none()
    | st.lists(
        st.builds(GpuProcess, pid=st.integers(0, 2**31), name=texts, memory_bytes=st.none() | counts)
    ).map(tuple),
    mig=st.none()
    | st.lists(
        st.builds(
            MigInstance,
            gpu_instance=st.integers(0, 9),
            compute_instance=st.integers(0, 9),
            profile=texts,
            uuid=texts,
            memory_used_bytes=st.none() | counts,
            memory_total_bytes=st.none() | counts,
        ),
        max_size=2,
    ).map(tuple),
)
readings = st.builds(
    Reading,
    st.lists(samples, max_size=3, unique_by=lambda sample: sample.uuid).map(tuple),
    st.lists(st.builds(Problem, texts, st.none() | st.integers(0, 63)), max_size=2).map(tuple),
)


@settings(max_examples=50)
@given(readings)
def test_what_is_encoded_is_decoded(reading: Reading) -> None:
    assert decode(json.dumps({"time": 5.0} | encode(reading))) == (5.0, reading)


def sample(at: float, tier: SampleTier = "gpu", gpu: int = 0, **values: Any) -> GpuSample:
    return GpuSample(time=at, gpu=gpu, uuid=f"GPU-{gpu}", name="NVIDIA H100", tier=tier, **values)


def write(path: Path, taken: Iterable[Reading], origin: Provenance = ORIGIN) -> Path:
    with Recorder(path, origin) as recorder:
        for reading in taken:
            recorder.write(reading)
    return path


def at_times(*times: float, **values: Any) -> list[Reading]:
    return [Reading((sample(at, power_W=at, **values),)) for at in times]


class Clock:
    def __init__(self) -> None:
        self.now = 5000.0

    def __call__(self) -> float:
        return self.now


class Replay:
    """A source and its clock, which starts at 0 with it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.clock = Clock()
        self.source = RecordedSource(path, clock=self.clock, **options)

    def at(self, seconds: float) -> Reading:
        self.clock.now = 5000.0 + seconds
        return self.source.read()


def test_a_recording_says_where_it_comes_from(tmp_path: Path) -> None:
    first = simulate("training", seconds=0, gpus=8)[0]
    origin = provenance(
        first, tier="simulated", interval_s=2.0, command="distlab observe record x", about="a test"
    )
    assert (origin.hardware, origin.driver) == ("8 x SIMULATED H100 80GB", "SIMULATED")
    with TelemetryFile(write(tmp_path / "x", [first], origin)) as file:
        assert file.provenance == origin
        assert [reading for _, reading in file.readings()] == [first]


def test_it_is_lines_of_json_in_gzip(tmp_path: Path) -> None:
    path = write(tmp_path / "x", at_times(1, 2))
    head, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert json.loads(head)["provenance"]["hardware"] == "1 x NVIDIA H100"
    assert [json.loads(line)["time"] for line in lines] == [1, 2]
    assert "temperature_C" not in lines[0], "what is not known is not there"


def test_a_replay_keeps_the_pace_of_the_recording(tmp_path: Path) -> None:
    replay = Replay(write(tmp_path / "x", at_times(100, 101, 102)))
    assert replay.source.tier == "recorded"
    shown = [replay.at(t).samples[0] for t in (0, 0.9, 1.0, 2.5)]
    assert [s.power_W for s in shown] == [100, 100, 101, 102]
    assert [s.time for s in shown] == [100, 100, 101, 102], "the time at which it was taken"
    assert {s.tier for s in shown} == {"recorded"}
    fast = Replay(tmp_path / "x", speed=10.0)
    assert fast.at(0.1).samples[0].power_W == 101
    later = Replay(tmp_path / "x", at_s=2.0)
    assert later.at(0).samples[0].power_W == 102


def test_a_gap_is_a_gap(tmp_path: Path) -> None:
    replay = Replay(write(tmp_path / "x", at_times(0, 1, 60, 61)))
    assert replay.at(3).samples != (), "a reading may be late"
    for second in (10, 59):
        gap = replay.at(second)
        assert gap.samples == ()
        assert gap.problems == (Problem(f"The recording has a gap {second} s in."),)
    assert replay.at(60).samples[0].power_W == 60


def test_its_end_is_said_and_is_no_last_value(tmp_path: Path) -> None:
    replay = Replay(write(tmp_path / "x", at_times(0, 1)))
    replay.at(1)
    end = replay.at(4)
    assert end.samples == ()
    assert end.problems[0].what == "The recording x has ended after 1 s; replay it with loop, or again."


def test_a_loop_starts_again(tmp_path: Path) -> None:
    replay = Replay(write(tmp_path / "x", at_times(0, 1, 2)), loop=True)
    assert [replay.at(t).samples[0].power_W for t in (0, 2, 4.9, 5, 6, 6.9)] == [0, 2, 0, 0, 1, 2]


def test_what_was_missing_then_is_missing_now(tmp_path: Path) -> None:
    lost = Reading((sample(1),), (Problem("GPU 1 is lost.", 1, (Xid(time=1, code=79),)),))
    replay = Replay(write(tmp_path / "x", [Reading((sample(0), sample(0, gpu=1))), lost]))
    assert len(replay.at(0).samples) == 2
    reading = replay.at(1)
    assert [s.gpu for s in reading.samples] == [0]
    assert reading.problems == lost.problems


def test_no_xid_is_lost_or_told_twice(tmp_path: Path) -> None:
    taken = [Reading((sample(at, xids=(Xid(time=at, code=at),)),)) for at in range(1, 6)]
    replay = Replay(write(tmp_path / "x", taken))
    told = [[xid.code for xid in replay.at(t).samples[0].xids] for t in (0, 0.5, 3, 3.2, 4)]
    assert told == [[1], [], [2, 3, 4], [], [5]]
    gone = [Reading((sample(0, xids=(Xid(time=0, code=79),)),)), *at_times(50)]
    across = Replay(write(tmp_path / "y", gone))
    assert [xid.code for p in across.at(20).problems for xid in p.xids] == [79]
    assert [xid.code for p in across.at(30).problems for xid in p.xids] == []


def test_what_was_simulated_is_never_called_recorded(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x", simulate("training", seconds=2, gpus=1), dataclasses.replace(ORIGIN, tier="simulated")
    )
    replay = Replay(path)
    assert replay.source.tier == "simulated"
    assert replay.at(1).samples[0].tier == "simulated"
    mixed = write(tmp_path / "y", [Reading((sample(0, "simulated"), sample(0, "gpu", gpu=1)))])
    assert [s.tier for s in Replay(mixed).at(0).samples] == ["simulated", "recorded"]
    forged = write(tmp_path / "z", at_times(0), dataclasses.replace(ORIGIN, tier="simulated"))
    assert Replay(forged).at(0).samples[0].tier == "simulated"


@pytest.mark.parametrize("share", [0.35, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_replayed_to_there_and_says_so(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "x", simulate("training", seconds=30, gpus=2))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    replay = Replay(path)
    powers = []
    for second in range(40):
        reading = replay.at(second)
        if not reading.samples:
            break
        powers.append(reading.samples[0].power_W)
    assert len(powers) > 25 * share
    taken = [r.samples[0].power_W for r in simulate("training", seconds=30, gpus=2)]
    whole_ones = len(powers) - 2 if share < 0.99 else 30  # the last one stands for two moments more
    assert powers[:whole_ones] == taken[:whole_ones]
    assert "is not whole (it is cut off) and has ended" in reading.problems[0].what


def test_a_killed_recorder_leaves_every_reading(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from distlab.observe.simulated import simulate\n"
        "from distlab.observe.recording import Recorder, provenance\n"
        "taken = simulate('training', seconds=5, gpus=2)\n"
        "recorder = Recorder(sys.argv[1], provenance(taken[0], tier='simulated', interval_s=1.0, command='x'))\n"
        "for reading in taken: recorder.write(reading)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "x"
    done = subprocess.run([sys.executable, "-c", program, str(path)])
    assert done.returncode == -signal.SIGKILL
    with TelemetryFile(path) as file, pytest.raises(Damage, match="cut off"):
        list(file.readings())
    replay = Replay(path)
    assert [len(replay.at(t).samples) for t in range(6)] == [2] * 6


def test_a_broken_byte_ends_the_replay_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x", simulate("training", seconds=30, gpus=2))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    replay = Replay(path)
    assert replay.at(2).samples
    assert any("is not whole" in p.what for p in (*replay.at(29).problems, *replay.at(60).problems))


def test_an_existing_file_or_a_link_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("mine", "link"):
        with pytest.raises(SettingError, match="exists; choose another name"):
            Recorder(tmp_path / name, ORIGIN)
    with pytest.raises(SettingError, match="Cannot make"):
        Recorder(tmp_path / "no" / "folder", ORIGIN)
    assert (tmp_path / "mine").read_text() == "kept"
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with Recorder(tmp_path / "x", ORIGIN) as recorder:
        recorder.write(at_times(1)[0])
        recorder._raw.close()
        full = os.open("/dev/full", os.O_WRONLY)
        recorder._file.fileobj = recorder._raw = os.fdopen(full, "wb", buffering=0)
        with pytest.raises(WorkError, match="No space left on device; it keeps 1 readings"):
            recorder.write(at_times(2)[0])
        recorder._file.fileobj = recorder._raw = open(os.devnull, "wb")  # noqa: SIM115


HEAD = {"format": "distlab telemetry", "version": 1, "provenance": dataclasses.asdict(ORIGIN)}
GOOD = {"time": 1.0} | encode(Reading((sample(1.0),)))


def packed(*lines: Any) -> bytes:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    return gzip.compress("".join(f"{text}\n" for text in texts).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"plain text", "it is not gzip"),
        (packed(), "it is empty"),
        (packed("{"), "its first line says nothing of where it comes from"),
        (packed("[]"), "its first line says nothing"),
        (packed("[" * 50_000), "its first line says nothing"),
        (packed(HEAD | {"format": "something else"}), "is not of version 1"),
        (packed(HEAD | {"version": 2}), "is not of version 1"),
        (packed(HEAD | {"provenance": {}}), "Provenance lacks command, date"),
        (packed(HEAD | {"provenance": HEAD["provenance"] | {"tier": "gold"}}), "tier is 'gold'"),
        (packed(HEAD | {"provenance": HEAD["provenance"] | {"interval_s": 0}}), "an interval of 0 s"),
        (packed(HEAD | {"provenance": HEAD["provenance"] | {"hardware": "\x1b[2J"}}), "hardware is"),
        (gzip.compress(b"x" * (2**22 + 2**17)), "a line of more than 4194304 bytes"),
    ],
)
def test_what_is_no_recording_is_refused_in_one_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(SettingError) as refused:
        RecordedSource(tmp_path / "x")
    assert words in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("not json", "it is not a reading"),
        ("null", "it is not a reading"),
        ({"time": "now"} | encode(Reading(())), "it is not a reading"),
        ({"samples": []}, "it is not a reading"),
        (GOOD | {"colour": "red"}, "it has a field 'colour'"),
        (GOOD | {"samples": [1]}, "expected a GpuSample"),
        (GOOD | {"samples": [{}]}, "GpuSample lacks gpu, name"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"power_W": "hot"}]}, "power_W is 'hot'"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"power_W": True}]}, "power_W is True"),
        (json.dumps(GOOD).replace("1.0", "NaN", 1), "it is not a reading"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"power_W": 1e300}]}, "power_W is 1e+300"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"gpu": 10**30}]}, "gpu is 1000000"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"gpu": 1.5}]}, "gpu is 1.5"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"name": "\x1b]0;gotcha\x07"}]}, "name is"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"name": "x" * 5000}]}, "name is"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"tier": "certified"}]}, "tier is 'certified'"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"throttle_reasons": ["magic"]}]}, "throttle_reasons is"),
        (GOOD | {"samples": [GOOD["samples"][0] | {"xids": [{"time": 1}]}]}, "Xid lacks code"),
        (GOOD | {"samples": [GOOD["samples"][0]] * (MOST_ITEMS + 1)}, "it is not a reading"),
        (GOOD | {"samples": [GOOD["samples"][0]] * 2}, "two of its GPUs have the same UUID"),
        (
            GOOD | {"samples": [GOOD["samples"][0] | {"uuid": f"GPU-{i}"} for i in range(65)]},
            "it has 65 GPUs; expected at most 64",
        ),
        (GOOD | {"samples": [GOOD["samples"][0] | {"uuid": "x" * 97}]}, "is longer than 96 characters"),
        (GOOD | {"time": 0.5}, "its time lies before that of the line before"),
    ],
)
def test_a_hostile_line_ends_the_replay_in_one_sentence(tmp_path: Path, line: Any, words: str) -> None:
    (tmp_path / "x").write_bytes(packed(HEAD, GOOD, line, GOOD))
    replay = Replay(tmp_path / "x")
    reading = replay.at(0)
    assert len(reading.samples) == 1, "what stood before it is whole"
    (problem,) = reading.problems
    assert problem.what.startswith("The recording x is not whole (line 3: ")
    assert words in problem.what
    assert problem.what.isprintable()
    assert len(problem.what) < 300
    assert replay.at(60).samples == ()


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MOST_BYTES", 2**20)
    (tmp_path / "x").write_bytes(packed(HEAD, *[GOOD] * 10_000))
    replay = Replay(tmp_path / "x")
    assert "unpacks to more than 1048576 bytes" in replay.at(0).problems[0].what
    (tmp_path / "y").write_bytes(gzip.compress(b"[" * 2**25))
    with pytest.raises(SettingError, match="more than"):
        RecordedSource(tmp_path / "y")


def test_links_pipes_folders_and_giants_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "real", at_times(1))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "giant").touch()
    os.truncate(tmp_path / "giant", 2**31)
    for name, words in {
        "link": "it is a link",
        "pipe": "it is not a regular file",
        ".": "it is not a regular file",
        "giant": "expected at most",
        "absent": "No such file",
    }.items():
        with pytest.raises(SettingError, match=words):
            RecordedSource(tmp_path / name)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), 1e6])
def test_a_speed_that_is_none_is_refused(tmp_path: Path, speed: float) -> None:
    with pytest.raises(SettingError, match="3600 at most"):
        RecordedSource(write(tmp_path / "x", at_times(1)), speed=speed)


def test_a_recording_of_nothing(tmp_path: Path) -> None:
    (problem,) = Replay(write(tmp_path / "x", [])).at(1).problems
    assert problem.what == "The recording x has ended."


def test_a_looped_file_that_disappears(tmp_path: Path) -> None:
    replay = Replay(write(tmp_path / "x", at_times(0, 1)), loop=True)
    replay.at(1)
    (tmp_path / "x").unlink()
    for second in (10, 20):
        reading = replay.at(second)
        assert reading.samples == ()
        assert reading.problems
