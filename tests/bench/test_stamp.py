from __future__ import annotations

import dataclasses
import datetime
import json
import sys

import pytest
import torch

from distlab.bench.stamp import Stamp, full_stamp, stamp


def test_tier_is_that_of_the_device() -> None:
    assert stamp().tier == "cpu"
    assert stamp(torch.device("cpu")).backend == "none"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_tier_on_a_gpu() -> None:
    on_gpu = stamp(torch.device("cuda", 0))
    assert on_gpu.tier == "gpu"
    assert on_gpu.hardware == torch.cuda.get_device_name(0)


def test_date_is_utc_and_command_without_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/run.py", "--size", "a b"])
    made = stamp()
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(made.date)
    assert datetime.timedelta(0) <= age < datetime.timedelta(minutes=5)
    assert made.command == "run.py --size 'a b'"
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "/home/me/kernel.json"])
    assert stamp().command == "notebook"
    assert "tier cpu" in str(made)


def test_the_full_stamp_adds_what_lies_between_ranks() -> None:
    full = full_stamp(network="a shaped cable")
    assert "network: a shaped cable" in str(full)
    assert any("socket" in line for line in full.topology)
    assert stamp().topology == ()
    assert " · network: " not in str(stamp())
    # As logs hold it: lists for tuples, and older logs without the newer fields.
    assert Stamp(**json.loads(json.dumps(dataclasses.asdict(full)))).network == full.network
    old = dataclasses.asdict(stamp())
    del old["topology"], old["network"], old["nccl"], old["cuda"], old["driver"]
    assert str(Stamp(**old)).startswith("tier cpu")
