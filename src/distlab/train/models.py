"""The models of the course: two small classifiers of 8x8 grey images, and a GPT (see gpt.py).

Each is a `blocks` dictionary with little around it: a block is what FSDP gathers at a time, what activation
checkpointing recomputes, and what a pipeline stage holds some of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distlab.errors import SettingError
from distlab.train.config import ModelConfig
from distlab.train.gpt import GPT

IMAGE_SHAPE = (1, 8, 8)
CLASSES = 10
VOCABULARY = 256
"""The tokens of a GPT are bytes."""

IGNORED = -100
"""A target that does not count: the padding of short samples."""


def build_model(config: ModelConfig, seed: int) -> nn.Module:
    """The configured model on the CPU, with weights that depend on `seed` alone.

    The caller's random state is untouched: every rank builds the same weights, whatever it drew before.
    Parameters named by `config.freeze` have `requires_grad` off. SettingError for a model that cannot be.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _new_model(config)
        except (RuntimeError, MemoryError) as error:  # a size beyond memory, or beyond torch's numbers
            size = f"model.width {config.width} and model.layers {config.layers}"
            reason = str(error).splitlines()[0] if str(error) else "no memory"
            raise SettingError(f"A model of {size} cannot be made here: {reason}.") from None
    _freeze(model, config.freeze)
    return model


def _new_model(config: ModelConfig) -> nn.Module:
    if config.kind == "mlp":
        return mlp(config.width)
    if config.kind == "cnn":
        return cnn(config.width)
    return GPT(VOCABULARY, config.width, config.layers, config.heads, config.dropout, config.tied)


class Classifier(nn.Module):
    """Blocks that make features of an image, and a linear layer that makes logits of the features."""

    def __init__(self, blocks: list[nn.Module], features: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({str(i): block for i, block in enumerate(blocks)})
        self.head = nn.Linear(features, CLASSES)
        self.blocks.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, 8, 8) to logits (n, 10)."""
        features = images
        for block in self.blocks.values():
            features = block(features)
        logits: Tensor = self.head(features)
        return logits


def _initialise(layer: nn.Module) -> None:
    """Weights with which a layer before a ReLU passes on signals as strong as it gets them.

    Normal, of variance 2 / fan_in (He et al., 2015, arXiv:1502.01852, equation 10). Torch's own, a sixth of that,
    let the CNN stand still for twenty steps.
    """
    if isinstance(layer, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def mlp(width: int) -> Classifier:
    """64 -> width -> width -> 10: width^2 + 76 width + 10 parameters."""
    return Classifier(
        [
            nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        ],
        features=width,
    )


def cnn(channels: int) -> Classifier:
    """Two 3x3 convolutions and a linear layer: more arithmetic per parameter than the MLP has.

    9 channels^2 + 51 channels + 10 parameters. No batch norm: its statistics are those of a rank's share, so
    that the mathematics would depend on the world size.
    """
    return Classifier(
        [
            nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
            ),
        ],
        features=4 * channels,
    )


def blocks(model: nn.Module) -> list[tuple[nn.ModuleDict, str]]:
    """Where each block of a model hangs: its parent and its name there."""
    parent = model.blocks
    assert isinstance(parent, nn.ModuleDict)
    return [(parent, name) for name in parent]


def loss_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross entropy (in nats, fp32) over all targets that are not IGNORED; 0 where there are none.

    Outputs (n, classes) with targets (n,), or (B, L, V) with (B, L). A sum, because means of parts of unequal
    size do not average to the mean of the whole.
    """
    logits = outputs.flatten(0, -2).float()
    return cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")


def parameter_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def gradient_bytes(model: nn.Module) -> int:
    """Bytes that one averaging of all gradients moves into the collective on each rank."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _freeze(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    named = dict(model.named_parameters(remove_duplicate=False))  # a tied matrix goes by both its names
    for prefix in prefixes:
        chosen = [parameter for name, parameter in named.items() if name.startswith(prefix)]
        if not chosen:
            raise SettingError(
                f"model.freeze names {prefix!r}, with which no parameter starts; there are {', '.join(named)}."
            )
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not parameter_count(model):
        raise SettingError(f"model.freeze is {list(prefixes)}, which leaves nothing to train; name fewer.")
