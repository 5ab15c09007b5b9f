"""Reading the machine: GPUs as a driver made up of a shell script lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from distlab import machine
from tests.programs import command

TWO_GPUS = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 81559, 580.65.06
1, GPU-bbbb2222, NVIDIA H100 80GB HBM3, 81559, 580.65.06
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "bin", "nvidia-smi", f"cat <<END\n{TWO_GPUS}END")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_as_the_driver_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = machine.gpus()
    assert (first.index, second.index) == (0, 1)
    assert first.name == "NVIDIA H100 80GB HBM3"
    assert first.memory_bytes == 81559 * 2**20
    assert first.driver == "580.65.06"
    for visible, indices in {"": [], "1": [1], "GPU-aaaa1111": [0], "0,1": [0, 1], "-1": []}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [gpu.index for gpu in machine.gpus()] == indices, visible


def test_a_driver_that_does_not_answer_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert machine.gpus() == ()
    command(tmp_path / "bin", "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert machine.gpus() == ()
    command(tmp_path / "bin", "nvidia-smi", "echo 'No devices were found'")
    assert machine.gpus() == ()
