"""The summands of a training step's memory on one rank, each with a sentence on how it comes about.

Working buffers (kinds `buffers` and `loss`, but for what is kept of the loss) are derived here (C), from what each
operation must hold at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from distlab.predict.activations import InFlight, LayerActivations, tokens, weight_gradient_bytes
from distlab.predict.states import MemorySettings, RankStates, local_key_value_heads
from distlab.predict.transformer import Layout, Transformer

Kind = Literal["states", "activations", "loss", "buffers"]


class Term(NamedTuple):
    """One summand, in words that say how it comes about."""

    name: str
    kind: Kind
    bytes: float
    why: str


Terms = tuple[Term, ...]

_ZERO_WHY = {
    0: "whole on every data-parallel rank",
    1: "ZeRO 1 shares out the optimizer's states alone",
    2: "ZeRO 2 shares out optimizer's states and gradients",
    3: "ZeRO 3 shares out all: a shard of each",
}


def state_terms(layout: Layout, settings: MemorySettings, held: RankStates) -> tuple[Terms, Terms, Terms]:
    """What is held all through a step, the gradients, and what lies in the host's memory."""
    why = _ZERO_WHY[layout.zero_stage]
    parameters = Term("parameters", "states", held.parameter_bytes, why)
    gradients = Term("gradients", "states", held.gradient_bytes, why)
    optimizer = (
        Term("fp32 copy of the parameters", "states", held.master_bytes, why),
        Term("optimizer's moments", "states", held.moment_bytes, why),
    )
    if settings.offload == "all":
        return (), (), (parameters, gradients, *optimizer)
    if settings.offload == "optimizer":
        return (parameters,), (), (gradients, *optimizer)
    copies: Terms = ()
    if settings.bucket_copies and layout.zero_stage == 0 and layout.data * layout.context > 1:
        copies = (
            Term("buckets", "buffers", held.gradient_bytes, "DDP's own copy of what it sums over the ranks"),
        )
    return (parameters, *optimizer, *copies), (gradients,), ()


def whole_terms(
    layout: Layout, settings: MemorySettings, held: RankStates, layers: int
) -> tuple[Terms, Terms]:
    """Weights made whole to compute with, and gradients that are whole until they are shared out or sent to the host.

    A unit of stage 3 is a layer; the rest (embedding, output layer) is one more, whole from the forward pass to the end
    of the backward pass, as with FSDP's root. Each is in the precision of the products. Beside a layer's gradients
    FSDP has their fp32 copy that is summed, where the shards are in fp32.
    """
    e = settings.bytes
    copies = layout.data * layout.context
    weights: Terms = ()
    gradients: Terms = ()
    if layout.zero_stage == 3 and (copies > 1 or settings.offload == "all"):
        whole = held.layer_parameters * min(layers, 1 + settings.prefetch)
        rest = held.other_parameters * e.activation
        weights = (
            Term(
                "gathered layers",
                "buffers",
                whole * e.activation,
                "the layer at work, and those gathered ahead",
            ),
            Term(
                "gathered rest", "buffers", rest, "embedding and output layer, kept from forward to backward"
            ),
        )
        gradients = (Term("whole gradients of the rest", "buffers", rest, "until the backward pass ends"),)
    elif e.copy:
        copy = e.copy * held.parameters
        weights = (Term("16-bit copies of the weights", "buffers", copy, "autocast's, until backward ends"),)
    if (layout.zero_stage >= 2 and copies > 1) or settings.offload != "none":
        each = e.activation + (e.gradient if e.gradient > e.activation and e.copy else 0)
        whole = held.layer_parameters * each
        gradients += (
            Term("whole gradients of a layer", "buffers", whole, "until they are summed and shared out"),
        )
    return weights, gradients


def activation_terms(
    model: Transformer,
    layout: Layout,
    settings: MemorySettings,
    layer: LayerActivations,
    kept: InFlight,
    rank: int,
    ending: bool = False,
) -> Terms:
    """What is kept for the backward pass: of all chunks in flight, or when it ends in the last layer of one of them."""
    layers = (kept.chunks - 1) * kept.chunk_layers + 1 if ending else kept.layers
    batches = kept.batches - 1 if ending else kept.batches
    selective, full = layout.recompute == "selective", layout.recompute == "full"
    terms = [Term("layer inputs", "activations", layers * layer.inputs, _LAYER_WHY)]
    if not full:
        terms += [
            Term("norms", "activations", layers * layer.norms, "results of both norms, input of the second"),
            Term(
                "attention", "activations", layers * layer.attention, "queries, keys, values and the result"
            ),
            Term("MLP", "activations", layers * layer.mlp, "before and after the nonlinearity"),
            Term("dropout masks", "activations", layers * layer.masks, "a byte for each value"),
            Term("routing", "activations", layers * layer.routing, "tokens to and from their experts"),
        ]
        if not selective:
            scores = layers * layer.scores
            terms.append(Term("attention scores", "activations", scores, "a value for each pair of tokens"))
    if kept.weight_chunks:
        waiting = kept.weight_chunks * kept.chunk_layers * weight_gradient_bytes(model, layout, settings)
        terms.append(Term("waiting for weights' gradients", "activations", waiting, "ZB-H1 puts these off"))
    whole = tokens(model, layout) * model.hidden / (layout.tensor if layout.sequence_parallel else 1)
    if rank == 0 and settings.dropout:
        terms.append(
            Term("embedding's dropout mask", "activations", kept.batches * whole, "a byte for each value")
        )
    if rank == layout.pipeline - 1:
        ends = (2 if settings.fused_kernels else 3) * settings.bytes.activation * batches * whole
        terms.append(Term("final norm", "activations", ends, "its input and its result"))
    return tuple(terms)


_LAYER_WHY = "micro-batches in flight, times layers"


class LossTerms(NamedTuple):
    """While the loss is computed, while its gradient is, and in the layers' backward pass."""

    forward: Terms
    backward: Terms
    waiting: Terms
    """Of other micro-batches, while this one's backward pass is in the layers."""


NO_LOSS = LossTerms((), (), ())


def loss_terms(model: Transformer, layout: Layout, settings: MemorySettings, kept: InFlight) -> LossTerms:
    """Buffers of tokens times V/t values: 4 bytes of each are kept (Korthikanti et al., section 4.3: 4 s b v / t).

    While it computes, in place: the logits as the product gave them, beside the fp32 ones; backwards their gradient.
    torch: beside logits and result (kept) the fp32 logits; backwards two gradients in fp32 beside what is kept.
    """
    values = tokens(model, layout) * -(-model.vocabulary // layout.tensor)
    e = settings.bytes.activation
    cast = e if e < 4 else 0
    forward, backward = (cast + 4, 8) if settings.loss == "torch" else (cast, cast)
    why = "fp32, for each micro-batch in flight"
    kept_term = Term("softmax of the logits", "loss", 4 * kept.batches * values, why)
    waiting = kept_term._replace(bytes=4 * (kept.batches - 1) * values)
    return LossTerms(
        (kept_term, Term("logits", "loss", forward * values, "while the loss is computed")),
        (kept_term, Term("gradient of the logits", "loss", backward * values, "while it is handed back")),
        (waiting,),
    )


def work_terms(
    model: Transformer, layout: Layout, settings: MemorySettings, layer: LayerActivations
) -> Terms:
    """While one layer's backward pass runs: what is computed again, and gradients of activations."""
    n, t, e = tokens(model, layout), layout.tensor, settings.bytes.activation
    again = layer.total - layer.kept(layout.recompute)
    whole = n * model.hidden / (t if layout.sequence_parallel else 1)
    wide = n * model.active_experts * model.mlp_width / t * (3 if model.gated else 2)
    scores = 2 * n * model.heads / t * model.sequence if settings.attention == "scores" else 0
    terms = [
        Term("recomputed layer", "buffers", again, "one layer's activations, made again"),
        Term(
            "gradients of activations", "buffers", e * (whole + max(wide, scores)), "the widest operation's"
        ),
    ]
    if layout.sequence_parallel and t > 1:
        terms.append(
            Term("gathered sequence", "buffers", e * n * model.hidden, "the inputs of matrices, whole")
        )
    if layout.context > 1:  # one block of keys and values on the way (Liu et al., 2023, Ring Attention)
        keys = 2 * local_key_value_heads(model, layout) * model.head_width
        terms.append(Term("ring attention", "buffers", e * n * keys, "the next rank's keys and values"))
    return tuple(terms)


def update_terms(settings: MemorySettings, held: RankStates) -> Terms:
    """torch's foreach updates hold one more copy of the parameters (torch.optim's documentation; V, 2026-11)."""
    if settings.fused_optimizer or settings.offload != "none":
        return ()
    copy = held.master_bytes or held.parameter_bytes
    return (Term("foreach's intermediates", "buffers", copy, "one copy of the shards that it updates"),)
