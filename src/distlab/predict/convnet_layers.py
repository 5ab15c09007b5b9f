"""What each layer of a convolutional network takes on one GPU, forward and backward.

A layer's product takes the longer of its arithmetic, by tiles of output channels, and its bytes; normalization, bias,
ReLU, pooling and joins take their bytes, counted read by read and write by write. Source: Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks (CVPR 2016), for Winograd's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from distlab.predict.convnets import Convnet, Layer
from distlab.predict.device import Device

WINOGRAD_SAVES = 2.25
"""F(2 x 2, 3 x 3) takes 16 multiplications for 36 (Lavin and Gray)."""

TILE_CHANNELS = 128
"""A kernel makes its output in tiles of so many channels (NVIDIA, Matrix Multiplication Background): 48 cost as much as
128. Chosen with the throughputs of `convnet_cases` in view, among 1, 32, 64 and 128."""

PASSES = {"norm": (5, 8), "bias": (4, 4), "none": (2, 1)}
"""Reads and writes of each output beside the product, forward and backward, kernel by kernel. Normalization: statistics
(1), normalize (2), ReLU (2); ReLU (3), sums of its gradient (2), gradient of its input (3). Bias: add (2), ReLU (2);
ReLU (3), sum (1). The classifier: add (2); sum (1)."""


@dataclass(frozen=True)
class Library:
    """What computes the layers on a GPU: a framework with its kernels."""

    layer_s: float = 0.0
    """What a layer with a product costs beside, forward and backward together: launches, and the framework's own."""
    value_bytes: int = 4
    """Of an activation."""
    winograd: bool = True


class Gradient(NamedTuple):
    """Of one layer."""

    layer: str
    parameters: int
    ready_s: float
    """After the backward pass began."""


class _Cost(NamedTuple):
    """Of one layer on one GPU, without the number of images. Floats hold these counts exactly, and multiply faster than
    whole numbers."""

    flops: float
    flop_per_s: float
    values: float
    """Read and written by the product, of each image."""
    parameters: float
    again: float
    """Products of the backward pass, each as long as the forward pass's."""
    forward_values: float
    backward_values: float
    """Read and written beside the product, of each image."""
    forward_s: float
    backward_s: float
    """What does not depend on images."""


def layer_times(net: Convnet, batch: int, device: Device, library: Library) -> list[tuple[float, float]]:
    """Seconds forward and backward of each layer, in the order of the forward pass."""
    images, rate = float(batch), device.element_Bps / library.value_bytes  # values per second
    times = []
    for cost in _costs(net, device, library):
        flops, flop_per_s, values, parameters, again, forward, backward, forward_s, backward_s = cost
        product_s = max(images * flops / flop_per_s, (images * values + parameters) / rate)
        seconds = product_s + images * forward / rate + forward_s
        times.append((seconds, again * product_s + images * backward / rate + backward_s))
    return times


@lru_cache(maxsize=256)
def _costs(net: Convnet, device: Device, library: Library) -> tuple[_Cost, ...]:
    return tuple([_Cost(*map(float, _cost(layer, device, library))) for layer in net.layers])


def _cost(layer: Layer, device: Device, library: Library) -> _Cost:
    inputs, outputs = layer.inputs, layer.outputs
    if layer.kind == "pool":
        return _Cost(0, 1, 0, 0, 0, inputs + outputs, 2 * (inputs + outputs), 0, 0)
    if layer.kind == "join":
        forward, backward = (3 + 2, 3) if layer.adds else (2, 2)
        added_up = 3 * (layer.branches - 1) * layer.shared
        return _Cost(0, 1, 0, 0, 0, forward * outputs, backward * outputs + added_up, 0, 0)
    saves = WINOGRAD_SAVES if layer.fast and library.winograd else 1.0
    filled = layer.channels / (TILE_CHANNELS * math.ceil(layer.channels / TILE_CHANNELS))
    forward, backward = PASSES[layer.after]
    return _Cost(
        2 * layer.products,
        saves * filled * device.peak_flops * device.gemm_efficiency,
        inputs + outputs,
        layer.parameters,
        1 if layer.first else 2,
        forward * outputs,
        backward * outputs,
        library.layer_s / 3,
        library.layer_s * 2 / 3,
    )


@lru_cache(maxsize=256)
def one_gpu(net: Convnet, batch: int, device: Device, library: Library) -> tuple[float, tuple[Gradient, ...]]:
    """Seconds of the forward pass, and the gradients in the order in which the backward pass makes them.

    The last is ready at its end: each network begins with a layer that has parameters.
    """
    times = layer_times(net, batch, device, library)
    gradients, now_s = [], 0.0
    for layer, (_, backward_s) in zip(reversed(net.layers), reversed(times), strict=True):
        now_s += backward_s
        if layer.parameters:
            gradients.append(Gradient(layer.name, layer.parameters, now_s))
    return sum([forward_s for forward_s, _ in times]), tuple(gradients)
