"""Computing in 16 bits while the weights stay in 32: autocast, and the loss scale that fp16 needs.

bf16 has the exponent of fp32 and needs nothing else. fp16 has 5 exponent bits: gradients under 6e-8 vanish.
So the loss, and with it every gradient, is multiplied by a factor before the backward pass and divided by it
before the optimizer. A factor too large makes gradients infinite: then the step is left out and the factor
halved; after 2,000 good steps it is doubled (Micikevicius et al., 2018, Mixed Precision Training, section 3.2).
"""

from __future__ import annotations

import math

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

FIRST_FACTOR = 2.0**16
GOOD_STEPS = 2000


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products and convolutions in `precision`; sums and losses stay in fp32."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


class LossScale:
    """The factor on the loss; always 1 where it is not enabled."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.factor = FIRST_FACTOR if enabled else 1.0
        self.good_steps = 0

    def observe(self, norm: float) -> bool:
        """May a step with gradients of this 2-norm (over all ranks) be taken? Adapts the factor."""
        if not self.enabled:
            return True
        if not math.isfinite(norm):
            self.factor /= 2
            self.good_steps = 0
            return False
        self.good_steps += 1
        if self.good_steps == GOOD_STEPS:
            self.factor *= 2
            self.good_steps = 0
        return True
