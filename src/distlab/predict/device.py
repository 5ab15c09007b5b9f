"""The GPU that a model of a step computes on: its peaks, and what programs reach of them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A GPU as training meets it. Datasheet peaks and what is reached of them (`*_efficiency`) are apart."""

    name: str
    peak_flops: float
    """Dense FLOP per second of the products in their precision, datasheet: what MFU divides by."""
    gemm_efficiency: float
    """What a large product reaches of it, in a step and not alone in a benchmark."""
    memory_Bps: float  # noqa: N815 - the unit is part of the name
    """Datasheet."""
    stream_efficiency: float
    """What plain streams over large arrays reach of it: the optimizer."""
    element_efficiency: float
    """What element-wise kernels of a layer reach of it: norms, softmax, dropout, ReLU, additions."""
    multiprocessors: int
    memory_bytes: float = math.inf
    """What programs can have of it."""

    @property
    def product_flops(self) -> float:
        return self.peak_flops * self.gemm_efficiency

    @property
    def stream_Bps(self) -> float:  # noqa: N802
        return self.memory_Bps * self.stream_efficiency

    @property
    def element_Bps(self) -> float:  # noqa: N802
        return self.memory_Bps * self.element_efficiency
