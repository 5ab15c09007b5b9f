"""What a step used, as far as this process can tell: RAM, VRAM, and the share of the device's peak.

A number that cannot be known is None, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from distlab.predict.registry import value
from distlab.train.config import ModelConfig
from distlab.train.models import IMAGE_SHAPE, build_model, loss_sum

_PROCESS = psutil.Process()

_PEAKS = {"A100": "a100_bf16_flops", "H100": "h100_bf16_flops", "H200": "h100_bf16_flops"}
"""The registry's peak by what the GPU calls itself. An H200 is an H100 SXM with more and faster memory."""


def ram_bytes() -> int:
    """Resident memory of this process."""
    return int(_PROCESS.memory_info().rss)


def vram_bytes(device: torch.device) -> int | None:
    """Most memory that tensors held on the GPU so far; None on a CPU."""
    if device.type != "cuda":
        return None
    # What torch.cuda.max_memory_allocated reads, without the sorting of 100 other numbers at each step.
    return int(torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]["peak"])


def peak_flops(device: torch.device, precision: str) -> float | None:
    """The device's datasheet peak in FLOP/s for dense products in this precision, if the registry has it."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    if "PCIe" in name:  # clocked lower than the modules that the registry knows
        return None
    return next((value(row) for short, row in _PEAKS.items() if short in name), None)


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs of the model's matrix products and convolutions, forward and backward.

    For a transformer of N multiplying weights, L layers and width D it is per token 6 N + 12 L D s, with s
    tokens in a sample (Chowdhery et al., 2022, PaLM, appendix B); frozen weights take fewer. Recomputed
    activations do not count: the U of MFU is about what the model needs.
    """

    per_token: float
    per_token_pair: float
    """For each token and each token of its sample: attention."""

    def step(self, samples: int, tokens: int) -> float:
        """FLOPs of samples that hold so many tokens together; exact where all are of one length."""
        return tokens * (self.per_token + self.per_token_pair * tokens / samples) if samples else 0.0


def model_flops(config: ModelConfig) -> ModelFlops:
    """Counted by torch on a model without memory; an image is one token."""
    if config.kind != "gpt":
        return ModelFlops(_count(config, 1), 0.0)
    # One sample of s tokens takes a s + b s^2: two lengths tell a and b.
    one, two = _count(config, 1), _count(config, 2)
    pair = (two - 2 * one) / 2
    return ModelFlops(one - pair, pair)


def _count(config: ModelConfig, tokens: int) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_model(config, seed=0)
        targets = torch.zeros(1, tokens, dtype=torch.int64)
        images = config.kind != "gpt"
        outputs = model(torch.zeros(1, *IMAGE_SHAPE) if images else targets)
        loss = loss_sum(outputs, targets[0] if images else targets)
        loss.backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops())
