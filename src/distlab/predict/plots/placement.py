"""Where the kernels of a transformer layer stand under the roofline of a GPU.

A kernel of intensity I (FLOP per byte moved) reaches at most min(peak, I x bandwidth) (Williams, Waterman, Patterson,
CACM 2009). Its place here is what the step model predicts of it: products by their shape, element-wise kernels by
their bytes. FLOP per value of the element-wise kernels are counted by hand (C), bytes as in `kernels`, in 16 bits:

    norm                    mean, difference, square and sum, scale, weight and bias: 7    read and write: 4 bytes
    dropout and residual    mask, scale, add: 3                                            7 bytes, with the mask
    activation              GELU by tanh: 8 (gated: 6)                                     4 bytes (gated: 6)
    Adam                    two moments 7, root, division and update 6: 13                 64 bytes (kernels)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distlab.predict.kernels import HALF, OPTIMIZER_BYTES, Kernels, product_s
from distlab.predict.plots.chart import Chart, predicted

if TYPE_CHECKING:
    from distlab.predict.device import Device
    from distlab.predict.transformer import Layout, Transformer


@dataclass(frozen=True)
class Kernel:
    """A class of kernels: `flops` per second at `intensity` FLOP per byte."""

    name: str
    kind: str
    intensity: float
    flops: float
    flop: float = 0.0
    """Of all of its products in a layer's forward pass; 0 for what is no product."""


@dataclass(frozen=True)
class Placement(Chart):
    """The roofs of a GPU, and kernels below them. Rates in FLOP and bytes per second."""

    device: str
    peak_flops: float
    product_flops: float
    memory_Bps: float  # noqa: N815 - the unit is part of the name
    stream_Bps: float  # noqa: N815
    kernels: tuple[Kernel, ...]

    @property
    def ridge(self) -> float:
        """FLOP per byte from which on a kernel can be bound by arithmetic, of what is reached."""
        return self.product_flops / self.stream_Bps

    def attainable(self, intensity: float) -> float:
        """What the datasheet's roof allows."""
        return min(self.peak_flops, intensity * self.memory_Bps)

    def in_words(self) -> str:
        placed = "; ".join(
            f"{kernel.name} at {kernel.intensity:.3g} FLOP/B, {kernel.flops / 1e12:.3g} TFLOP/s "
            f"({kernel.flops / self.attainable(kernel.intensity):.0%} of the roof)"
            for kernel in self.kernels
        )
        return (
            f"{self.heading}. Roofs: {self.peak_flops / 1e12:.4g} TFLOP/s and {self.memory_Bps / 1e9:.4g} GB/s, of "
            f"which {self.product_flops / 1e12:.4g} and {self.stream_Bps / 1e9:.4g} are reached; ridge at "
            f"{self.ridge:.3g} FLOP/B. {placed}."
        )


def placement(
    model: Transformer, layout: Layout, device: Device, kernels: Kernels | None = None, title: str = ""
) -> Placement:
    """The forward kernels of one layer and one micro-batch on one GPU, and the optimizer."""
    kernels = Kernels() if kernels is None else kernels
    products = [
        _product(name, *shape, device, times=2 if name == "MLP up" and model.gated else 1)
        for name, shape in _shapes(model, layout).items()
    ]
    caption = (
        "Forward kernels of a layer, the output layer and the optimizer, each under the roof of what it is bound by. "
        "Dashed: datasheet; solid: what products and streams reach. Kernels at one place share a mark."
    )
    shape = f"TP {layout.tensor}, micro-batch {layout.micro_batch} x {model.sequence:,} tokens"
    return Placement(
        title or f"A layer of {model.name} under the roofline",
        caption,
        device.name,
        device.peak_flops,
        device.product_flops,
        device.memory_Bps,
        device.stream_Bps,
        (*products, *_attention(model, layout, device, kernels), *_elements(model, device)),
        about=predicted(shape, device.name),
    )


def _shapes(model: Transformer, layout: Layout) -> dict[str, tuple[float, float, float, float]]:
    """m, n, k and how many, of the products that `kernels.layer_time` adds up."""
    t = layout.tensor
    tokens = layout.micro_batch * model.sequence / layout.context
    h, d = model.hidden, model.head_width
    width, keys_values = model.heads * d / t, 2 * max(1, model.key_value_heads / t) * d
    groups = max(1.0, model.experts / layout.expert)
    routed, inner = tokens * model.active_experts / groups, model.mlp_width / t
    router = {"router": (tokens, model.experts, h, 1.0)} if model.experts > 1 else {}
    return {
        "queries, keys, values": (tokens, width + keys_values, h, 1.0),
        "attention's projection": (tokens, h, width, 1.0),
        "MLP up": (routed, inner, h, groups),
        "MLP down": (routed, h, inner, groups),
        **router,
        "output layer": (tokens, model.vocabulary / t, h, 1.0),
    }


def _product(name: str, m: float, n: float, k: float, batch: float, device: Device, times: int = 1) -> Kernel:
    flop, moved = 2 * batch * m * n * k, HALF * batch * (m * k + k * n + m * n)
    return Kernel(name, "product", flop / moved, flop / product_s(m, n, k, device, batch), times * flop)


def _attention(model: Transformer, layout: Layout, device: Device, kernels: Kernels) -> list[Kernel]:
    heads, d = model.heads / layout.tensor, model.head_width
    keys = max(1.0, model.key_value_heads / layout.tensor)
    rows, s = model.sequence / layout.context, model.sequence
    if kernels.fused_attention:  # half of the pairs; queries, keys, values in, the result out
        flop, moved = 2 * rows * s * heads * d, HALF * (2 * rows * heads * d + 2 * s * keys * d)
        whole = layout.micro_batch * flop
        return [Kernel("attention, fused", "product", flop / moved, device.product_flops, whole)]
    batch = layout.micro_batch * heads
    return [
        _product("attention's scores", rows, s, d, batch, device),
        _product("scores times values", rows, d, s, batch, device),
    ]


def _elements(model: Transformer, device: Device) -> list[Kernel]:
    activation = (6, 6) if model.gated else (8, 4)
    rows = {"norm": (7, 4), "dropout and residual": (3, 7), "activation": activation}
    found = [
        Kernel(name, "element-wise", flop / moved, flop / moved * device.element_Bps)
        for name, (flop, moved) in rows.items()
    ]
    adam = 13 / OPTIMIZER_BYTES
    return [*found, Kernel("Adam", "element-wise", adam, adam * device.stream_Bps)]
