"""How long one GPU works on a transformer layer: matrix products by shape, element-wise kernels by their bytes.

A product of m x k with k x n takes the longer of its arithmetic and its bytes (a roofline). The arithmetic runs at
the GPU's peak, times what large products reach of it (`Device.gemm_efficiency`), times how full the waves of tiles
are: a kernel is cut into tiles of the output, as many at a time as there are multiprocessors, and a last wave that
is half empty takes as long as a full one. Element-wise kernels (norms, dropout, GELU, softmax, additions) do hardly
any arithmetic: they take their bytes over the memory bandwidth that such kernels reach.

The bytes below are those of 16-bit training with the fused kernels of Megatron-LM (bias with GELU; bias, dropout and
residual; scale, mask and softmax), counted read by read and write by write.

Sources: Williams, Waterman, Patterson, Roofline (CACM 2009); NVIDIA, Matrix Multiplication Background User's Guide
(tiles and wave quantisation); Narayanan et al. (SC'21), section 4.2 (the fused kernels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distlab.predict.device import Device
from distlab.predict.transformer import Layout, Transformer

HALF = 2
"""Bytes of a 16-bit number."""

TILES = ((256, 128), (128, 256), (128, 128))
"""Shapes of output tiles that large 16-bit products choose among (NVIDIA, Matrix Multiplication Background)."""


@dataclass(frozen=True)
class Kernels:
    """How the layer is written."""

    fused_attention: bool = True
    """FlashAttention: scores never reach memory, and causal ones above the diagonal are left out."""
    gradient_bytes: int = 2
    """Of a gradient as it is summed up over micro-batches and over ranks."""


@dataclass(frozen=True)
class LayerTime:
    """Seconds on one GPU for one micro-batch in one layer, without communication."""

    forward_products_s: float
    forward_elements_s: float
    backward_products_s: float
    """Gradients of inputs and weights, without anything recomputed."""
    weight_products_s: float
    """The part of it that makes gradients of weights."""
    backward_elements_s: float
    attention_s: float
    """The part of the forward pass that selective recomputation does again: scores, softmax, dropout, context."""

    @property
    def forward_s(self) -> float:
        return self.forward_products_s + self.forward_elements_s

    @property
    def backward_s(self) -> float:
        return self.backward_products_s + self.backward_elements_s


def product_s(m: float, n: float, k: float, device: Device, batch: float = 1) -> float:
    """Seconds for `batch` products of m x k with k x n, in 16 bits."""
    sms = device.multiprocessors
    slots = math.inf
    for most_rows, most_columns in TILES:  # no calls in here: a search comes by a million times
        rows = m if m < most_rows else most_rows  # a thin product has thin tiles
        columns = n if n < most_columns else most_columns
        tiles = batch * -(-m // rows) * -(-n // columns)
        taken = -(-tiles // sms) * sms * rows * columns
        if taken < slots:
            slots = taken
    arithmetic_s = 2 * k * slots / device.product_flops
    memory_s = HALF * batch * (m * k + k * n + m * n) / device.stream_Bps
    return max(arithmetic_s, memory_s)


def layer_time(model: Transformer, layout: Layout, device: Device, kernels: Kernels) -> LayerTime:
    """One micro-batch in one layer, on one of the `layout.tensor` x `layout.context` GPUs that share it."""
    t = layout.tensor
    tokens = layout.micro_batch * model.sequence / layout.context
    h, d = model.hidden, model.head_width
    width, keys_values = model.heads * d / t, 2 * max(1, model.key_value_heads / t) * d
    routed = tokens * model.active_experts
    inner = model.mlp_width / t

    # Each row is a product of the forward pass: (m, n, k). The backward pass does each twice, transposed.
    experts_here = model.experts / layout.expert
    groups = max(1.0, experts_here)
    products = [(tokens, width + keys_values, h, 1.0), (tokens, h, width, 1.0)]
    products += [(routed / groups, inner, h, groups)] * (2 if model.gated else 1)
    products += [(routed / groups, h, inner, groups)]
    if model.experts > 1:
        products += [(tokens, model.experts, h, 1.0)]
    forward = inputs = weights = 0.0
    for m, n, k, batch in products:
        forward += product_s(m, n, k, device, batch)
        inputs += product_s(m, k, n, device, batch)
        weights += product_s(k, n, m, device, batch)

    scores_s, scores_backward_s, scores_bytes, scores_backward_bytes = _attention(
        model, layout, device, kernels, tokens
    )
    share = 1 / t if layout.sequence_parallel else 1.0
    elements = tokens * h
    activation = routed * inner
    read, written = (4, 2) if model.gated else (2, 2)
    dispatch = 2 * 2 * HALF * routed * h if model.experts > 1 else 0.0
    # Two norms (read, write) and two bias-dropout-residuals (read two, write one, and a byte of mask).
    outside = 2 * (2 + 2) + 2 * (2 + 2 + 2 + 1)
    # Norms read input and gradient for the gradient of the input, and again for that of the weights; the residual's
    # two gradients are added; dropout reads gradient and mask.
    outside_backward = 2 * (6 + 4 + 6) + 2 * (2 + 1 + 2)
    forward_bytes = outside * elements * share + (read + written) * activation + dispatch
    backward_bytes = outside_backward * elements * share + (2 + 2 * read) * activation + dispatch
    backward_bytes += HALF * (tokens * (width + keys_values) + activation)  # gradients of the biases
    backward_bytes += layer_gradient_bytes(model, layout, kernels)
    attention_elements_s = scores_bytes / device.element_Bps
    return LayerTime(
        forward_products_s=forward + scores_s,
        forward_elements_s=forward_bytes / device.element_Bps + attention_elements_s,
        backward_products_s=inputs + weights + scores_backward_s,
        weight_products_s=weights,
        backward_elements_s=(backward_bytes + scores_backward_bytes) / device.element_Bps,
        attention_s=scores_s + attention_elements_s,
    )


def _attention(
    model: Transformer, layout: Layout, device: Device, kernels: Kernels, tokens: float
) -> tuple[float, float, float, float]:
    """Seconds in products forward and backward, element-wise bytes forward and backward."""
    heads, d = model.heads / layout.tensor, model.head_width
    rows = tokens / layout.micro_batch
    batch = layout.micro_batch * heads
    io_bytes = 2 * HALF * tokens * heads * d  # the context, put in order for the projection
    if kernels.fused_attention:
        # Half of the pairs; the backward pass makes the scores again: 5 products where the forward pass has 2.
        # (Dao et al., FlashAttention, 2022.)
        half_s = 2 * tokens * model.sequence * heads * d / device.product_flops
        return half_s, 2.5 * half_s, io_bytes, 2 * io_bytes
    pairs = batch * rows * model.sequence
    scores_s = product_s(rows, model.sequence, d, device, batch)
    context_s = product_s(rows, d, model.sequence, device, batch)
    # Softmax reads and writes; dropout reads, writes, and writes a byte of mask. Backward, softmax reads two.
    return (
        scores_s + context_s,
        2 * (scores_s + context_s),
        (4 + 5) * pairs + io_bytes,
        (6 + 5) * pairs + 2 * io_bytes,
    )


def layer_gradient_bytes(model: Transformer, layout: Layout, kernels: Kernels) -> float:
    """Traffic of adding one micro-batch's gradients of a layer to the sum: read both, write one; write and read one."""
    experts = model.experts / layout.expert * model.expert_parameters
    parameters = (model.attention_parameters + experts) / layout.tensor
    return parameters * (2 * HALF + 2 * kernels.gradient_bytes)


def output_time(model: Transformer, layout: Layout, device: Device) -> tuple[float, float]:
    """Forward and backward seconds of the output layer and the loss, for one micro-batch."""
    tokens = layout.micro_batch * model.sequence / layout.context
    columns = model.vocabulary / layout.tensor
    forward_s = product_s(tokens, columns, model.hidden, device)
    backward_s = product_s(tokens, model.hidden, columns, device)
    backward_s += product_s(model.hidden, columns, tokens, device)
    # In 32 bits: cast, maximum, subtract, exponentiate, add up, divide; backward: scale, cast.
    logits = tokens * columns
    return (
        forward_s + (6 + 4 + 8 + 8 + 4 + 8) * logits / device.element_Bps,
        backward_s + (8 + 6) * logits / device.element_Bps,
    )


OPTIMIZER_BYTES = 64
"""Per parameter and step of mixed-precision Adam as Megatron-LM did it in 2021, kernel by kernel: gradient to 32 bits
(6), unscale and look for infinities (8), norm (4), clip (8), Adam (reads 16, writes 12), weight to 16 bits (6),
gradient to zero (4)."""


def optimizer_s(parameters: float, device: Device) -> float:
    """Seconds for the optimizer's step over `parameters` on one GPU: memory-bound."""
    return OPTIMIZER_BYTES * parameters / device.stream_Bps
