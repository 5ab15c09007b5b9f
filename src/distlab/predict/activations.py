"""What a layer keeps for its backward pass, and how many layers' worth a pipeline rank keeps at a time.

The terms are those of Korthikanti et al. (2022, arXiv 2205.05198, section 4), taken apart so that they hold for grouped
queries, gated MLPs, flash attention, experts and any width: with GPT's (dropout, scores kept, 4h, a head's width h/a)
they add up to the paper's sbh (34 + 5 a s/h), over t: table 2. Norm, GELU, SwiGLU and softmax are one kernel each,
which keeps its input or its result, not more; rotary positions turn in place.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from distlab.predict.states import MemorySettings, local_key_value_heads
from distlab.predict.transformer import Layout, Recompute, Transformer


class LayerActivations(NamedTuple):
    """Bytes of one layer and one micro-batch on one rank."""

    inputs: float
    """What enters the layer: the one thing that full recomputation keeps."""
    norms: float
    """The second norm's input and what both norms give to the matrices (and normalised ones, if not fused). A norm that
    works in fp32 on 16-bit inputs keeps fp32 copies of these."""
    attention: float
    """Queries, keys, values and the attention's result; of flash attention also the logarithms of the sums."""
    scores: float
    """Softmax, its dropout and that one's mask: what selective recomputation drops."""
    mlp: float
    """What enters the nonlinearity, and what leaves it."""
    masks: float
    """Of the dropouts after attention and MLP."""
    routing: float
    """Tokens on the way to and from their experts, and the router's probabilities."""

    @property
    def total(self) -> float:
        return self.inputs + self.norms + self.attention + self.scores + self.mlp + self.masks + self.routing

    def kept(self, recompute: Recompute) -> float:
        """Until the backward pass."""
        if recompute == "full":
            return self.inputs
        return self.total - (self.scores if recompute == "selective" else 0)


def tokens(model: Transformer, layout: Layout) -> float:
    """Of a micro-batch on a rank: b s, over the context-parallel ranks."""
    return layout.micro_batch * model.sequence / layout.context


def stream_values(model: Transformer, layout: Layout) -> float:
    """Of a tensor between the layers, on a rank: b s h, split by sequences alone."""
    return tokens(model, layout) * model.hidden / (layout.tensor if layout.sequence_parallel else 1)


def layer_activations(model: Transformer, layout: Layout, settings: MemorySettings) -> LayerActivations:
    """Experts: tokens are dealt out evenly, so that a rank sees `active_experts` of its own tokens' worth."""
    n, t, e = tokens(model, layout), layout.tensor, settings.bytes.activation
    whole = stream_values(model, layout)
    heads, width = model.heads / t, model.head_width
    keys = local_key_value_heads(model, layout)
    extra = 0 if settings.fused_kernels else 1
    attention = e * n * width * ((2 + extra) * heads + 2 * keys)
    if settings.attention == "flash":
        scores = 0.0
        attention += 4 * n * heads
    else:
        kept = 2 * e + 1 if settings.dropout else e
        scores = kept * n * heads * model.sequence
    visits = model.active_experts
    wide = 3 if model.gated else 2
    routing = 0.0
    if model.experts > 1:
        routing = 2 * e * visits * whole + 2 * 4 * n * model.experts / (t if layout.sequence_parallel else 1)
    stream, normed = settings.stream_bytes(layout), settings.norm_bytes(layout)
    copies = 3 + (2 if model.gated else 1) if settings.autocasts(layout) else 2
    return LayerActivations(
        inputs=stream * whole,
        norms=(2 * normed - stream + copies * e + 2 * extra * normed) * whole,
        attention=attention,
        scores=scores,
        mlp=e * n * visits * wide * model.mlp_width / t,
        masks=2 * whole if settings.dropout else 0.0,
        routing=routing,
    )


def weight_gradient_bytes(model: Transformer, layout: Layout, settings: MemorySettings) -> float:
    """What one layer keeps for its weights' gradients once those of its inputs are done: the inputs of the matrices and
    the gradients of their results. 32 sbh for GPT without parallelism (Qi et al., 2023, arXiv 2401.10241, table 1; R).
    """
    n, t, e = tokens(model, layout), layout.tensor, settings.bytes.activation
    whole = stream_values(model, layout)
    wide = (3 if model.gated else 2) * model.active_experts * model.mlp_width / t
    heads = 2 * model.heads / t + 2 * local_key_value_heads(model, layout)
    return e * (4 * whole + n * heads * model.head_width + n * wide)


class InFlight(NamedTuple):
    """What a pipeline rank keeps at its fullest, in micro-batches of a chunk of `chunk_layers` layers."""

    chunk_layers: int
    chunks: int
    """Forward done, backward not."""
    batches: int
    """Micro-batches of which it keeps what is beside the layers: of the embedding, or of the loss."""
    weight_chunks: int = 0
    """Zero-bubble alone: the inputs' gradients done, the weights' not."""

    @property
    def layers(self) -> int:
        return self.chunks * self.chunk_layers


def in_flight(layout: Layout, layers: int, rank: int) -> InFlight:
    """Of pipeline rank `rank` (0 is the first), with m micro-batches; without a pipeline it is one at a time.

    - gpipe: all m (Huang et al., 2019)
    - 1f1b: p - rank, at most m (Narayanan et al., SC'21)
    - interleaved, which is 1f1b with `interleave` above 1: 2 (p - rank - 1) + (v - 1) p + 1 chunks of l / (p v) layers;
      on rank 0 that makes the l (1 + (p - 1)/(p v)) layers of Korthikanti et al., section 4.2.3
    - zero_bubble: ZB-H1 (Qi et al., 2023): p - rank whole ones and `rank` that wait for their weights' gradients. Its
      rank 0 holds what 1F1B's does. (ZB-H2, without any bubble, needs up to 2p - 1.)
    """
    p, v, m = layout.pipeline, layout.interleave, layout.micro_batches
    if p == 1:
        return InFlight(layers, 1, 1)
    if layout.schedule == "gpipe":
        return InFlight(layers // (p * v), m * v, m)
    whole = min(m, p - rank)
    if layout.schedule == "zero_bubble":
        return InFlight(layers // p, whole, whole, min(rank, m - whole))
    if v == 1:
        return InFlight(layers // p, whole, whole)
    warm = 2 * (p - rank - 1) + 1
    return InFlight(layers // (p * v), min(m * v, warm + (v - 1) * p), min(m, warm))


def relative_activations(model: Transformer, layout: Layout, settings: MemorySettings) -> float:
    """What layers keep, over what they keep with tensor parallelism alone and no recomputation: the figure 7 of
    Korthikanti et al., whose whole is their equation 2."""
    bare = replace(layout, recompute="none", sequence_parallel=False)
    kept = layer_activations(model, layout, settings).kept(layout.recompute)
    return kept / layer_activations(model, bare, settings).kept("none")
