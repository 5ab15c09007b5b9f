"""The roofline: ceilings are the best that was measured, ridges follow, results of others are read with suspicion."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distlab.bench.measured import IDENTITY, Row, row
from distlab.bench.results import Results, read_results, write_results
from distlab.bench.roofline import Marker, in_words, roofline, save_roofline
from distlab.cli import main
from distlab.errors import SettingError


def rows() -> list[Row]:
    """A device of 800 TFLOP/s in bf16, 50 in fp32 and 4 TB/s."""
    return [
        row("product", "bf16", "1k", [0.25, 0.5], "TFLOP/s", flop=200e12),
        row("product", "bf16", "2k", [0.5, 0.6], "TFLOP/s", flop=200e12),
        row("product", "fp32", "1k", [1.0], "TFLOP/s", flop=50e12),
        row("copy", "D2D, copy", "64 KiB", [1e-9], "GB/s", bytes=2 * 2**16),  # in a cache
        row("copy", "D2D, copy", "8 GB", [4.0], "GB/s", bytes=16e12),
        row("copy", "D2D, read", "8 GB", [4.0], "GB/s", bytes=8e12),
        row("copy", "H2D, pinned", "16 GB", [1.0], "GB/s", bytes=16e12),  # another way altogether
        row("kernel", "reduction bf16", "n", [1.0], "TFLOP/s", flop=1e12, bytes=2e12),
        row("kernel", "large GEMM bf16", "n", [1.0], "TFLOP/s", flop=700e12, bytes=1e12),
    ]


def results(found: Sequence[Row] | None = None) -> Results:
    stamp = {"tier": "gpu", "hardware": "NVIDIA H200", "date": "2026-11-29T00:00:00+00:00"}
    return Results("gpu", IDENTITY, [r.as_plain() for r in (rows() if found is None else found)], stamp)


def test_ceilings_are_the_best_and_the_ridge_lies_where_they_meet() -> None:
    found = roofline(results())
    assert [(c.dtype, c.flops, c.size) for c in found.ceilings] == [
        ("bf16", 800e12, "1k"),
        ("fp32", 50e12, "1k"),
    ]
    assert found.bandwidth_Bps == 4e12, "of the payload beyond the caches, inside the device"
    assert found.bandwidth_by == "D2D, copy of 8 GB"
    assert found.ridge("bf16") == 200
    assert found.ridge("fp32") == 12.5
    assert found.markers[0] == Marker("reduction", 0.5, 1e12, "bf16")
    assert found.attainable(found.markers[0]) == 2e12, "left of the ridge memory is the roof"
    assert found.attainable(found.markers[1]) == 800e12
    assert found.attainable(Marker("x", 1, 1, "fp64")) is None


def test_other_data_than_random_raise_no_ceiling() -> None:
    zeros = row("product", "bf16", "1k", [0.1], "TFLOP/s", flop=200e12, data="zeros")
    assert roofline(results([*rows(), zeros])).ceilings[0].flops == 800e12


def test_the_figure_says_in_words_what_it_shows(tmp_path: Path) -> None:
    found = roofline(results())
    words = in_words(found)
    assert words.startswith(
        "Roofline of NVIDIA H200 (gpu tier). Ceilings: bf16 800 TFLOP/s (ridge at 200 FLOP/B)"
    )
    assert "reduction at 0.5 FLOP/B, 50% of its roof" in words
    save_roofline(found, tmp_path / "roof.svg")
    root = ET.parse(tmp_path / "roof.svg").getroot()
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"bf16: 800", "fp32: 50", "memory: 4,000 GB/s", "ridge 200"} <= texts
    assert "NVIDIA H200 (gpu tier), 2026-11-29" in texts


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_command_draws_what_was_measured_before(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "gpu.json", results())
    assert run(tmp_path / "gpu.json", tmp_path / f"roof{suffix}") == 0
    begin = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert (tmp_path / f"roof{suffix}").read_bytes().startswith(begin)
    assert "Roofline of NVIDIA H200" in capsys.readouterr().out


def run(*arguments: Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "roofline", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_results_that_make_no_roofline_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "gpu.json", results([r for r in rows() if r.part != "copy"]))
    assert run(tmp_path / "gpu.json", tmp_path / "roof.svg") == 2
    assert "hold no copies" in capsys.readouterr().err
    assert run(tmp_path / "gpu.json", tmp_path / "roof.txt") == 2
    assert "must end in .svg" in capsys.readouterr().err
    assert not (tmp_path / "roof.svg").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"flop": "many"},
        {"flop": None},
        {"min_s": 0},
        {"name": None, "flop": []},
        {"min_s": "nan"},
        {"flop": 1e308, "min_s": 1e-308},
    ],
)
def test_a_row_of_somebody_else_s_is_no_traceback(change: dict[str, Any], tmp_path: Path) -> None:
    forged = [dict(r.as_plain()) for r in rows()]
    forged[0] |= change
    write_results(tmp_path / "gpu.json", Results("gpu", IDENTITY, forged, {"tier": "gpu"}))
    with pytest.raises(SettingError):
        roofline(read_results(tmp_path / "gpu.json"))


def test_results_of_another_benchmark_are_refused() -> None:
    with pytest.raises(SettingError, match=r"These are results of 'collectives\?'"):
        roofline(Results("collectives\x1b", IDENTITY, [], {}))
