"""`distlab predict goodput`: simulated runs, and storage of the hardware registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distlab.cli import main
from distlab.predict.commands.running import GoodputOptions
from distlab.predict.failures import Component, llama3_components
from distlab.predict.goodput import Checkpoint
from distlab.predict.hardware.storage import STORAGE
from distlab.predict.simulate import SHARES, Run, simulate

JOB = "--gpus 64 --mtbf-h 10 --interval-s 900 --blocking-s 30 --detection-s 60 --restart-s 300 --days 20"


def run(line: str, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "goodput", *line.split()])
    assert int(ended.value.code or 0) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def answer(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(line + " --json", capsys))
    return found


def a_run(**others: Any) -> Run:
    return Run(8, (Component("job", 1, 10),), Checkpoint(900, 30), 60, 300, 20, **others)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("--elastic --least-nodes 4", a_run(world="elastic", least_nodes=4, repair_h=24)),
        ("--spares 2 --repair-h 12", a_run(spares=2, repair_h=12)),
        (
            "--repair-h 0 --straggler-mtbf-h 300 --straggler-slowdown 0.2 --straggler-s 3600",
            a_run(straggler_mtbf_h=300, straggler_slowdown=0.2, straggler_s=3600),
        ),
    ],
)
def test_a_simulation_is_that_of_the_models(
    options: str, asked: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    want = simulate(asked, 20, seed=3)
    found = answer(f"{JOB} {options} --runs 20 --seed 3", capsys)["simulated"]
    assert found["goodput"]["mean"] == want.goodput.mean
    assert found["shares"] == want.shares
    assert found["nodes"] == asked.nodes
    table = run(f"{JOB} {options} --runs 20 --seed 3", capsys)
    assert f"Goodput of 20 days: {want.goodput.mean:.2%}" in table
    for name in SHARES:
        assert f"{name} " in table
    assert f"{want.goodput.low:.2%} to {want.goodput.high:.2%}" in table


def test_without_such_options_nothing_is_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(JOB, capsys)["simulated"] is None
    assert "Simulated" not in run(JOB, capsys)


def test_where_repairs_take_no_time_it_is_the_closed_form(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(f"{JOB} --days 200 --repair-h 0 --runs 40", capsys)
    good = found["simulated"]["goodput"]
    assert abs(good["mean"] - found["goodput"]) < 4 * good["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--straggler-mtbf-h 300", "need all three"),
        ("--straggler-slowdown 0.1 --straggler-s 60", "need all three"),
        ("--least-nodes 9", "least_nodes is 9"),
        ("--spares -1", "spares is -1"),
        ("--runs 1", "runs is 1"),
        ("--runs 1000000", "fewer runs"),
    ],
)
def test_a_simulation_that_cannot_be(options: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in run(f"{JOB} {options}", capsys, code=2)


def test_storage_is_the_registry_s(capsys: pytest.CaptureFixture[str]) -> None:
    usual = GoodputOptions().storage
    for name, gpus, clients in ((usual, 64, 1), ("nvme", 60, 8)):
        write = STORAGE[name].write
        assert write is not None
        rate = write.value.bytes_per_s * clients
        found = answer(f"--gpus {gpus} --model gpt2 --storage {name}", capsys)
        assert found["storage_Bps"] == rate
        assert found["blocking_s"] == pytest.approx(found["checkpoint_bytes"] / rate)
    for name, words in (
        ("s3", "no source"),
        ("lustre", "per TiB"),
        ("efs", "per client"),
        ("disk", "storage"),
    ):
        assert words in run(f"--model gpt2 --storage {name}", capsys, code=2)
    assert answer("--model gpt2 --storage s3 --storage-Bps 2e9", capsys)["storage_Bps"] == 2e9


def test_failures_are_those_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    line = "--gpus 4096 --model gpt2 --interval-s 900 --spares 8 --runs 4 --days 3"
    found = answer(line, capsys)
    saving = Checkpoint(900, found["blocking_s"])
    asked = Run(512, llama3_components(4096), saving, 60, 600, 3, spares=8, repair_h=24)
    assert found["simulated"]["failures"]["mean"] == simulate(asked, 4).failures.mean
