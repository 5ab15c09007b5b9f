from __future__ import annotations

import json

import pytest
import torch

from distlab.bench.collectives import OPERATIONS, Report, WrongDataError, check, main, measure, to_json
from distlab.predict.collectives import bus_bandwidth_factor
from distlab.train.launch import launch


@pytest.fixture(scope="module")
def reports() -> list[Report]:
    return launch(measure, 3, OPERATIONS, [4, 1000, 65536], 1, 5, threads_per_rank=1)


def test_every_rank_reports_the_same_rows(reports: list[Report]) -> None:
    assert reports[0].rows == reports[1].rows == reports[2].rows
    assert [row.operation for row in reports[0].rows] == [op for op in OPERATIONS for _ in range(3)]
    # Payloads are rounded up to whole float32 for each of 3 ranks.
    assert [row.payload_bytes for row in reports[0].rows[:3]] == [12, 1008, 65544]


def test_rows_are_consistent(reports: list[Report]) -> None:
    for row in reports[0].rows:
        assert 0 < row.min_s <= row.median_s <= row.p99_s
        assert row.algorithm_bandwidth_GBps == pytest.approx(row.payload_bytes / row.median_s / 1e9)
        operation = next(op for op in OPERATIONS if op == row.operation)
        factor = bus_bandwidth_factor(operation, 3)
        assert row.bus_bandwidth_GBps == pytest.approx(factor * row.algorithm_bandwidth_GBps)
    assert reports[0].stamp.world_size == 3


def test_wrong_data_is_reported() -> None:
    check("broadcast", 0, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
    with pytest.raises(
        WrongDataError, match=r"all_reduce delivered 5.0 at element 1 of rank 2; it must be 3.0"
    ):
        check("all_reduce", 2, torch.tensor([3.0, 5.0]), torch.tensor([3.0, 3.0]))


def test_command_prints_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(world_size=2, operations=("all_reduce",), sizes_bytes=(1024,), iterations=2, json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"][0]["payload_bytes"] == 1024
    assert report["stamp"]["world_size"] == 2


def test_command_refuses_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(iterations=0) == 2
    assert main(sizes_bytes=(0,)) == 2
    assert main(world_size=0) == 2
    err = capsys.readouterr().err
    assert "iterations is 0" in err
    assert "sizes_bytes is [0]" in err
    assert "world_size is 0" in err


def test_json_has_all_fields(reports: list[Report]) -> None:
    report = json.loads(to_json(reports[0]))
    assert len(report["rows"]) == 12
    assert {"tier", "hardware", "backend", "date", "command"} <= report["stamp"].keys()
