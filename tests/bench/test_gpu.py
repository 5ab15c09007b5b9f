"""What a device reaches: rows add up, nothing is claimed that did not run, and what fails costs nothing else."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.table import Table

from distlab.bench import device as devices
from distlab.bench import gpu
from distlab.bench.clock import DEVICE_CALLS_LEAST, Clock, cpu_cache_bytes
from distlab.bench.copies import names
from distlab.bench.gpu_tables import table_of
from distlab.bench.kernels import Sizes, kernels
from distlab.bench.measured import Row, Skipped, bytes_text, merged, row
from distlab.bench.peaks import peak_flops, peak_memory_Bps, peak_pcie_Bps
from distlab.bench.products import Shape, measure_products, operands, parse_shape, product, relative_error
from distlab.bench.results import read_results
from distlab.cli import main
from distlab.errors import SettingError
from distlab.machine import Gpu

CPU = torch.device("cpu")
QUICK = Sizes(vector=2**12, matrix=64, small=16, large=64)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two that wait for each other are slow where others are at work, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock(CPU, budget_s=0.01)


def quick(**changes: object) -> gpu.Plan:
    plan = gpu.Plan(
        CPU, shapes=[Shape(32, 64, 16), Shape(64, 64, 64)], payload_bytes=[4096, 2**20], budget_s=0.01, heat_s=0.0,
        kernels=QUICK,
    )  # fmt: skip
    return replace(plan, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def items() -> list[Row | Skipped]:
    return list(gpu.measure(quick()))


def rows_of(items: list[Row | Skipped], part: str) -> list[Row]:
    return [item for item in items if isinstance(item, Row) and item.part == part]


def test_figures_are_what_the_times_make_of_the_work(items: list[Row | Skipped]) -> None:
    first = rows_of(items, "product")[0]
    assert (first.name, first.size, first.flop) == ("fp32", "32 x 64 x 16", 2 * 32 * 64 * 16)
    assert first.bytes == 4 * (32 * 64 + 64 * 16 + 32 * 16)
    assert first.value == pytest.approx(first.flop / first.median_s / 1e9)
    assert first.best == pytest.approx(first.flop / first.min_s / 1e9)
    assert first.best >= first.value
    assert first.iterations >= DEVICE_CALLS_LEAST
    assert len(first.samples_s) == first.iterations


def test_a_cpu_is_measured_as_one(items: list[Row | Skipped]) -> None:
    assert {row.name for row in rows_of(items, "copy")} == {
        f"host to host, {w}" for w in ("copy", "read", "write")
    }
    assert {row.name for row in rows_of(items, "latency")} == {"dispatch"}
    assert {row.name for row in rows_of(items, "small operations")} == {"one by one"}
    skipped = {item.what: item.why for item in items if isinstance(item, Skipped)}
    assert skipped.keys() == {"tf32", "fp8"}
    assert "not of this CPU" in skipped["fp8"]
    assert all(row.peak is None for row in items if isinstance(row, Row))


def test_copies_count_what_they_say(items: list[Row | Skipped]) -> None:
    counted = {(row.name.split(", ")[1], row.size): row.bytes for row in rows_of(items, "copy")}
    assert counted["copy", "4 KiB"] == 2 * 4096, "read and written"
    assert counted["read", "4 KiB"] == counted["write", "4 KiB"] == 4096
    assert names(torch.device("cuda"))[:4] == ("H2D, pinned", "H2D, pageable", "D2H, pinned", "D2H, pageable")


def test_units() -> None:
    made = row("copy", "copy", "1 GB", [0.5, 0.25, 1.0], "GB/s", bytes=1e9, peak=4e9)
    assert (made.value, made.best, made.peak, made.of_peak) == (2.0, 4.0, 4.0, 0.5)
    assert row("latency", "enqueue", "add", [3e-6], "us").value == pytest.approx(3.0)
    assert row("small operations", "graph", "1", [1e-3], "10^6 op/s", operations=100).value == pytest.approx(
        0.1
    )
    assert [bytes_text(n) for n in (512, 2048, 3 * 2**19, 2**30, 2**20 + 4, 1000)] == [
        "512 B",
        "2 KiB",
        "1.5 MiB",
        "1 GiB",
        "1,048,580 B",
        "1,000 B",
    ]


def test_a_table_has_the_peak_where_there_is_one() -> None:
    made = [
        row("product", "bf16", "1k", [1.0], "TFLOP/s", flop=494.5e12, peak=989e12, relative_error=1e-3),
        row("product", "fp8", "1k", [1.0], "TFLOP/s", flop=1e12),
    ]
    assert re.search(r"bf16 +1k +494 +494 +TFLOP/s +989 +50% +0.001 ", printed(table_of("product", made)))
    assert re.search(r"fp8 +1k +1.00 +1.00 +TFLOP/s +- +- +- ", printed(table_of("product", made)))
    assert "of peak" in printed(table_of("product", made))
    assert "of peak" not in printed(table_of("product", made[1:]))


def printed(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(table)
    return stream.getvalue()


def test_datasheets_are_those_of_the_very_chip() -> None:
    assert peak_flops("NVIDIA H200", "fp16") == 989e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "fp8") == 1979e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "bf16") == 312e12
    assert peak_memory_Bps("NVIDIA A100-SXM4-80GB") == 2.0e12
    assert peak_memory_Bps("NVIDIA A100-SXM4-40GB") == 1.555e12, "it has slower memory"
    assert peak_flops("NVIDIA A100-SXM4-80GB", "fp8") is None, "it has none"
    for other in ("NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA L4", ""):
        assert peak_flops(other, "bf16") is None
    assert peak_pcie_Bps(5, 16) == 63e9
    assert peak_pcie_Bps(2, 16) is None


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16", "int8"])
def test_products_are_right_and_wrong_ones_are_found(dtype: str) -> None:
    a, b = operands(dtype, Shape(48, 64, 32), "random", CPU)  # type: ignore[arg-type]
    result = product(dtype, a, b)()  # type: ignore[arg-type]
    assert result.shape == (48, 32)
    assert relative_error(a, b, result) < 5e-3
    result[3, -2] += 100 * result.abs().max()
    assert relative_error(a, b, result) > 1
    assert relative_error(a, b, torch.full_like(result, float("nan")) if dtype != "int8" else result) > 1


def test_a_wrong_product_is_no_result(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distlab.bench.products.product", lambda dtype, a, b: lambda: torch.zeros(8, 8))
    (item,) = measure_products(clock, ["fp32"], [Shape(8, 8, 8)])
    assert isinstance(item, Skipped)
    assert "its result is wrong" in item.why


def test_a_size_that_does_not_fit_is_said_and_the_next_is_measured(clock: Clock) -> None:
    items = list(measure_products(clock, ["fp32"], [Shape(2**20, 2**20, 2**20), Shape(16, 16, 16)]))
    assert isinstance(items[0], Skipped)
    assert "it does not fit" in items[0].why
    assert isinstance(items[1], Row)


def test_an_allocation_that_fails_all_the_same_is_said(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr("distlab.bench.products.operands", fails)
    (item,) = measure_products(clock, ["fp32"], [Shape(8, 8, 8)])
    assert str(item) == "fp32 8 x 8 x 8: it does not fit: CUDA out of memory."


def test_a_type_that_is_slow_here_stops_at_the_size_that_would_take_too_long() -> None:
    slow = Clock(CPU, budget_s=1e-6)
    items = list(measure_products(slow, ["fp32"], [Shape(64, 64, 64), Shape(512, 512, 512)]))
    assert isinstance(items[0], Row)
    assert isinstance(items[1], Skipped)
    assert "would take about" in items[1].why


@pytest.mark.parametrize("size", ["", "0", "12x", "4x4", "x4x4x4", "4x4x4x4", "-3", "99999999", "٣"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(SettingError, match="A size is"):
        parse_shape(size)
    assert parse_shape("2x3x4") == Shape(2, 3, 4)
    assert parse_shape("5") == Shape(5, 5, 5)


def test_kernels_go_from_moving_bytes_to_arithmetic() -> None:
    found = kernels(Sizes(vector=100, matrix=64, small=128, large=512), torch.float32, CPU)
    intensities = [kernel.flop / kernel.bytes for kernel in found]
    assert intensities[0] == pytest.approx(1 / 12)
    assert intensities[1] == pytest.approx(1 / 4)
    assert intensities[2] == pytest.approx(0.5, rel=0.05)
    assert intensities[-1] == pytest.approx(512 / 6)
    assert intensities == sorted(intensities)


def test_the_cache_size_is_the_last_one_s(tmp_path: Path) -> None:
    for i, size in enumerate(("48K", "1024K", "32M", "junk")):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        (folder / "size").write_text(size + "\n")
    assert cpu_cache_bytes(tmp_path) == 32 * 2**20
    assert cpu_cache_bytes(tmp_path / "none") > 0


# --- which device ---


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "gpus", lambda: ())
    assert devices.choose_device("auto") == CPU
    with pytest.raises(SettingError, match="There is no NVIDIA GPU"):
        devices.choose_device("gpu")
    with pytest.raises(SettingError, match="There is no NVIDIA GPU"):
        devices.choose_device("auto", 3)


def test_a_gpu_that_cannot_be_used_is_never_taken_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "gpus", lambda: (Gpu(0, "NVIDIA H200", 2**37, "470.10"),))
    monkeypatch.setattr(devices, "torch_cuda", lambda: "")
    with pytest.raises(
        SettingError, match=r"There is NVIDIA H200, and the installed torch is built without CUDA"
    ):
        devices.choose_device()
    assert devices.choose_device("cpu") == CPU

    def too_old() -> None:
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update."
        )

    monkeypatch.setattr(devices, "torch_cuda", lambda: "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(
        SettingError, match=r"too old \(found version 11040\)\. torch .* CUDA 13.0, .* driver is 470.10"
    ):
        devices.choose_device()


# --- the command ---


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", "--device", "cpu", *arguments])
    return int(ended.value.code or 0)


def test_the_command_writes_results_figures_and_nothing_but_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot, roof = tmp_path / "gpu.json", tmp_path / "plot.svg", tmp_path / "roof.png"
    code = run(
        "--json", "--out", str(out), "--plot", str(plot), "--roofline", str(roof), "--budget-s", "0.01",
        "--heat-s", "0", "--sizes", "64", "128x32x64", "64", "--payload-bytes", "65535", "65536",
        "--dtypes", "fp32", "bf16", "bf16",
    )  # fmt: skip
    told = capsys.readouterr()
    assert code == 0, told.err
    printed = json.loads(told.out)
    results = read_results(out)
    assert results.kind == printed["kind"] == "gpu"
    assert results.stamp["tier"] == "cpu"
    assert len(results.rows) == len(printed["rows"]) == 2 * 2 + 3 + 2 + 2 + 6
    assert any("no GPU was measured" in note for note in results.notes)
    assert plot.read_text().startswith("<?xml")
    assert roof.read_bytes().startswith(b"\x89PNG")
    assert "Measuring" in told.err


def test_launches_are_merged_row_by_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    code = run(
        "--launches", "2", "--out", str(out), "--parts", "latency", "--heat-s", "0", "--budget-s", "0.01"
    )
    assert code == 0, capsys.readouterr().err
    results = read_results(out)
    assert [row["size"] for row in results.rows] == ["in-place add, 1 element", "add, 1 element, new result"]
    assert all(len(row["launches"]) == 2 for row in results.rows)
    assert results.notes[0] == "Of 2 launches."


def test_merging_keeps_what_the_rows_measured() -> None:
    ones = [
        row("copy", "copy", "1 GB", times, "GB/s", bytes=1e9, peak=8e9) for times in ([0.5, 1.0], [0.25, 0.5])
    ]
    both = merged(ones)
    assert (both.value, both.best, both.iterations) == (2.0, 4.0, 4)
    assert (both.peak, both.of_peak) == (8.0, 0.25)
    assert both.samples_s == (0.5, 1.0, 0.25, 0.5)
    assert both.launches == (2, 2)
    assert merged(ones[:1]) is ones[0]


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "distlab.cli", "bench", "gpu", "--device", "cpu", "--out", str(out)]
    with subprocess.Popen(
        [*command, "--parts", "latency", "copy", "--heat-s", "0", "--budget-s", "600"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as child:
        assert child.stderr is not None
        # Batches of calls end after 200 samples, long before their budget; copies with wipes in between do not.
        assert any("copy" in line for line in child.stderr), "latencies are measured"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 130, errors
    assert "what was measured is kept" in errors
    results = read_results(out)
    assert {row["part"] for row in results.rows} >= {"latency"}
    assert any(note.startswith("Cut short: it was interrupted") for note in results.notes)


def test_a_device_that_is_lost_keeps_the_rows_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: object) -> Iterator[Row]:
        yield row("latency", "dispatch", "add", [1e-6], "us")
        raise RuntimeError("CUDA error: GPU is lost\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(gpu, "measure_latency", lost)
    assert run("--heat-s", "0", "--parts", "latency", "--out", str(tmp_path / "o.json")) == 1
    assert "The device failed: CUDA error: GPU is lost. What was measured before (1 rows) is kept." in (
        capsys.readouterr().err
    )
    assert len(read_results(tmp_path / "o.json").rows) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "abc"], "A size is 'abc'"),
        (["--launches", "0"], "launches is 0"),
        (["--parts"], "parts or dtypes is empty"),
        (["--dtypes"], "parts or dtypes is empty"),
        (["--gpu", "-1"], "gpu is -1"),
        (["--device", "cpu", "--gpu", "3"], "gpu is 3"),
        (["--budget-s", "0"], "budget_s is 0"),
        (["--budget-s", "nan"], "budget_s is nan"),
        (["--heat-s", "-1"], "heat_s is -1"),
        (["--payload-bytes", "0"], "A payload is 0 bytes"),
        (["--out", "/nowhere/gpu.json"], "Cannot write /nowhere/gpu.json"),
        (["--plot", "gpu.txt"], "must end in .svg"),
        (["--parts", "copy", "--roofline", "r.svg"], "needs the parts product, copy and kernel"),
        (["--data", "zeros", "--roofline", "r.svg"], "needs random data"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_is_measured_as_one() -> None:
    place = torch.device("cuda", 0)
    plan = gpu.Plan(
        place, shapes=[Shape(1024, 1024, 1024)], payload_bytes=[2**20], budget_s=0.02, heat_s=0.1,
        kernels=Sizes(vector=2**20, matrix=1024, small=128, large=1024),
    )  # fmt: skip
    items = list(gpu.measure(plan))
    assert {"H2D, pinned", "D2D, copy"} <= {row.name for row in rows_of(items, "copy")}
    assert {"enqueue", "round trip"} <= {row.name for row in rows_of(items, "latency")}
    assert {"one by one", "CUDA graph"} == {row.name for row in rows_of(items, "small operations")}
    assert {"fp32", "fp16"} <= {row.name for row in rows_of(items, "product")}
