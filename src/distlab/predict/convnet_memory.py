"""The memory of a data-parallel step of a convolutional network on one GPU: weights' states, kept values, gradients.

    convnet_bytes(convnet("resnet50"), batch=64, value_bytes=4)

Counted from the layers: of each convolution with normalization two results stay for the backward pass (the product's,
and the normalized one, which the ReLU overwrites), of any other layer one, and the image once. Beside them, at the
fullest layer, the gradients of its inputs and its results. Weights, gradients and momentum are in 32 bits. Left out:
cuDNN's workspaces and fragmentation, so that the true need is higher.
"""

from __future__ import annotations

from distlab.predict.convnets import Convnet

STATE_BYTES = 12
"""Of a parameter with SGD and momentum: weight, gradient and momentum, 4 bytes each."""


def kept_values(net: Convnet) -> int:
    """Of one image, from the forward pass for the backward pass."""
    image = 3 * net.image**2
    return image + sum((2 if layer.after == "norm" else 1) * layer.outputs for layer in net.layers)


def convnet_bytes(net: Convnet, batch: int, value_bytes: int, gradient_bytes: int = 4) -> float:
    """Of one GPU. value_bytes: of a kept value, 4 or 2; gradient_bytes: of a gradient in the exchange's buffers."""
    working = max(layer.inputs + layer.outputs for layer in net.layers)
    copies = 2 if value_bytes == 2 else 0  # 16-bit weights for the products
    states = (STATE_BYTES + gradient_bytes + copies) * net.parameters
    return float(states + batch * value_bytes * (kept_values(net) + working))
