"""FLOPs against the published formula and against sums by hand; what cannot be known is None."""

from __future__ import annotations

import pytest
import torch

from distlab.train.config import ModelConfig
from distlab.train.meters import model_flops, peak_flops, ram_bytes, vram_bytes


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("width", "layers"), [(32, 1), (64, 3)])
def test_a_transformer_takes_what_palm_counts(width: int, layers: int, tied: bool) -> None:
    flops = model_flops(ModelConfig(kind="gpt", width=width, layers=layers, tied=tied))
    weights = layers * 12 * width**2 + 256 * width  # a look-up multiplies nothing
    samples, length = 3, 50
    per_token = 6 * weights + 12 * layers * width * length
    assert flops.step(samples, samples * length) == samples * length * per_token
    assert flops.step(0, 0) == 0


def test_an_mlp_by_hand() -> None:
    # Forward 2 FLOPs a weight; backward 2 for its gradient and 2 for its input's, which images have not.
    width = 16
    assert model_flops(ModelConfig(width=width)).step(5, 5) == 5 * (
        4 * 64 * width + 6 * width * width + 6 * width * 10
    )


def test_weights_of_a_convolution_count_at_every_pixel() -> None:
    channels = 4
    first, second, head = 9 * channels * 64, 9 * channels**2 * 16, 4 * channels * 10
    assert (
        model_flops(ModelConfig(kind="cnn", width=channels)).step(1, 1) == 4 * first + 6 * second + 6 * head
    )


def test_frozen_weights_take_no_gradient() -> None:
    whole = model_flops(ModelConfig(kind="gpt", width=32, layers=2, tied=False))
    frozen = model_flops(ModelConfig(kind="gpt", width=32, layers=2, tied=False, freeze=("head",)))
    assert whole.per_token - frozen.per_token == 2 * 256 * 32


def test_memory_is_read_and_not_guessed() -> None:
    before = ram_bytes()
    held = bytearray(64 * 2**20)
    held[::4096] = b"x" * len(held[::4096])  # every page
    assert ram_bytes() - before > 60 * 2**20
    assert vram_bytes(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA H100 80GB HBM3", "fp16", 989e12),
        ("NVIDIA H200", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", None),
        ("NVIDIA H200", "fp32", None),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
    ],
)
def test_a_peak_is_the_registrys_or_none(
    name: str, precision: str, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda"), precision) == peak
    assert peak_flops(torch.device("cpu"), precision) is None
