"""`measure` and the command: figures that fit together, wrong data that shows, and rows that outlive their ranks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch.distributed as dist

from distlab.bench import collectives_command
from distlab.bench.collectives import Sweep, measure, sweep
from distlab.bench.collectives_command import as_results, main
from distlab.bench.collectives_report import Report, merged
from distlab.bench.collectives_tables import print_table
from distlab.bench.journal import Doing, Journal
from distlab.bench.operations import OPERATIONS
from distlab.bench.results import SAMPLES_MOST, read_results
from distlab.bench.watch import Watch
from distlab.errors import SettingError, WorkError
from distlab.predict.collectives import bus_bandwidth_factor
from distlab.train.launch import launch

WAIT_S = 60


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return launch(measure, 3, OPERATIONS, [4, 1000, 65536], 1, 5, backend="gloo", threads_per_rank=1)


def test_every_rank_reports_the_same_rows(reports: list[Report]) -> None:
    assert reports[0].rows == reports[1].rows == reports[2].rows
    assert [row.operation for row in reports[0].rows] == [op for op in OPERATIONS for _ in range(3)]
    # Payloads are rounded up to whole float32 for each of 3 ranks.
    assert [row.payload_bytes for row in reports[0].rows[:3]] == [12, 1008, 65544]


def test_rows_are_consistent(reports: list[Report]) -> None:
    for row in reports[0].rows:
        for timing in row.places.values():
            assert timing.iterations == len(timing.samples_s) == 5
            assert 0 < timing.min_s <= timing.median_s <= timing.p99_s
            assert timing.algorithm_bandwidth_GBps == pytest.approx(row.payload_bytes / timing.median_s / 1e9)
            factor = bus_bandwidth_factor(row.operation, 3)
            assert timing.bus_bandwidth_GBps == pytest.approx(factor * timing.algorithm_bandwidth_GBps)
            assert timing.wrong == 0
    assert reports[0].stamp.world_size == 3
    assert any("socket" in line for line in reports[0].stamp.topology)
    assert reports[0].stamp.network.startswith("lo")


def test_columns_are_those_of_nccl_tests(reports: list[Report]) -> None:
    columns = {
        row.operation: (row.count, row.redop, row.root, row.in_place is not None)
        for row in reports[0].rows
        if row.payload_bytes == 1008
    }
    assert columns == {
        "all_reduce": (252, "sum", -1, True),
        "all_gather": (84, "none", -1, True),
        "reduce_scatter": (84, "sum", -1, True),
        "broadcast": (252, "none", 0, True),
        "reduce": (252, "sum", 0, True),
        "all_to_all": (84, "none", -1, False),
        "send_recv": (252, "none", -1, False),
    }
    # A row's own figures are of the place where torch works by itself.
    rows = {row.operation: row for row in reports[0].rows}
    in_place, out_of_place = rows["all_reduce"].in_place, rows["all_gather"].out_of_place
    assert in_place is not None
    assert out_of_place is not None
    assert rows["all_reduce"].median_s == in_place.median_s
    assert rows["all_gather"].min_s == out_of_place.min_s


def test_launches_merge_into_one_row(reports: list[Report]) -> None:
    row, other = reports[0].rows[0], reports[0].rows[1]
    both = merged([row, other]).in_place
    assert both is not None
    assert both.launches == (5, 5)
    assert both.iterations == 10
    assert both.min_s == min(row.min_s, other.min_s)
    assert sorted(both.samples_s)[4] <= both.median_s <= sorted(both.samples_s)[5]
    assert merged([row]) == row


def test_the_tables_show_every_row(reports: list[Report], capsys: pytest.CaptureFixture[str]) -> None:
    print_table(reports[0])
    printed = capsys.readouterr().out
    assert sum(line.split()[:2] == ["all_to_all", "1008"] for line in printed.splitlines()) == 2
    for words in ("out of place", "busbw", "#wrong", "variation", "slowest rank", "tier cpu", "…"):
        assert (words in printed) == (words != "…")


def broken_sweep(wanted: Sweep, journal: str) -> Report:
    """Rank 1's all-reduce delivers two wrong elements."""
    bare = dist.all_reduce

    def broken(tensor: Any, *args: Any, **options: Any) -> object:
        work = bare(tensor, *args, **options)
        if dist.get_rank() == 1 and len(tensor) == 1000:
            tensor[[3, 7]] += 1
        return work

    dist.all_reduce = broken
    return sweep(wanted, journal)


def test_wrong_elements_are_counted_written_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(collectives_command, "sweep", broken_sweep)
    out, plot = tmp_path / "out.json", tmp_path / "plot.svg"
    code = main(
        world_size=2, operations=("all_reduce", "all_gather"), sizes_bytes=(2000, 4000), backend="gloo",
        iterations=120, launches=2, out=out, plot=plot, json=True,
    )  # fmt: skip
    assert code == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(out.read_text())
    assert "all_reduce of 4,000 bytes delivered wrong elements: 4 out of place, 4 in place." in printed.err
    results = read_results(out)
    wrong = {(row["operation"], row["payload_bytes"]): row["wrong"] for row in results.rows}
    assert wrong.pop(("all_reduce", 4000)) == 4  # two in each launch
    assert set(wrong.values()) == {0}
    for row in results.rows:
        assert row["launches"] == [SAMPLES_MOST // 2] * 2
        assert row["iterations"] == 240
    assert plot.read_text().count("<svg") == 1


def _start(tmp_path: Path, out: Path, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "distlab.bench.collectives", "--backend", "gloo", "--budget-s", "0.2"]
    return subprocess.Popen(
        [*command, "--json", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"TMPDIR": str(tmp_path)} | env,
    )  # fmt: skip


def _after_rows(tmp_path: Path, process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Wait until a row or more is in the journal; the processes below."""
    deadline = time.monotonic() + WAIT_S
    while len(list(tmp_path.glob("distlab-bench-*/0/*.item"))) < 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(process.pid).children(recursive=True)


def _ctrl_c(process: subprocess.Popen[str], below: list[psutil.Process]) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def _kill_a_rank(process: subprocess.Popen[str], below: list[psutil.Process]) -> None:
    (rank,) = (child for child in below if child.name() == "rank 1")
    rank.kill()


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [(_ctrl_c, 130, "what was measured is kept"), (_kill_a_rank, 1, "was killed by SIGKILL")],
)
def test_what_was_measured_outlives_the_ranks(
    tmp_path: Path,
    end: Callable[[subprocess.Popen[str], list[psutil.Process]], None],
    code: int,
    said: str,
) -> None:
    out = tmp_path / "out.json"
    process = _start(tmp_path, out)
    below = _after_rows(tmp_path, process)
    end(process, below)
    printed, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == code, errors
    assert said in errors
    assert "Traceback" not in errors
    kept = read_results(out)
    assert 1 <= len(kept.rows) < 96
    assert kept.notes[-1].startswith("Cut short (")
    assert json.loads(printed)["rows"] == kept.rows
    _, alive = psutil.wait_procs(below, timeout=10)
    assert not alive
    assert not list(tmp_path.glob("distlab-bench-*"))


CTRL_C_AT_START = """
import os, pathlib, signal, sys
launcher = os.getppid()

def interrupt():
    pathlib.Path(__file__).with_name(str(os.getpid())).touch()
    try:
        pathlib.Path(__file__).with_name("pressed").touch(exist_ok=False)
        os.kill(launcher, signal.SIGINT)
    except FileExistsError:
        pass  # one Ctrl-C, which comes to the launcher once
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):  # where a handler of Python's would run
        pass

if "distlab.train.warm" in sys.orig_argv:
    os.register_at_fork(after_in_child=interrupt)
"""


def test_ctrl_c_while_ranks_start_leaves_no_traceback_and_no_process(tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(CTRL_C_AT_START)
    process = _start(tmp_path, tmp_path / "out.json", PYTHONPATH=str(hook))
    printed, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "Interrupted; nothing was measured yet."
    assert "Traceback" not in errors
    assert printed == ""
    ranks = [int(name.name) for name in hook.iterdir() if name.name.isdigit()]
    assert ranks
    for rank in filter(
        psutil.pid_exists, ranks
    ):  # they are killed with the launcher, which takes the kernel a moment
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(rank).wait(WAIT_S)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"iterations": 0}, "iterations is 0"),
        ({"iterations": 10**17}, "iterations is 10{17}; it must be 1 to 1000000"),
        ({"warmup": -1}, "warmup is -1; it must be 0 to"),
        ({"warmup": 10**17}, "warmup is 10{17}"),
        (
            {"backend": "nccl", "world_size": 10_000},
            "backend is 'nccl', which needs a GPU for each of the 10000",
        ),
        (
            {"backend": "gloo", "world_size": 10_000, "sizes_bytes": (4,)},
            "10,000 ranks .* Measure fewer ranks",
        ),
        ({"sizes_bytes": (0,)}, r"sizes_bytes is \[0\]"),
        ({"sizes_bytes": ()}, r"sizes_bytes is \[\]"),
        ({"sizes_bytes": (2**50,)}, "GiB are free"),
        ({"operations": ("gossip",)}, "gossip.*all_reduce"),
        ({"world_size": 0}, "world_size is 0"),
        ({"root": 2}, "root is 2; with 2 ranks"),
        ({"launches": 0}, "launches is 0"),
        ({"rate_Mbits": 10.0}, "give --hosts"),
        ({"hosts": 1}, "hosts is 1"),
        ({"hosts": 2, "rate_Mbits": 0.0}, "rate_Mbits is 0.0"),
        ({"hosts": 2, "delay_ms": -1.0}, "delay_ms is -1.0"),
        ({"hosts": 2, "backend": "nccl"}, "only gloo"),
        ({"out": Path("/nowhere/a.json")}, "Cannot write"),
        ({"plot": Path("plot.gif")}, "'plot.gif' is no figure's name"),
        ({"plot": Path("plot.svg"), "world_size": 1}, "one rank sends nothing"),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(
    setting: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collectives_command, "launch", None)
    with pytest.raises(SettingError, match=said):
        main(**setting)


def test_progress_follows_the_journals(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    watch = Watch(folders, 2)
    assert watch._state() == (0, "starting (launch 1 of 2)")
    first, second = map(Journal, folders)
    for item in ("a note", Doing("one"), "a row", Doing("two")):
        first.add(item)
    assert watch._state() == (1, "two (launch 1 of 2)")
    first.add("a row")
    second.add(Doing("one"))
    assert watch._state() == (2, "one (launch 2 of 2)")
    assert first.items()[1:3] == [Doing("one"), "a row"]


def test_what_the_backend_lacks_is_a_sentence_and_no_row() -> None:
    with pytest.raises(WorkError, match=r"Nothing was measured\. gloo has no reduce of int32 with avg"):
        main(operations=("reduce",), dtype="int32", redop="avg", backend="gloo")


def test_results_hold_a_row_for_each_place(reports: list[Report]) -> None:
    results = as_results(reports[0])
    assert len(results.rows) == 5 * 3 * 2 + 2 * 3
    assert len({results.named(row) for row in results.rows}) == len(results.rows)
