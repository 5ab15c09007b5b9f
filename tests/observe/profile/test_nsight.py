"""Readers of Nsight's exports, on small ones made here, and the commands that make them (with tools that are fakes)."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from distlab.errors import SettingError, WorkError
from distlab.observe.profile.ncu_report import DURATION, read_ncu, show_ncu
from distlab.observe.profile.nsight import ncu, nsys
from distlab.observe.profile.nsys_report import read_nsys, show_nsys

MS = 1_000_000
COLUMNS = "start INT, end INT, deviceId INT, shortName INT"


def _export(path: Path, *more: str) -> Path:
    """Two GPUs; GPU 0: compute 0-10 and 20-30 ms, NCCL 5-15 ms, a copy 14-18 ms; so 2 ms are idle."""
    base = sqlite3.connect(path)
    base.executescript(
        f"""
        CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL);
        INSERT INTO StringIds VALUES (1, 'gemm'), (2, 'ncclDevKernel_AllReduce_Sum_f32_RING_LL'), (3, 'step');
        CREATE TABLE TARGET_INFO_GPU (id INT, name TEXT);
        INSERT INTO TARGET_INFO_GPU VALUES (0, 'NVIDIA H100 80GB HBM3');
        CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL ({COLUMNS});
        INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES
            (0, {10 * MS}, 0, 1), ({20 * MS}, {30 * MS}, 0, 1), ({5 * MS}, {15 * MS}, 0, 2), (0, {MS}, 1, 1);
        CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INT, end INT, deviceId INT, copyKind INT, bytes INT);
        INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES ({14 * MS}, {18 * MS}, 0, 1, 100000000);
        CREATE TABLE NVTX_EVENTS (start INT, end INT, text TEXT, textId INT);
        INSERT INTO NVTX_EVENTS VALUES
            (0, {10 * MS}, NULL, 3), ({10 * MS}, {30 * MS}, NULL, 3), (5, NULL, 'mark', NULL);
        """
        + ";".join(more)
    )
    base.commit()
    base.close()
    return path


def test_the_parts_of_a_gpus_time_make_up_the_whole(tmp_path: Path) -> None:
    report = read_nsys(_export(tmp_path / "run.sqlite"))
    gpu = report.gpus[0]
    assert (gpu.name, report.gpus[1].name) == ("NVIDIA H100 80GB HBM3", "GPU 1")
    assert gpu.compute_s == pytest.approx(0.020)
    assert gpu.communication_s == pytest.approx(0.010)
    assert gpu.exposed_communication_s == pytest.approx(0.005)
    assert gpu.exposed_copy_s == pytest.approx(0.003)
    assert gpu.idle_s == pytest.approx(0.002) == gpu.median_gap_s
    parts = gpu.compute_s + gpu.exposed_communication_s + gpu.exposed_copy_s + gpu.idle_s
    assert parts == pytest.approx(gpu.span_s) == pytest.approx(0.030)
    assert (gpu.kernels[0].name, gpu.kernels[0].count) == ("gemm", 2)
    assert gpu.copies[0].kind == "host to device"
    assert gpu.copies[0].bandwidth_GBps == pytest.approx(25)
    assert [(one.text, one.count, one.total_s) for one in report.ranges] == [
        ("step", 2, pytest.approx(0.030))
    ]


def test_it_is_shown_and_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _export(tmp_path / "run.sqlite")
    assert show_nsys(path) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "exposed communication 16.7%" in shown
    assert "25.0 GB/s" in shown
    assert show_nsys(path, json=True) == 0
    assert json.loads(capsys.readouterr().out)["gpus"][0]["gpu"] == 0


def test_an_export_without_kernels_says_what_lacked(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / "run.sqlite")
    base.execute("CREATE TABLE StringIds (id INT, value TEXT)")
    base.commit()
    base.close()
    with pytest.raises(SettingError, match="--trace lacked cuda"):
        read_nsys(tmp_path / "run.sqlite")


HOSTILE = {
    "a column without end": """
        DROP TABLE StringIds;
        CREATE TABLE StringIds (id INTEGER, value GENERATED ALWAYS AS (hex(zeroblob(20000000))) VIRTUAL);
        INSERT INTO StringIds (id) VALUES (1);
    """,
    "text for a number": "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES ('x', 1, 0, 1)",
    "a huge number": "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (-9223372036854775807, 1, 0, 1)",
    "a column less": "ALTER TABLE CUPTI_ACTIVITY_KIND_MEMCPY DROP COLUMN bytes",
    "a view that never ends": "DROP TABLE NVTX_EVENTS; DROP TABLE CUPTI_ACTIVITY_KIND_KERNEL; CREATE VIEW "
    "CUPTI_ACTIVITY_KIND_KERNEL AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
    "SELECT max(x) AS start, 1 AS end, 0 AS deviceId, 1 AS shortName FROM c",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_export_is_one_sentence(tmp_path: Path, what: str) -> None:
    with pytest.raises(SettingError, match="is not an SQLite export"):
        read_nsys(_export(tmp_path / "run.sqlite", HOSTILE[what]))


def test_no_database_and_no_file_are_one_sentence_each(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough to be one" * 9)
    (tmp_path / "link.sqlite").symlink_to(_export(tmp_path / "run.sqlite"))
    for name in ("text.sqlite", "link.sqlite", "none.sqlite"):
        with pytest.raises(SettingError, match="is not an SQLite export"):
            read_nsys(tmp_path / name)


def test_names_do_not_drive_the_terminal(tmp_path: Path) -> None:
    report = read_nsys(
        _export(tmp_path / "run.sqlite", "UPDATE StringIds SET value = char(27) || '[2J' WHERE id = 1")
    )
    assert report.gpus[0].kernels[0].name == "?[2J"


RAW = """==PROF== Connected to process 7
"ID","Kernel Name","Block Size","Grid Size","{duration}","sm__throughput.avg.pct_of_peak_sustained_elapsed",\
"gpu__compute_memory_throughput.avg.pct_of_peak_sustained_elapsed","launch__registers_per_thread"
"","","","","usecond","%","%","register/thread"
"0","gemm","(256, 1, 1)","(512, 1, 1)","1,234.5","91.2","40.1","168"
"1","add","(256, 1, 1)","(9999, 1, 1)","20","12.0","93.5","16"
"2","tiny","(32, 1, 1)","(1, 1, 1)","2","1.0","2.0","16"
"3","asked less","(32, 1, 1)","(1, 1, 1)","2","n/a","2.0","16"
""".replace("{duration}", DURATION)

DETAILS = """"ID","Process ID","Kernel Name","Block Size","Grid Size","Section Name",\
"Metric Name","Metric Unit","Metric Value"
"0","7","gemm","(256, 1, 1)","(512, 1, 1)","GPU Speed Of Light Throughput","Duration","msecond","1.2345"
"0","7","gemm","(256, 1, 1)","(512, 1, 1)","GPU Speed Of Light Throughput","Compute (SM) Throughput","%","91.20"
"0","7","gemm","(256, 1, 1)","(512, 1, 1)","GPU Speed Of Light Throughput","Memory Throughput","%","40.10"
"0","7","gemm","(256, 1, 1)","(512, 1, 1)","Memory Workload Analysis","Memory Throughput","Gbyte/second","1,300.5"
"0","7","gemm","(256, 1, 1)","(512, 1, 1)","Launch Statistics","Registers Per Thread","register/thread","168"
"""


def test_both_layouts_of_ncu_are_read(tmp_path: Path) -> None:
    (tmp_path / "raw.csv").write_text(RAW)
    (tmp_path / "details.csv").write_text(DETAILS)
    raw, details = read_ncu(tmp_path / "raw.csv"), read_ncu(tmp_path / "details.csv")
    assert raw[0] == details[0]
    assert raw[0].duration_s == pytest.approx(1.2345e-3)
    assert raw[0].registers == 168
    assert [kernel.limit for kernel in raw] == ["compute", "memory", "latency", "unknown"]


def test_kernels_are_shown_longest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw.csv").write_text(RAW)
    assert show_ncu(tmp_path / "raw.csv", json=True) == 0
    kernels = json.loads(capsys.readouterr().out)
    assert [kernel["name"] for kernel in kernels] == ["gemm", "add", "tiny", "asked less"]
    assert "tensor cores" in kernels[0]["advice"]
    assert show_ncu(tmp_path / "raw.csv") == 0
    assert "1,234.5" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "no table", '"ID"\n', '"ID","Kernel Name"\n"0","x"\n'])
def test_what_is_no_csv_of_ncu_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(SettingError, match="is not a CSV of Nsight Compute"):
        read_ncu(tmp_path / "x.csv")


def _fake(folder: Path, name: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / name
    tool.write_text(f'#!/bin/sh\necho "$0 $@" >> {folder}/calls\n{body}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_nsys_is_run_around_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _export(tmp_path / "made.sqlite")
    _fake(
        tmp_path,
        "nsys",
        f"echo from the tool; cp {tmp_path}/made.sqlite {tmp_path}/out/nsys.sqlite",
        monkeypatch,
    )
    assert nsys(("python", "-c", "pass"), out=tmp_path / "out", delay_s=5, json=True) == 0
    called = (tmp_path / "calls").read_text()
    assert called.rstrip().endswith(f"--delay=5 --output={tmp_path}/out/nsys python -c pass")
    printed = capfd.readouterr()
    assert json.loads(printed.out)["gpus"][0]["name"] == "NVIDIA H100 80GB HBM3"
    assert "from the tool" in printed.err


def test_ncu_is_run_around_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made.csv").write_text(RAW)
    _fake(tmp_path, "ncu", f'case "$1" in --csv) cat {tmp_path}/made.csv;; esac', monkeypatch)
    assert ncu(("python", "x.py"), out=tmp_path / "out", kernel="regex:gemm", json=True) == 0
    profiled, exported = (tmp_path / "calls").read_text().splitlines()
    assert "--kernel-name=regex:gemm --clock-control=none --launch-skip=50 --launch-count=10" in profiled
    assert exported.endswith(f"--csv --page=raw --import={tmp_path}/out/ncu.ncu-rep")
    assert json.loads(capfd.readouterr().out)[0]["name"] == "gemm"


def test_a_tool_that_fails_or_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, "nsys", "exit 3", monkeypatch)
    with pytest.raises(WorkError, match="nsys ended with exit code 3"):
        nsys(("true",), out=tmp_path / "out")
    with pytest.raises(
        SettingError, match="ncu is not on this machine; Nsight Compute comes with the CUDA toolkit"
    ):
        ncu(("true",), out=tmp_path / "out")
    with pytest.raises(SettingError, match="no command to profile"):
        nsys((), out=tmp_path / "out")
