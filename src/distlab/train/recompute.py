"""Activation checkpointing: drop what a block computed for its backward pass, and compute it again there.

- `full` keeps a block's input alone. It costs one more forward pass, a third of the arithmetic of a step
  (Chen et al., 2016, Training Deep Nets with Sublinear Memory Cost).
- `selective` also keeps what is dear to compute, the results of matrix products and attention, and recomputes
  the cheap rest (the idea of Korthikanti et al., 2022, Reducing Activation Recomputation).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from distlab.train.models import blocks

_aten = torch.ops.aten
DEAR = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
}


def recompute_activations(model: nn.Module, mode: str) -> None:
    """Make every block of the model recompute its activations (`full`, `selective`; `none`: leave it alone).

    In place; parameters keep their names.
    """
    if mode == "none":
        return
    select: dict[str, Any] = (
        {} if mode == "full" else {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
    )
    for parent, name in blocks(model):
        setattr(parent, name, checkpoint_wrapper(getattr(parent, name), **select))


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in DEAR else CheckpointPolicy.PREFER_RECOMPUTE
