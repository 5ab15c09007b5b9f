"""Convolutional networks layer by layer: parameters, FLOPs and values of each, from a description of the architecture.

    net = convnet("vgg16")
    net.parameters, net.forward_flops                 # of the whole: sums over net.layers
    for layer in net.layers: print(layer.name, layer.parameters, layer.forward_flops)

Layers are in the order of the forward pass; the backward pass makes their gradients in the reverse of it. A convolution
and what follows it (normalization or bias, and the ReLU) are one layer, because their gradients come together. A
multiplication and an addition are 2 FLOP. Paddings and the placing of strides are torchvision's.

Sources: He et al., Deep Residual Learning (CVPR 2016), table 1; Simonyan and Zisserman, Very Deep Convolutional
Networks (ICLR 2015), table 1, column D; Szegedy et al., Rethinking the Inception Architecture (CVPR 2016), table 1 and
figures 5 to 7 and 10. The tests hold the totals against those that torchvision publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from distlab.errors import SettingError

Kind = Literal["convolution", "linear", "pool", "join"]
After = Literal["norm", "bias", "none"]
"""What follows the product: normalization and ReLU, bias and ReLU, or the bias alone (the classifier)."""

CLASSES = 1000
"""Of ImageNet."""


@dataclass(frozen=True)
class Layer:
    """One step of the forward pass; counts are for one image."""

    name: str
    kind: Kind
    parameters: int
    products: int
    """Multiplications with an addition of the product (MAC)."""
    inputs: int
    """Values read."""
    outputs: int
    """Values written."""
    after: After = "none"
    channels: int = 0
    """Of the output, where there is a product."""
    branches: int = 1
    """That a join adds up or puts side by side."""
    fast: bool = False
    """3 x 3 with stride 1: Winograd's algorithm saves multiplications where the library has it."""
    first: bool = False
    """Its input is the image, which needs no gradient."""
    adds: bool = False
    """A join that adds, with a ReLU (ResNet), not one that puts side by side (Inception)."""
    shared: int = 0
    """Of a join: values that all branches began with; their gradients are added up."""

    @property
    def forward_flops(self) -> int:
        return 2 * self.products

    @property
    def backward_flops(self) -> int:
        """Gradients of the weights and, but for the image, of the inputs: as much as the forward pass each."""
        return (1 if self.first else 2) * self.forward_flops


@dataclass(frozen=True, eq=False)
class Convnet:
    """A network on square images of `image` pixels. Compared by identity: `convnet` makes each one once."""

    name: str
    image: int
    layers: tuple[Layer, ...]

    @cached_property
    def parameters(self) -> int:
        return sum(layer.parameters for layer in self.layers)

    @cached_property
    def forward_flops(self) -> int:
        """Of one image, products alone; a multiplication and an addition count 2."""
        return sum(layer.forward_flops for layer in self.layers)

    @cached_property
    def step_flops(self) -> int:
        """Of one image, forward and backward."""
        return self.forward_flops + sum(layer.backward_flops for layer in self.layers)

    def gradient_bytes(self, value_bytes: int = 4) -> int:
        """What each rank sends for: one gradient for each parameter."""
        return value_bytes * self.parameters


class _Builder:
    """Follows the shape of one image, channels x height x width, and writes down the layers."""

    def __init__(self, image: int) -> None:
        self.shape = (3, image, image)
        self.layers: list[Layer] = []

    @property
    def values(self) -> int:
        channels, height, width = self.shape
        return channels * height * width

    def conv(
        self,
        name: str,
        channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        pad: int | tuple[int, int] | None = None,
        after: After = "norm",
    ) -> None:
        """`pad` None: as much as keeps the size at stride 1. A bias only without normalization."""
        rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        pads = (rows // 2, columns // 2) if pad is None else pad if isinstance(pad, tuple) else (pad, pad)
        inputs, before = self.values, self.shape[0]
        height = (self.shape[1] + 2 * pads[0] - rows) // stride + 1
        width = (self.shape[2] + 2 * pads[1] - columns) // stride + 1
        self.shape = (channels, height, width)
        weights = channels * before * rows * columns
        extra = {"norm": 2, "bias": 1, "none": 1}[after] * channels  # scale and shift; a bias
        self.layers.append(
            Layer(
                name,
                "convolution",
                weights + extra,
                weights * height * width,
                inputs,
                self.values,
                after,
                channels,
                fast=rows == columns == 3 and stride == 1,
                first=not self.layers,
            )
        )

    def linear(self, name: str, features: int, after: After = "bias") -> None:
        inputs = self.values
        self.shape = (features, 1, 1)
        parameters = (inputs + 1) * features
        self.layers.append(
            Layer(name, "linear", parameters, inputs * features, inputs, features, after, features)
        )

    def pool(self, name: str, kernel: int, stride: int, pad: int = 0) -> None:
        inputs, (channels, height, width) = self.values, self.shape
        self.shape = (
            channels,
            (height + 2 * pad - kernel) // stride + 1,
            (width + 2 * pad - kernel) // stride + 1,
        )
        self.layers.append(Layer(name, "pool", 0, 0, inputs, self.values))

    def pool_all(self, name: str) -> None:
        """The mean over all places."""
        inputs = self.values
        self.shape = (self.shape[0], 1, 1)
        self.layers.append(Layer(name, "pool", 0, 0, inputs, self.values))

    def branch(self, name: str, ways: Sequence[Callable[[], None]], adds: bool = False) -> None:
        """Each way begins at the shape that stands now; their outputs are added, or put side by side."""
        begin, shared, shapes = self.shape, self.values, []
        for way in ways:
            self.shape = begin
            way()
            shapes.append(self.shape)
        channels = shapes[0][0] if adds else sum(shape[0] for shape in shapes)
        self.shape = (channels, *shapes[0][1:])
        inputs = sum(depth * height * width for depth, height, width in shapes)
        self.layers.append(
            Layer(name, "join", 0, 0, inputs, self.values, branches=len(ways), adds=adds, shared=shared)
        )


def _resnet(name: str, blocks: tuple[int, int, int, int], image: int) -> Convnet:
    """Bottlenecks of 1 x 1, 3 x 3, 1 x 1; the stride at the 3 x 3."""
    net = _Builder(image)
    net.conv("conv1", 64, 7, 2)
    net.pool("pool1", 3, 2, 1)

    def bottleneck(prefix: str, width: int, stride: int) -> None:
        net.conv(f"{prefix}.conv1", width, 1)
        net.conv(f"{prefix}.conv2", width, 3, stride)
        net.conv(f"{prefix}.conv3", 4 * width, 1)

    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        for block in range(count):
            prefix = f"stage{stage + 1}.{block}"
            stride = 2 if stage and not block else 1

            def main(prefix: str = prefix, width: int = width, stride: int = stride) -> None:
                bottleneck(prefix, width, stride)

            def shortcut(
                prefix: str = prefix, width: int = width, stride: int = stride, new: bool = not block
            ) -> None:
                if new:
                    net.conv(f"{prefix}.shortcut", 4 * width, 1, stride, 0)

            net.branch(f"{prefix}.add", (main, shortcut), adds=True)
    net.pool_all("mean")
    net.linear("fc", CLASSES, "none")
    return Convnet(name, image, tuple(net.layers))


def _vgg16(name: str, image: int) -> Convnet:
    net = _Builder(image)
    for stage, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for layer in range(1, count + 1):
            net.conv(f"conv{stage}_{layer}", channels, 3, after="bias")
        net.pool(f"pool{stage}", 2, 2)
    net.linear("fc6", 4096)
    net.linear("fc7", 4096)
    net.linear("fc8", CLASSES, "none")
    return Convnet(name, image, tuple(net.layers))


_Step = tuple[int, int | tuple[int, int]]
"""Channels and kernel of a convolution."""


def _inception_v3(name: str, image: int) -> Convnet:
    """Without the auxiliary classifier, which training may leave out."""
    net = _Builder(image)
    net.conv("conv1a", 32, 3, 2, 0)
    net.conv("conv2a", 32, 3, 1, 0)
    net.conv("conv2b", 64, 3)
    net.pool("pool1", 3, 2)
    net.conv("conv3b", 80, 1)
    net.conv("conv4a", 192, 3, 1, 0)
    net.pool("pool2", 3, 2)

    def way(prefix: str, *steps: _Step, stride: int = 1) -> Callable[[], None]:
        """Convolutions one after the other, (channels, kernel) each; the stride, without a padding, at the last."""

        def build() -> None:
            for number, (channels, kernel) in enumerate(steps, 1):
                last = stride > 1 and number == len(steps)
                net.conv(f"{prefix}.{number}", channels, kernel, stride if last else 1, 0 if last else None)

        return build

    def pooled(prefix: str, channels: int) -> Callable[[], None]:
        def build() -> None:
            net.pool(f"{prefix}.pool", 3, 1, 1)
            net.conv(f"{prefix}.1", channels, 1)

        return build

    def shrunk(prefix: str) -> Callable[[], None]:
        return lambda: net.pool(f"{prefix}.pool", 3, 2)

    def split(prefix: str, *steps: _Step) -> Callable[[], None]:
        """Ends in 1 x 3 and 3 x 1 side by side."""

        def build() -> None:
            way(prefix, *steps)()
            net.branch(
                f"{prefix}.join", (way(f"{prefix}.w", (384, (1, 3))), way(f"{prefix}.h", (384, (3, 1))))
            )

        return build

    for block, pool in zip("bcd", (32, 64, 64), strict=True):
        at = f"mixed5{block}"
        ways = [
            way(f"{at}.1x1", (64, 1)),
            way(f"{at}.5x5", (48, 1), (64, 5)),
            way(f"{at}.3x3", (64, 1), (96, 3), (96, 3)),
            pooled(f"{at}.p", pool),
        ]
        net.branch(at, ways)
    net.branch(
        "mixed6a",
        (
            way("mixed6a.3x3", (384, 3), stride=2),
            way("mixed6a.double", (64, 1), (96, 3), (96, 3), stride=2),
            shrunk("mixed6a.p"),
        ),
    )
    for block, c in zip("bcde", (128, 160, 160, 192), strict=True):
        at = f"mixed6{block}"
        wide, tall = (1, 7), (7, 1)
        ways = [
            way(f"{at}.1x1", (192, 1)),
            way(f"{at}.7x7", (c, 1), (c, wide), (192, tall)),
            way(f"{at}.double", (c, 1), (c, tall), (c, wide), (c, tall), (192, wide)),
            pooled(f"{at}.p", 192),
        ]
        net.branch(at, ways)
    net.branch(
        "mixed7a",
        (
            way("mixed7a.3x3", (192, 1), (320, 3), stride=2),
            way("mixed7a.7x7", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3), stride=2),
            shrunk("mixed7a.p"),
        ),
    )
    for block in "bc":
        at = f"mixed7{block}"
        ways = [
            way(f"{at}.1x1", (320, 1)),
            split(f"{at}.3x3", (384, 1)),
            split(f"{at}.double", (448, 1), (384, 3)),
            pooled(f"{at}.p", 192),
        ]
        net.branch(at, ways)
    net.pool_all("mean")
    net.linear("fc", CLASSES, "none")
    return Convnet(name, image, tuple(net.layers))


_BUILD: dict[str, tuple[Callable[[int], Convnet], int]] = {
    "resnet50": (lambda image: _resnet("ResNet-50", (3, 4, 6, 3), image), 224),
    "resnet101": (lambda image: _resnet("ResNet-101", (3, 4, 23, 3), image), 224),
    "resnet152": (lambda image: _resnet("ResNet-152", (3, 8, 36, 3), image), 224),
    "vgg16": (lambda image: _vgg16("VGG-16", image), 224),
    "inception_v3": (lambda image: _inception_v3("Inception V3", image), 299),
}
"""How each is built, and the size of the images that it was published with."""

CONVNETS = tuple(_BUILD)


def convnet(name: str, image: int | None = None) -> Convnet:
    """The network called so (`resnet50`, `ResNet-50`), on images of `image` pixels; None: those of its paper.

    SettingError for an unknown name (it lists those there are) and for images too small for its poolings.
    """
    plain = "".join(c for c in name.lower() if c.isalnum())
    found = next((known for known in CONVNETS if known.replace("_", "") == plain), None)
    if found is None:
        import difflib  # only for a message

        near = difflib.get_close_matches(name.lower(), CONVNETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingError(f"model is {name!r}; {hint}It is one of {', '.join(CONVNETS)}.")
    size = _BUILD[found][1] if image is None else image
    if not 75 <= size <= 4096:
        raise SettingError(f"image is {size}; it is a number of pixels from 75 to 4096.")
    return _built(found, size)


@cache
def _built(name: str, image: int) -> Convnet:
    return _BUILD[name][0](image)
