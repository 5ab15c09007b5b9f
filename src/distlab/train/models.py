"""Two small classifiers of 8x8 grey images; `width` sets how much they compute and communicate."""

from __future__ import annotations

import torch
from torch import nn

from distlab.train.config import TrainConfig

CLASSES = 10


def build_model(config: TrainConfig) -> nn.Module:
    """The configured model on the CPU, with weights that depend on `config.seed` alone.

    The caller's random state is untouched: every rank builds the same weights, whatever it drew before.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return mlp(config.width) if config.model == "mlp" else cnn(config.width)


def mlp(width: int) -> nn.Sequential:
    """64 -> width -> width -> 10: width^2 + 76 width + 10 parameters. Input (n, 1, 8, 8)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, CLASSES),
    )


def cnn(channels: int) -> nn.Sequential:
    """Two 3x3 convolutions and a linear layer: more arithmetic per parameter than the MLP has."""
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, CLASSES),
    )


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def gradient_bytes(model: nn.Module) -> int:
    """Bytes that one averaging of all gradients moves into the collective on each rank."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
