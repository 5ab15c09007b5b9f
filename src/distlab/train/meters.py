"""What a step used, as far as this process can read it: RAM, VRAM, and the share of the device's peak.

A number that cannot be known here is None, never a guess.
"""

from __future__ import annotations

import psutil
import torch

from distlab.predict.registry import value
from distlab.train.config import TrainConfig
from distlab.train.models import build_model

_PROCESS = psutil.Process()

_PEAKS = {"A100": "a100_bf16_flops", "H100": "h100_bf16_flops", "H200": "h100_bf16_flops"}
"""Registry's name of the peak by what the GPU calls itself; H200 is H100's chip with more memory."""


def ram_bytes() -> int:
    """Resident memory of this process."""
    return int(_PROCESS.memory_info().rss)


def vram_bytes(device: torch.device) -> int | None:
    """Most memory that tensors held on the GPU so far; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def peak_flops(device: torch.device, precision: str) -> float | None:
    """Datasheet peak of the device in FLOP/s at this precision, where the registry has one."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    if "PCIe" in name:  # clocked lower than the modules in the registry
        return None
    return next((value(row) for short, row in _PEAKS.items() if short in name), None)


def flops_per_token(config: TrainConfig) -> tuple[float, float]:
    """Model FLOPs of forward and backward per token: a part a weight, and a part per token of its sample.

    6 N + 12 L h s for a transformer of N multiplying weights, L layers, width h and samples of s tokens
    (Chowdhery et al. 2022, PaLM, appendix B); returned as (6 N, 12 L h). Recomputed activations do not
    count: MFU is about the model.
    """
    with torch.device("meta"):
        model = build_model(config.model, config.seed)
    weights = sum(p.numel() for p in model.parameters())
    gpt = config.model.kind == "gpt"
    return 6.0 * weights, 12.0 * config.model.layers * config.model.width if gpt else 0.0
